"""Processes that a run starts itself: one line after a mistake, its exit status, and signals that reach all of them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from gmje_bench import launching
from gmje_bench.launching import start_processes
from gmje_bench.runs import read_results

RUN = [sys.executable, "-m", "gmje_bench", "run", "--suite", "smoke", "--methods", "gje", "--tasks", "knn"]


def python(text: str) -> list[str]:
    return [sys.executable, "-c", f"import os, signal, sys, time; rank = int(os.environ['RANK']); {text}"]


@pytest.fixture
def alone():
    """An environment in which nothing was launched."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE_")}
    for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        kept.pop(key, None)
    return kept | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def test_each_process_knows_its_place_and_all_one_port(capfd, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    names = "('LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')"
    # One write a process, so that lines do not mix.
    text = f"os.write(1, (' '.join([str(rank), *(os.environ[name] for name in {names})]) + '\\n').encode())"
    assert start_processes(python(text), 3) == 0
    lines = sorted(line.split() for line in capfd.readouterr().out.splitlines())
    assert [line[:5] for line in lines] == [[str(rank), str(rank), "3", "3", "127.0.0.1"] for rank in range(3)]
    assert len({line[5] for line in lines}) == 1


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("sys.exit(0)", 0),
        ("sys.exit(3 if rank == 1 else 0)", 3),
        ("os.kill(os.getpid(), signal.SIGKILL) if rank == 0 else None", 128 + signal.SIGKILL),
    ],
)
def test_the_status_is_that_of_the_process_that_failed(text, status):
    assert start_processes(python(text), 2) == status


@pytest.mark.parametrize("prelude", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN); "])
def test_the_others_end_after_one_has_failed(monkeypatch, prelude):
    monkeypatch.setattr(launching, "_GRACE", 0.5)
    start = time.monotonic()
    assert start_processes(python(prelude + "sys.exit(2) if rank == 1 else time.sleep(100)"), 2) == 2
    assert time.monotonic() - start < 60


def test_a_mistake_that_the_processes_find_is_one_line_and_its_status(alone, tmp_path):
    words = [*RUN, "--processes", "2", "--limit", "100", "--output", str(tmp_path / "run")]
    done = subprocess.run(words, env=alone, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "larger than the 100 training images" in done.stderr


def test_a_stopped_run_of_two_processes_goes_on(alone, tmp_path):
    folder = tmp_path / "run"
    words = [*RUN, "--processes", "2", "--limit", "256", "--epochs", "12", "--output", str(folder)]
    started = subprocess.Popen(words, env=alone, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert started.stderr is not None
    for line in started.stderr:
        if "epoch 2/12" in line:
            started.send_signal(signal.SIGINT)
            break
    said = started.stderr.read()
    assert started.wait(120) == 130
    assert said.count("--resume goes on") == 1
    assert "Traceback" not in said
    assert list((folder / "checkpoints").iterdir())
    done = subprocess.run([*words, "--resume"], env=alone, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "epoch 2/12" not in done.stderr, "it does not begin again"
    results = read_results(folder)
    assert (results.world_size, [record.status for record in results.records]) == (2, ["ok"])
    assert len(results.records[0].history) == 12
