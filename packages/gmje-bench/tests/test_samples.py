"""Training on shards in real processes: killed in the middle of a shard and resumed, on one and on two processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dataset_factories import rows, samples, table, tar_of

pytestmark = pytest.mark.xdist_group("processes")

WORKER = Path(__file__).with_name("sample_worker.py")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
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


def start(data, kind, folder, workers=0, kill_at=0, launcher=()):
    folder.mkdir(exist_ok=True)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "GMJE_DATA": str(data / "cache"),
    }
    command = [sys.executable, *launcher, str(WORKER), f"shards:{data / kind}", str(folder), str(workers), str(kill_at)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == (-signal.SIGKILL if kill_at else 0), done.stderr
    return folder


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
def whole(data, tmp_path_factory):
    """Runs of one process that were left alone."""
    return {kind: start(data, kind, tmp_path_factory.mktemp("whole") / kind) for kind in ("tar", "parquet")}


@pytest.mark.parametrize(("kind", "workers"), [("tar", 1), ("parquet", 0), ("parquet", 2)])
def test_killed_and_resumed_every_image_is_seen_once(data, whole, kind, workers, tmp_path):
    folder = tmp_path / "cut"
    start(data, kind, folder, workers, kill_at=3)
    assert not (folder / "result.json").exists()
    start(data, kind, folder, workers)
    found, times = seen(folder)
    assert set(found) == {(epoch, step) for epoch in range(EPOCHS) for step in range(STEPS)}
    for epoch in range(EPOCHS):
        images = [image for step in range(STEPS) for image in found[epoch, step]]
        assert sorted(images) == list(range(COUNT))
    assert found == seen(whole[kind])[0], "the same steps as without a stop"
    assert sorted(times.values()) == [1] * 9 + [2], "only the step whose checkpoint was not written yet ran again"
    assert (folder / "result.json").read_bytes() == (whole[kind] / "result.json").read_bytes()


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_two_processes_see_the_images_of_one(data, whole, kind, tmp_path):
    folder = start(data, kind, tmp_path / "two", workers=1, launcher=TWO)
    assert seen(folder)[0] == seen(whole[kind])[0]
    one, two = (json.loads((f / "result.json").read_text()) for f in (whole[kind], folder))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-3)
