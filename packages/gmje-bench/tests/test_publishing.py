"""What a run says of its models, and a run published to a Hub over real HTTP and evaluated again: the same numbers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from gmje_bench.publishing import calibration_of, evaluation_of, write_evaluations
from gmje_bench.report import summarise
from gmje_bench.runs import Record, Results
from gmje_core import GMJEConfig, Preprocessing
from gmje_hub import GMJEModel
from gmje_hub.card import EVAL_RESULTS, documents, is_generated
from gmje_hub.evaluation import Evaluation, read_evaluation
from gmje_hub.folder import README

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


def record(seed: int, probe: float, method: str = "gmje", **changes: Any) -> Record:
    values: dict[str, Any] = {
        "status": "ok",
        "metrics": {"linear_probe": probe, "knn": probe - 5, "conditional_ece": 0.25},
        "history": [{"loss": -1.0}, {"loss": -2.5, "effective_rank": 80.25, "verdict": "healthy", "advice": "none"}],
    }
    return Record(method=method, seed=seed, **values | changes)


def failed(seed: int) -> Record:
    return record(seed, 0.0, status="failed", metrics={}, error="DivergedError: the loss\nis NaN")


@pytest.fixture
def three_seeds(make_results: Callable[..., Results]) -> Results:
    """Results of a method with three seeds, and of another one."""
    results = make_results(record(0, 86.0), record(1, 85.0), record(2, 87.0), record(0, 1.0, method="gje"))
    results.options |= {"limit": None, "seeds": [0, 1, 2]}
    results.options["training"] |= {"optimizer": "adamw", "learning_rate": 0.002, "views": "standard"}
    return results


def evaluate(results: Results, seed: int = 1, method: str = "gmje") -> Evaluation:
    (found,) = (r for r in results.records if (r.method, r.seed) == (method, seed))
    (row,) = (row for row in summarise(results) if row.method == method)
    return evaluation_of(results, found, row)


def test_an_evaluation_has_the_numbers_of_the_tables(three_seeds):
    evaluation = evaluate(three_seeds)
    assert (evaluation.method, evaluation.seed, evaluation.seeds, evaluation.note) == ("gmje", 1, 3, "")
    scores = {score.metric: score for score in evaluation.scores}
    assert list(scores) == ["linear_probe", "knn", "conditional_ece"]
    estimates = next(row.estimates for row in summarise(three_seeds) if row.method == "gmje")
    for key, score in scores.items():
        assert (score.mean, score.half_width) == estimates[key]
        assert score.value == three_seeds.records[1].metrics[key]
        assert score.higher_is_better == three_seeds.metrics[key].higher_is_better
        assert score.title == three_seeds.metrics[key].title
    # Half-width of the Student t interval of 86 ± 1 over three seeds: 4.303 / sqrt(3).
    assert scores["linear_probe"].interval == "86.0 ± 2.5"
    assert {key: score.kind for key, score in scores.items()} == {
        "linear_probe": "accuracy",
        "knn": "accuracy",
        "conditional_ece": "",
    }
    assert evaluation.diagnostics == {"effective_rank": 80.25, "loss": -2.5, "verdict": "healthy"}
    assert evaluation.training == {"epochs": 2, "batch size": 256, "optimizer": "adamw", "learning rate": 0.002}
    assert evaluation.protocol == "gmje-bench protocol version 1"


def test_the_calibration_is_that_of_the_artifacts(three_seeds, tmp_path):
    found = three_seeds.records[1]
    assert calibration_of(tmp_path, found) is None
    levels = torch.arange(1, 20) / 20
    curve = torch.stack([levels, 0.5 * levels, levels, levels], dim=1)
    save_file(
        {
            "uncertainty.reliability.conditional.learned": curve,
            "uncertainty.hpd_histogram.learned": torch.full((20,), 15.0),
        },
        tmp_path / "a.safetensors",
    )
    found.artifacts = "a.safetensors"
    found.choices = {"conditional_factor": 1.1}
    calibration = calibration_of(tmp_path, found)
    assert (calibration.level, calibration.pairs, calibration.error, calibration.factor) == (0.9, 300, 0.25, 1.1)
    assert calibration.coverage == pytest.approx(0.45)
    (row,) = (row for row in summarise(three_seeds) if row.method == "gmje")
    assert evaluation_of(three_seeds, found, row, calibration).calibration == calibration


def test_data_without_some_classes_are_not_the_hubs(three_seeds):
    three_seeds.dataset.name = "cifar10"
    assert evaluate(three_seeds).dataset.hub_id == "uoft-cs/cifar10"
    three_seeds.options["held_out_classes"] = ["cat"]
    assert evaluate(three_seeds).dataset.hub_id == ""


def test_one_seed_has_no_interval(three_seeds):
    three_seeds.records, three_seeds.options["seeds"] = three_seeds.records[:1], [0]
    evaluation = evaluate(three_seeds, seed=0)
    assert (evaluation.seeds, evaluation.note) == (1, "")
    assert {score.interval for score in evaluation.scores} == {""}


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ([failed(2)], "failed (seed 2): DivergedError: the loss is NaN"),
        ([], "not finished (seed 2)"),
    ],
)
def test_a_part_of_the_seeds_has_no_mean(three_seeds, last, words):
    three_seeds.records[2:] = last
    evaluation = evaluate(three_seeds)
    assert evaluation.seeds == 1
    assert all(score.mean is None and score.half_width is None for score in evaluation.scores)
    assert evaluation.scores[0].value == 85.0
    assert evaluation.note == f"There is no mean over seeds: gmje {words}"


@pytest.mark.parametrize(
    ("name", "limit", "expected"),
    [
        ("hf:org/data", None, "org/data"),
        ("cifar10", None, "uoft-cs/cifar10"),
        ("cifar10", 1000, ""),
        ("hf:org/data", 1000, ""),
        ("imagefolder:/home/me/my images", None, ""),
    ],
)
def test_only_a_whole_dataset_has_its_name_on_the_hub(three_seeds, name, limit, expected):
    three_seeds.dataset.name, three_seeds.options["limit"] = name, limit
    assert evaluate(three_seeds).dataset.hub_id == expected


@pytest.mark.parametrize("options", ["--output /home/me/runs/x", "--output=/home/me/x --overwrite", "--publish a/b"])
def test_no_folder_of_the_trainers_machine_is_published(three_seeds, options):
    data = "imagefolder:/home/me/my images"
    three_seeds.command = f"python -m gmje_bench run {options} --epochs 2 --dataset '{data}'"
    three_seeds.dataset.name = data
    found = documents(GMJEConfig(), "org/name", None, evaluate(three_seeds))
    assert "python -m gmje_bench run --epochs 2 --dataset 'imagefolder:my images'\n" in found[README].decode()
    assert found[EVAL_RESULTS] is None
    assert not any(b"home" in content for content in found.values() if content)


def test_text_of_several_lines_becomes_one(three_seeds):
    three_seeds.command, three_seeds.dataset.name = "python -m gmje_bench run --dataset 'a\nb'", "a\nb"
    evaluation = evaluate(three_seeds)
    assert (evaluation.command, evaluation.dataset.name) == ("python -m gmje_bench run --dataset 'a b'", "a b")


def test_evaluations_lie_beside_the_models_that_can_be_loaded(three_seeds, tmp_path):
    three_seeds.records.append(failed(3))
    for name in ("gmje-seed0", "gmje-seed1", "gmje-seed3"):
        GMJEModel(GMJEConfig(backbone="smallconv", dim=8, hidden=16)).save_pretrained(tmp_path / "models" / name)
    (tmp_path / "models" / "gje-seed0").mkdir()
    write_evaluations(tmp_path, three_seeds)
    written = sorted(path.parent.parent.name for path in tmp_path.rglob("scores.json"))
    assert written == ["gmje-seed0", "gmje-seed1"]
    evaluation, pictures = read_evaluation(tmp_path / "models" / "gmje-seed1")
    assert evaluation == evaluate(three_seeds)
    assert pictures == {}
    card = (tmp_path / "models" / "gmje-seed1" / README).read_text()
    assert is_generated(card)
    assert "## Results\n\nTrained and measured on" in card


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
    done = bench(hub, home, *OPTIONS, "--output", "run", "--publish", "org/toy", "--license", "mit")
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
    assert f"| linear probe [%] ↑ | {probe:.4g} |" in card
    assert "model-index:" in card
    assert "--suite tiny.toml" in card


def test_a_model_folder_alone_makes_the_same_card(hub, trained):
    for seed_folder in (trained / "run" / "models").iterdir():
        assert (seed_folder / "evaluation" / "scores.json").exists() == (seed_folder / "config.json").exists()
    files = hub.repos["org/toy-gmje"].commits[hub.head("org/toy-gmje")]
    evaluation, pictures = read_evaluation(trained / "run" / "models" / "gmje-seed0")
    config = GMJEConfig.from_json(files["config.json"].content.decode())
    preprocessing = Preprocessing.from_json(files["preprocessor_config.json"].content.decode())
    expected = documents(config, "org/toy-gmje", preprocessing, evaluation, pictures, {"license": "mit"})
    assert set(pictures) == {"accuracy.png", "diagnostics.png"}
    assert expected.pop(EVAL_RESULTS) is None, "the Hub does not have these images"
    assert {name: files[name].content for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "token", "words"),
    [
        (("--publish", "nothing"), "good", "org/name"),
        (("--publish", "org/toy"), "wrong", "does not know the token"),
        (("--publish", "org/toy", "--license", "My own"), "good", "'My own' is no licence of the Hub"),
        (("--license", "mit"), "good", "--license is of what --publish publishes"),
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
    fault = hub.fail("POST", "/commit/", status=500)
    try:
        done = bench(hub, trained, *OPTIONS, "--methods", "gje", "--output", "kept", "--publish", "org/kept")
    finally:
        hub.faults.remove(fault)
    assert done.returncode == 2
    assert "python -m gmje_hub push org/kept kept/models/gje-seed0" in done.stderr
    assert "gje" in records(trained / "kept")
