"""Readers of files: what they read depends neither on their number nor on where an epoch was stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from dataset_factories import folder_of

from gmje_bench.datasets import load_dataset, reading
from gmje_bench.datasets.order import EpochOrder
from gmje_bench.datasets.prefetch import ahead, on_device
from gmje_bench.views import TwoViews, preset

VIEWS = TwoViews(preset(100, 3), seed=4)


@pytest.fixture
def split(tmp_path, monkeypatch):
    """Images of a folder that are decoded when they are asked for, three at a time."""
    monkeypatch.setattr(reading, "_PIECE", 3)
    folder_of(tmp_path / "train", {"ant": 11, "bee": 10}, size=(130, 110), suffix="jpg")
    folder_of(tmp_path / "val", {"ant": 2, "bee": 2}, size=(130, 110), suffix="jpg")
    return load_dataset(f"imagefolder:{tmp_path}", image_size=100).train


def epoch(split, workers=0, **changes):
    """Views, labels and indices of the steps of an epoch."""
    order = EpochOrder(**{"seed": 1, "epoch": 2, "steps": 2, "batch_size": 8} | changes)
    read = enumerate(split.epoch(order, VIEWS, workers), order.first_step)
    return [(*VIEWS(cut, **order.place(step)), labels, indices) for step, (cut, labels, indices) in read]


def same(got, expected):
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_readers_give_what_this_process_reads(split, workers):
    alone = epoch(split)
    assert [tuple(context.shape) for context, *_ in alone] == [(8, 3, 100, 100)] * 2
    for _ in range(2):
        for got, expected in zip(epoch(split, workers), alone, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert not torch.equal(epoch(split, workers, epoch=3)[0][0], alone[0][0])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_epoch_goes_on_with_the_same_views(split, workers):
    same(epoch(split, workers, first_step=1), epoch(split)[1:])


def test_two_processes_split_what_one_reads(split):
    shares = [epoch(split, rank=rank, world_size=2) for rank in range(2)]
    joined = [tuple(torch.cat(pair) for pair in zip(*parts, strict=True)) for parts in zip(*shares, strict=True)]
    same(joined, epoch(split))


def test_an_epoch_that_was_left_does_not_disturb_the_next(split):
    order = EpochOrder(seed=1, epoch=0, steps=2, batch_size=8)
    left = split.epoch(order, VIEWS, 1)
    next(left)
    same(epoch(split, 1), epoch(split))
    with pytest.raises(RuntimeError, match="asked for again"):
        list(left)


def test_squares_and_views_come_from_the_same_readers(split):
    (squares, *_), *_ = split.batches(torch.arange(8).split(8), 1)
    assert torch.equal(squares, split.batch(torch.arange(8)))
    (views, *_), *_ = split.epoch(EpochOrder(seed=1, epoch=0, steps=1, batch_size=8), VIEWS, 1)
    assert views.shape == (2, 8, 3, 100, 100)


@pytest.mark.parametrize("size", [1, 3, 4, 9])
def test_pieces_make_batches_of_any_size(split, size):
    batches = list(torch.arange(21).split(size))
    for (images, _, indices), wanted in zip(split.batches(batches), batches, strict=True):
        assert torch.equal(indices, wanted)
        assert torch.equal(images, split.batch(wanted))


def test_readers_are_as_many_as_a_process_has_cores_to_spare(monkeypatch):
    for cores, local, expected in [(1, 1, 0), (2, 1, 1), (96, 8, 11), (64, 1, 16), (8, 16, 0)]:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
        assert reading.default_workers() == expected


def test_data_in_memory_gives_images_whatever_is_drawn():
    split = load_dataset("embedded", limit=40).train
    order = EpochOrder(seed=0, epoch=0, steps=1, batch_size=8)
    ((images, _, indices),) = split.epoch(order, TwoViews(preset(28, 1), 0), None)
    assert torch.equal(images, split.batch(indices))


def test_batches_come_to_a_device_in_order():
    batches = [(torch.tensor([float(i)]),) for i in range(5)]
    assert [float(x) for (x,) in on_device(iter(batches), torch.device("cpu"))] == [0, 1, 2, 3, 4]


def test_a_thread_ahead_raises_what_it_meets_after_what_came_before():
    def items():
        yield 1
        raise ValueError("broken")

    results = ahead(items(), lambda number: 2 * number)
    assert next(results) == 2
    with pytest.raises(ValueError, match="broken"):
        next(results)


def test_a_thread_ahead_takes_few_items_and_ends_when_it_is_left():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    results = ahead(items(), lambda number: number)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    time.sleep(0.05)
    results.close()
    assert len(taken) <= 3 + 3


STOPPED = """
import sys
import time
import torch
from gmje_bench.datasets import load_dataset, reading
from gmje_bench.training.interrupts import Interrupts

leave_group = reading._leave_group

def leave_late(number):
    time.sleep(number)  # The second reader is still about to start when the signal comes.
    leave_group(number)

reading._leave_group = leave_late
split = load_dataset(f"imagefolder:{sys.argv[1]}", image_size=100).train
with Interrupts() as interrupts, interrupts.deferred():
    loader, _ = reading._readers(split.source, 2)
    if sys.argv[2] == "starting":
        print(*(worker.pid for worker in loader._iterator._workers), flush=True)
    read = split.batches(torch.arange(15).repeat(2000).split(1), 2)
    next(read)
    if sys.argv[2] == "reading":
        print(*(worker.pid for worker in loader._iterator._workers), flush=True)
    for _ in read:
        if interrupts.pending:
            break
    for _ in range(40):  # Training goes on to the end of its step.
        next(read)
print("went on", flush=True)
"""


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux which processes there are")
@pytest.mark.parametrize(
    ("number", "when"), [(signal.SIGINT, "starting"), (signal.SIGTERM, "starting"), (signal.SIGKILL, "reading")]
)
def test_no_reader_outlives_the_process_that_trains(tmp_path, number, when):
    """Ctrl-C goes to all processes of a terminal, and the end of a job to all of its; being killed, to one."""
    folder_of(tmp_path / "train", {"ant": 8, "bee": 7}, size=(130, 110))
    folder_of(tmp_path / "val", {"ant": 2, "bee": 2}, size=(130, 110))
    command = [sys.executable, "-W", "ignore", "-c", STOPPED, str(tmp_path), when]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **streams) as run:
        readers = [int(pid) for pid in run.stdout.readline().split()]
        assert len(readers) == 2
        assert all(alive(pid) for pid in readers)
        (os.kill if number == signal.SIGKILL else os.killpg)(run.pid, number)
        said, wrong = run.communicate(timeout=120)
    if number != signal.SIGKILL:
        assert (said, wrong, run.returncode) == ("went on\n", "", 0)
    end = time.monotonic() + 60
    while any(alive(pid) for pid in readers) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in readers)
