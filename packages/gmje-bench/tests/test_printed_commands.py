"""The commands that the documentation prints, run as they are printed; options are added that make them small."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dataset_factories import folder_of

from gmje_bench import cli
from gmje_bench.cli import main
from gmje_bench.runs import METRICS, read_results
from gmje_bench.suites import load_suite
from gmje_bench.tasks import TASKS

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "packages/gmje-bench/README.md", ROOT / "benchmarks/README.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
COMMAND = re.compile(r"(?:torchrun|accelerate launch|python) (?:[^`\n#]* )?-m gmje_bench [^`\n#]+")
COMMANDS = sorted({match.strip() for page in PAGES for match in COMMAND.findall(page.read_text())})
LAUNCHED = [command for command in COMMANDS if not command.startswith("python ") or "--processes" in command]
SMALL_IMAGES = ["--limit", "150", "--epochs", "1", "--batch-size", "50", "--tasks", "knn", "--seeds", "0"]
SMALL_PAIRS = ["--limit", "100", "--epochs", "1", "--tasks", "crossing", "--methods", "gje", "--seeds", "0"]


@pytest.fixture
def folder(small, tmp_path, monkeypatch):
    """A working directory with what the commands name: runs, a published model, images, embeddings, examples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    options = [*SMALL_IMAGES[:-1], "0,1", "--methods", "gje,simclr"]
    assert main(["run", "--suite", "smoke", *options, "--jobs", "1", "--output", "RUN"]) == 0
    shutil.copytree("RUN", "OTHER")
    shutil.copytree("RUN", "runs/NAME")
    shutil.copytree("RUN/models/gje-seed0", "published")
    np.save("embeddings.npy", np.random.default_rng(0).normal(size=(300, 8)))
    for part, count in (("train", 80), ("val", 10)):
        folder_of(tmp_path / "FOLDER" / part, {"ant": count, "bee": count})
    monkeypatch.setenv("GMJE_DATA", str(tmp_path / "data"))
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    tasks, metrics = dict(TASKS), dict(METRICS)
    yield tmp_path
    for registry, before in ((TASKS, tasks), (METRICS, metrics)):  # A task file stays registered.
        registry.clear()
        registry.update(before)


def test_there_are_commands():
    assert len(COMMANDS) > 10
    assert any(command.startswith("torchrun") for command in LAUNCHED)
    assert any(command.startswith("accelerate launch") for command in LAUNCHED)


def small_options(words: list[str]) -> list[str]:
    """What is added to a command so that it takes seconds; of an option that is given twice, the last one counts."""
    if "evaluate" in words:
        return ["--limit", "150", "--no-cache"]
    if "run" not in words:
        return []
    if "--suite" in words and load_suite(words[words.index("--suite") + 1]).dataset is None:
        return [*SMALL_PAIRS, "--jobs", "1", "--output", "out"]
    methods = [] if "--methods" in words else ["--methods", "random,gje"]
    return [*SMALL_IMAGES, *methods, "--jobs", "1", "--output", "out"]


def test_the_commands_of_this_process(folder, monkeypatch, capsys):
    for command in sorted(COMMANDS, key=lambda command: " shards " not in command):  # Others read what it writes.
        if command in LAUNCHED:
            continue
        # Pushing to a Hub and fetching from it are tested over HTTP elsewhere; here a folder stands for the model.
        if "--publish" in command:
            monkeypatch.setattr(cli, "_check_publish", lambda repo_id, license: None)
            command += " --dry-run"
        words = shlex.split(command.replace("--from-pretrained org/name", "--from-pretrained published"))
        shutil.rmtree("out", ignore_errors=True)
        status = main([*words[words.index("gmje_bench") + 1 :], *small_options(words)])
        assert status == 0, f"{command}: {capsys.readouterr().err}"


@pytest.mark.parametrize("command", LAUNCHED)
def test_the_commands_that_launch_processes(command, tmp_path):
    """On a machine without a GPU, and without a hint to Accelerate that it has none."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE_")}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    words = shlex.split(command)
    more = ["--output", "out"] if words[0] == "torchrun" else small_options(words)
    done = subprocess.run(
        [*words, *more], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "out")
    processes = int(words[words.index("--processes") + 1]) if "--processes" in words else 1
    assert results.world_size == processes
    assert results.failed() == []


def test_processes_that_are_not_there_are_named_with_a_command_that_starts_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    asked = ["run", "--suite", "smoke", "--limit", "150", "--batch-size", "50", "--processes", "3"]
    assert main([*asked, "--output", str(tmp_path / "out")]) == 2
    assert "python -m gmje_bench run --processes 3" in capsys.readouterr().err
