"""The closing stage of training, on its own and in a run that is stopped in it."""

import json

import pytest
import torch
from safetensors.torch import load_file

from gmje_bench.cli import main
from gmje_bench.datasets import load_dataset
from gmje_bench.engine import trial
from gmje_bench.evaluation.pairs import PairsOf
from gmje_bench.runs import read_results
from gmje_bench.suites import load_suite
from gmje_bench.training.consolidation import consolidate, needs_consolidation
from gmje_bench.training.interrupts import Interrupted
from gmje_bench.training.module import JointEmbedding, build_module
from gmje_core.densities.scaled import ScaledJointMixture

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return load_dataset("fashion_mnist_12k", limit=200)


def module_of(method, data):
    return build_module(method, load_suite("smoke"), data.channels, seed=0)


def consolidated(module, data, seed):
    return consolidate(module, PairsOf(module, data, seed, CPU).pairs, seed=seed)


def test_only_criteria_with_room_are_consolidated(data):
    assert needs_consolidation(module_of("gmje", data))
    for method in ("gje-batch", "simclr", "random"):
        assert not needs_consolidation(module_of(method, data)), method


def test_it_depends_on_the_training_images_alone(data):
    first, second = (module_of("gje", data) for _ in range(2))
    fit = consolidated(first, data, 0)
    consolidated(second, data, 0)
    assert isinstance(first.density(), ScaledJointMixture)
    assert fit.validation_log_prob < fit.log_prob, "images that were set aside are harder than those fitted to"
    for key, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], value), key
    other = module_of("gje", data)
    consolidated(other, data, 1)
    assert not torch.equal(other.criterion.consolidated.gain, first.criterion.consolidated.gain)


def test_a_run_that_is_stopped_while_it_consolidates_goes_on_to_the_last_bit(tmp_path, monkeypatch):
    options = ["--suite", "smoke", "--limit", "256", "--methods", "gmje", "--epochs", "1"]
    main(["run", *options, "--output", str(tmp_path / "whole")])

    def stopped(*_, **__):
        raise Interrupted(15)

    with monkeypatch.context() as patch:
        patch.setattr(trial, "consolidate", stopped)
        assert main(["run", *options, "--output", str(tmp_path / "cut")]) == 143
    assert list((tmp_path / "cut" / "checkpoints").iterdir()), "training is not done again"
    main(["run", *options, "--output", str(tmp_path / "cut"), "--resume"])
    whole, cut = (load_file(tmp_path / name / "models/gmje-seed0/model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert "criterion.consolidated.gain" in whole
    choices = [
        json.loads((tmp_path / name / "results.json").read_text())["records"][0]["choices"] for name in ("whole", "cut")
    ]
    assert choices[0] == choices[1]
    assert {"consolidated_components", "consolidated_shrinkage"} <= choices[0].keys()
    for key, value in whole.items():
        assert torch.equal(cut[key], value), key


@pytest.mark.parametrize("always", [True, False], ids=["in training too", "when evaluated"])
def test_embeddings_that_are_all_the_same_leave_a_method_without_a_density(always, tmp_path, monkeypatch, capsys):
    embed = JointEmbedding.embed

    def constant(module, images):
        z = embed(module, images)
        return 0 * z + 0.25 if always or not module.training else z

    monkeypatch.setattr(JointEmbedding, "embed", constant)
    options = ["--suite", "smoke", "--limit", "256", "--methods", "gmje,simclr", "--epochs", "1"]
    options += ["--tasks", "linear_probe,uncertainty,knn"]
    assert main(["run", *options, "--output", str(tmp_path)]) == 0
    for record in read_results(tmp_path).records:
        assert (record.status, record.verdict) == ("ok", "complete collapse"), record.error
        assert record.advice.count("There is no density") == 1
        assert "the same" in record.advice
        assert {"linear_probe", "knn", "effective_rank"} <= record.metrics.keys()
        assert not {"aurc", "aurc_fitted", "aurc_softmax"} & record.metrics.keys()
        assert {"pretrain", "linear_probe", "knn"} <= record.seconds.keys()
        saved = sorted(path.name for path in (tmp_path / "models" / f"{record.method}-seed0").iterdir())
        assert saved == ["model.safetensors"], "a model that says it has a density has one"
    assert main(["report", str(tmp_path)]) == 0
    assert "There is no density" in (tmp_path / "report.html").read_text()
