"""A run published to a Hub over real HTTP, and evaluated again from there: the same numbers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("publish")

SERVER = Path(__file__).parents[2] / "gmje-hub" / "tests" / "hub_server.py"
OPTIONS = ("run", "--suite", "tiny.toml")
SUITE = """
summary = "small enough to be published in seconds"
dataset = "fashion_mnist_12k"
limit = 300
methods = ["gmje", "gje", "simclr"]
seeds = [0]
network = { backbone = "smallconv", small_images = true, hidden = 16, dim = 8 }
training = { epochs = 1, batch_size = 100, warmup_steps = 1 }
method.gmje.components = 8
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Any]:
    spec = spec_from_file_location("hub_server", SERVER)
    assert spec
    assert spec.loader
    module = sys.modules["hub_server"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    hub = module.Hub()
    yield hub
    hub.close()


def bench(hub: Any, home: Path, *arguments: str, token: str = "good") -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    command = [sys.executable, "-m", "gmje_bench", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=home)


def records(folder: Path) -> dict[str, dict[str, float]]:
    results = json.loads((folder / "results.json").read_text())
    return {record["method"]: record["metrics"] for record in results["records"]}


@pytest.fixture(scope="module")
def trained(hub: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "tiny.toml").write_text(SUITE)
    done = bench(hub, home, *OPTIONS, "--output", "run", "--publish", "org/toy")
    assert done.returncode == 0, done.stderr
    assert "published gmje as org/toy-gmje" in done.stdout
    assert "published gje as org/toy-gje" in done.stdout
    assert "simclr as" not in done.stdout
    return home


def test_a_published_model_is_measured_the_same(hub, trained):
    names = ["--from-pretrained", "org/toy-gmje", "--from-pretrained", "run/models/gje-seed0"]
    done = bench(hub, trained, *OPTIONS, *names, "--seeds", "0,1", "--output", "again")
    assert done.returncode == 0, done.stderr
    assert "one model, measured once" in done.stderr
    first, again = records(trained / "run"), records(trained / "again")
    assert again["org--toy-gmje"] == first["gmje"]
    assert again["gje-seed0"] == first["gje"]
    assert set(again) == {"org--toy-gmje", "gje-seed0"}
    results = json.loads((trained / "again" / "results.json").read_text())
    assert [(r["seed"], r["verdict"]) for r in results["records"]] == [(0, "pretrained")] * 2
    table = (trained / "again" / "results.md").read_text()
    assert "pretrained" in table
    assert "±" not in table.split("mean ±")[0]
    sources = results["sources"]
    assert sources["org--toy-gmje"] == f"org/toy-gmje@{hub.head('org/toy-gmje')}"
    assert sources["gje-seed0"].startswith("sha256:")


def test_the_card_has_the_run(hub, trained):
    card = hub.repos["org/toy-gmje"].commits[hub.head("org/toy-gmje")]["README.md"].content.decode()
    probe = records(trained / "run")["gmje"]["linear_probe"]
    assert f"| linear probe [%] | {probe:.1f} | {probe:.4g} |" in card
    assert "model-index:" in card
    assert "--suite tiny.toml" in card


@pytest.mark.parametrize(
    ("arguments", "token", "words"),
    [
        (("--publish", "nothing"), "good", "org/name"),
        (("--publish", "org/toy"), "wrong", "does not know the token"),
        (("--from-pretrained", "org/nme"), "good", "no repository 'org/nme'"),
        (("--from-pretrained", "org/toy-gmje", "--image-size", "32"), "good", "add --image-size 28"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(hub, trained, arguments, token, words):
    done = bench(hub, trained, *OPTIONS, *arguments, "--output", "wrong", token=token)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1
    assert not (trained / "wrong").exists()


def test_results_are_kept_where_the_hub_fails(hub, trained):
    fault = sys.modules["hub_server"].Fault("POST", "/commit/", status=500)
    hub.faults.append(fault)
    try:
        done = bench(hub, trained, *OPTIONS, "--methods", "gje", "--output", "kept", "--publish", "org/kept")
    finally:
        hub.faults.remove(fault)
    assert done.returncode == 2
    assert "python -m gmje_hub push kept/models/gje-seed0 org/kept" in done.stderr
    assert "gje" in records(trained / "kept")
