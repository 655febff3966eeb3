"""Cards: made of a run's results, read back by the Hub's own classes, and sealed."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from gmje_core import GMJEConfig, Preprocessing
from gmje_hub import CorruptModelError, GMJEModel, ModelNotFoundError
from gmje_hub.card import EVAL_RESULTS, FIGURES, README, documents, is_generated, model_card, read_evaluation


@pytest.fixture
def run(make_run, tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_a_card_of_three_seeds(run):
    card = model_card(GMJEConfig(), "org/name", None, read_evaluation(run, "gmje", 1))
    # Half-width of the t interval of 86 ± 1 over three seeds: 4.303 / sqrt(3).
    assert "| linear probe [%] | 86.0 ± 2.5 | 85 |" in card
    assert "| kNN \\| weighted [%] | 81.0 ± 2.5 | 80 |" in card
    assert "| effective_rank | 80.25 |" in card
    assert "OOD" not in card
    assert "over 3 seeds; these are the weights of seed 1" in card
    assert "python -m gmje_bench run" in card


def test_the_hub_reads_its_metadata(run):
    parsed = ModelCard(model_card(GMJEConfig(), "org/name", None, read_evaluation(run, "gmje", 1)))
    assert parsed.data.license == "apache-2.0"
    found = {result.metric_name: result.metric_value for result in parsed.data.eval_results}
    assert found == {"linear probe accuracy [%]": 85.0, "kNN | weighted accuracy [%]": 80.0}
    assert {result.dataset_type for result in parsed.data.eval_results} == {"gmje-bench/fashion"}
    assert {result.dataset_name for result in parsed.data.eval_results} == {"fashion"}


def test_one_seed_has_no_interval(run, make_run, results):
    make_run(run, records=results["records"][:1])
    card = model_card(GMJEConfig(), "org/name", None, read_evaluation(run, "gmje", 0))
    assert "these numbers have no interval" in card
    assert "±" not in card


def test_results_for_machines_are_the_hubs_entries(run):
    found = documents(GMJEConfig(), "org/name", None, read_evaluation(run, "gmje", 1))
    assert yaml.safe_load(found[EVAL_RESULTS]) == [
        {
            "dataset": {"id": "gmje-bench/fashion", "task_id": task},
            "value": value,
            "date": "2026-01-01T00:00:00+00:00",
            "notes": "gmje-bench protocol version 2; seed 1; 2 test images of the data with SHA-256 ab12",
        }
        for task, value in (("linear_probe", 85.0), ("knn", 80.0))
    ]


@pytest.mark.parametrize(
    ("name", "limit", "expected"),
    [
        ("hf:org/data", None, "org/data"),
        ("cifar10", None, "uoft-cs/cifar10"),
        ("cifar10", 1000, "gmje-bench/cifar10"),
        ("hf:org/data", 1000, "gmje-bench/hf-org-data"),
        ("imagefolder:/home/me/my images", None, "gmje-bench/imagefolder-my-images"),
    ],
)
def test_only_a_whole_dataset_has_its_name_on_the_hub(run, make_run, results, name, limit, expected):
    changes = {"dataset": results["dataset"] | {"name": name}, "options": results["options"] | {"limit": limit}}
    assert read_evaluation(make_run(run, **changes), "gmje", 1).dataset_id == expected


@pytest.mark.parametrize("options", ["--output /home/me/runs/x", "--output=/home/me/x --overwrite", "--publish a/b"])
def test_no_folder_of_the_trainers_machine_is_published(run, make_run, results, options):
    data = "imagefolder:/home/me/my images"
    command = f"python -m gmje_bench run {options} --epochs 2 --dataset '{data}'"
    make_run(run, command=command, dataset=results["dataset"] | {"name": data})
    found = documents(GMJEConfig(), "org/name", None, read_evaluation(run, "gmje", 1))
    assert "python -m gmje_bench run --epochs 2 --dataset 'imagefolder:my images'\n" in found[README].decode()
    assert not any(b"home" in content for content in found.values())


def test_figures_go_with_the_card(run):
    found = documents(GMJEConfig(), "org/name", None, read_evaluation(run, "gmje", 1))
    for name in FIGURES:
        assert found[name] == (run / name).read_bytes()
        assert f"]({name})" in found[README].decode()
    (run / "accuracy.png").unlink()
    found = documents(GMJEConfig(), "org/name", None, read_evaluation(run, "gmje", 1))
    assert found["accuracy.png"] is None
    assert "accuracy.png" not in found[README].decode()


@pytest.mark.parametrize("damage", [lambda png: png[:-4], lambda png: b"GIF89a" + png, lambda png: b""])
def test_a_figure_that_is_none_is_named(run, damage):
    (run / "accuracy.png").write_bytes(damage((run / "accuracy.png").read_bytes()))
    with pytest.raises(CorruptModelError, match=r"accuracy\.png is not a whole PNG file"):
        read_evaluation(run, "gmje", 1)


def test_how_to_use_it_runs_as_printed(tmp_path):
    config = GMJEConfig(backbone="smallconv", image_size=32, dim=8, hidden=16, criterion_options={"components": 4})
    preprocessing = Preprocessing(size=32, image_mean=(0.5,) * 3, image_std=(0.25,) * 3)
    for known in (preprocessing, None):
        model = GMJEModel(config, known)
        model(*torch.rand(2, 32, 3, 32, 32))
        model.save_pretrained(tmp_path / "model")
        (code,) = re.findall(r"```python\n(.*?)```", model_card(config, "org/name", known), re.DOTALL)
        exec(code.replace('"org/name"', repr(str(tmp_path / "model"))), namespace := {})
        assert namespace["x"].shape == (4, 3, 32, 32)


def test_without_results_the_card_says_so():
    assert "Nothing was measured" in model_card(GMJEConfig(), "org/name")


@pytest.mark.parametrize("change", [lambda c: c + " ", lambda c: c.replace("# org", "# my"), lambda c: "# Mine\n"])
def test_a_changed_card_is_not_generated(change):
    card = model_card(GMJEConfig(), "org/name")
    assert is_generated(card)
    assert not is_generated(change(card))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 1}, "schema version 1"),
        ({"records": None}, "not a run's results"),
        ({"dataset": None}, "not a run's results"),
        ({"metrics": {"linear_probe": {}}}, "not a run's results"),
    ],
)
def test_results_that_are_not_are_named(run, make_run, change, words):
    make_run(run, **change)
    with pytest.raises(CorruptModelError, match=words):
        read_evaluation(run, "gmje", 1)


@pytest.mark.parametrize(("method", "seed"), [("gmje", 3), ("gmje", 9), ("simclr", 0)])
def test_a_method_without_a_result_is_named(run, method, seed):
    with pytest.raises(ModelNotFoundError, match=f"no result of {method} with seed {seed}"):
        read_evaluation(run, method, seed)
