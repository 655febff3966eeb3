"""Training on shards in real processes: killed in the middle of a shard and resumed, on one and on two processes."""

import json
import multiprocessing
import signal
import socket

import pytest
import sample_worker
from dataset_factories import rows, samples, table, tar_of

pytestmark = pytest.mark.xdist_group("processes")

COUNT, EPOCHS, STEPS = 40, 2, 5
LARGE = (120, 100)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Tar and Parquet shards of the same images; the middle of an epoch is in the middle of a shard."""
    folder = tmp_path_factory.mktemp("data")
    for number, (start, end) in enumerate(((0, 13), (13, 27), (27, 40))):
        tar_of(folder / "tar" / f"train-{number}.tar", samples(end - start, size=LARGE, start=start))
        (folder / "parquet").mkdir(exist_ok=True)
        made = table(rows(end - start, size=LARGE, start=start))
        made.to_parquet(folder / "parquet" / f"train-{number}.parquet", batch_size=4)
    tar_of(folder / "tar" / "val.tar", samples(3, size=LARGE, start=90))
    table(rows(3, size=LARGE, start=90)).to_parquet(folder / "parquet" / "val.parquet")
    return folder


@pytest.fixture(scope="module")
def start(data):
    """Starts training in processes of their own, which a server forks that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sample_worker", "datasets", "pyarrow.parquet"])

    def run(kind, folder, workers=0, kill_at=0, processes=1):
        folder.mkdir(exist_ok=True)
        environment = {"ACCELERATE_USE_CPU": "true", "GMJE_DATA": str(data / "cache")}
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        started = []
        for rank in range(processes):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            own = environment | (address | place if processes > 1 else {})
            arguments = f"shards:{data / kind}", folder, own, workers, kill_at
            started.append(context.Process(target=sample_worker.train, args=arguments))
            started[-1].start()
        for process in started:
            process.join(600)
            assert process.exitcode == (-signal.SIGKILL if kill_at else 0)
        return folder

    return run


def seen(folder):
    """The images of every step, by epoch and step: those of the processes one after the other, and how often it ran."""
    found, times = {}, {}
    for log in sorted(folder.glob("seen-*.jsonl")):
        own = {}
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            place = entry["epoch"], entry["step"]
            assert own.setdefault(place, entry["images"]) == entry["images"], "a step that is repeated is the same"
            times[log.name, place] = times.get((log.name, place), 0) + 1
        for place, images in own.items():
            found[place] = found.get(place, []) + images
    return found, times


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """Runs of one process that were left alone."""
    return {kind: start(kind, tmp_path_factory.mktemp("whole") / kind) for kind in ("tar", "parquet")}


@pytest.mark.parametrize(("kind", "workers"), [("tar", 1), ("parquet", 0), ("parquet", 2)])
def test_killed_and_resumed_every_image_is_seen_once(start, whole, kind, workers, tmp_path):
    folder = tmp_path / "cut"
    start(kind, folder, workers, kill_at=3)
    assert not (folder / "result.json").exists()
    start(kind, folder, workers)
    found, times = seen(folder)
    assert set(found) == {(epoch, step) for epoch in range(EPOCHS) for step in range(STEPS)}
    for epoch in range(EPOCHS):
        images = [image for step in range(STEPS) for image in found[epoch, step]]
        assert sorted(images) == list(range(COUNT))
    assert found == seen(whole[kind])[0], "the same steps as without a stop"
    assert sorted(times.values()) == [1] * 9 + [2], "only the step whose checkpoint was not written yet ran again"
    assert (folder / "result.json").read_bytes() == (whole[kind] / "result.json").read_bytes()


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_two_processes_see_the_images_of_one(start, whole, kind, tmp_path):
    folder = start(kind, tmp_path / "two", workers=1, processes=2)
    assert seen(folder)[0] == seen(whole[kind])[0]
