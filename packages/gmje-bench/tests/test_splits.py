"""What tasks on views see of large datasets: a bounded, balanced draw that all processes embed, and shared pairs."""

import pytest
import torch
from torch import nn

import gmje_bench
from gmje_bench.cli import main
from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.base import ResidentImages, Split
from gmje_bench.datasets.selection import drawn_rows
from gmje_bench.evaluation import models
from gmje_bench.evaluation import pairs as pairs_module
from gmje_bench.evaluation.features import reduced_images
from gmje_bench.evaluation.pairs import PairsOf
from gmje_bench.evaluation.splits import viewed, viewed_splits
from gmje_bench.protocol import PROTOCOL
from gmje_bench.runs import read_results
from gmje_bench.suites import load_suite
from gmje_bench.training.module import build_module

CPU = torch.device("cpu")
TASKS = ["knn", "linear_probe", "uncertainty"]


@pytest.fixture(scope="module")
def data():
    return load_dataset("fashion_mnist_12k", limit=400)


@pytest.fixture
def capped(monkeypatch):
    monkeypatch.setitem(PROTOCOL.__dict__, "viewed_train", 150)
    monkeypatch.setitem(PROTOCOL.__dict__, "viewed_test", 30)


class Counting(nn.Module):
    """A linear network that counts the images that pass it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.seen = nn.Sequential(nn.Flatten(), nn.Linear(784, 12)), 0

    def forward(self, images):
        self.seen += len(images)
        return self.layers(images)


def test_a_draw_is_balanced_mixed_and_a_function_of_the_seed():
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 3)
    rows = drawn_rows(labels, 30)
    assert labels[rows].bincount().tolist() == [14, 13, 3], "a small class gives all that it has"
    assert len(rows.unique()) == 30
    assert len(labels[rows][:10].unique()) > 1, "the first rows are not of one class"
    assert torch.equal(rows, drawn_rows(labels, 30))
    assert not torch.equal(rows, drawn_rows(labels, 30, seed=1))


def test_small_splits_are_seen_whole_and_in_their_order_unless_it_is_that_of_classes():
    mixed, in_order = torch.tensor([2, 0, 1, 0]), torch.tensor([0, 0, 1, 2])
    assert drawn_rows(mixed, 4) is None
    assert drawn_rows(mixed, 3) is not None
    assert sorted(drawn_rows(in_order, 4).tolist()) == [0, 1, 2, 3]


def test_tasks_on_features_see_all_images_and_those_on_views_a_draw(data, capped):
    only_features = gmje_bench.evaluate(network := Counting(), data, TASKS[:2], keep=False)
    assert network.seen == len(data.train) + len(data.test)
    both = gmje_bench.evaluate(network := Counting(), data, TASKS, keep=False)
    outliers = sum(len(split) for name, split in viewed_splits(data).items() if name not in ("train", "test"))
    # A viewed image passes as it is and in two views, and its features are taken again from the whole split.
    assert network.seen == len(data.train) + len(data.test) + 3 * (150 + 30 + outliers)
    for name in ("knn", "linear_probe", "effective_rank"):
        assert both.metrics[name] == only_features.metrics[name]
    assert both.artifacts["uncertainty.risk_coverage.softmax"].shape == (30, 2)
    assert both.artifacts["latent.label"].shape == (30,)


def test_the_probe_speaks_of_the_images_that_are_seen(data, monkeypatch):
    """The risk over all seen images is the error of the probe among them, whatever their order."""
    whole = gmje_bench.evaluate(Counting(), data, TASKS, keep=False)
    monkeypatch.setitem(PROTOCOL.__dict__, "viewed_test", len(data.test) - 1)
    less = gmje_bench.evaluate(Counting(), data, TASKS, keep=False)
    wrong = [
        round(float(found.artifacts["uncertainty.risk_coverage.softmax"][-1, 1]) * count)
        for found, count in ((whole, len(data.test)), (less, len(data.test) - 1))
    ]
    assert wrong[0] == round((1 - whole.metrics["linear_probe"] / 100) * len(data.test))
    assert wrong[1] in (wrong[0], wrong[0] - 1)


def test_the_cache_holds_both_draws_and_whole_splits(data, capped, tmp_path, monkeypatch):
    plain = models.of_callable
    # A model with a name, whose embeddings are kept.
    monkeypatch.setattr(models, "of_callable", lambda *given: plain(*given)._replace(source="sha256:counting"))
    first = gmje_bench.evaluate(network := Counting(), data, TASKS, cache=tmp_path)
    seen = network.seen
    again = gmje_bench.evaluate(network, data, TASKS, cache=tmp_path)
    assert gmje_bench.evaluate(network, data, TASKS[:1], cache=tmp_path).metrics["knn"] == first.metrics["knn"]
    assert network.seen == seen
    assert again.metrics == first.metrics


def test_pairs_are_of_the_draw_and_embedded_once(data, capped, monkeypatch):
    module = build_module("gje", load_suite("smoke"), data.channels, seed=0)
    held = PairsOf(module, data, seed=0, device=CPU)
    found = held.pairs
    assert len(found.context) == 4 * 135
    assert len(found.validation[0]) == 4 * 15
    calls = []
    monkeypatch.setattr(pairs_module, "embed_views", lambda *_, **__: calls.append(1))
    assert held.pairs is found
    assert not calls


def test_many_images_give_fewer_pairs_each(data, capped, monkeypatch):
    monkeypatch.setitem(PROTOCOL.__dict__, "consolidation_pairs", 450)
    found = PairsOf(build_module("gje", load_suite("smoke"), data.channels, seed=0), data, seed=0, device=CPU).pairs
    assert found.passes == 3
    assert len(found.context) == 3 * 135


def test_a_run_embeds_its_training_pairs_once_and_an_evaluation_finds_the_same_numbers(tmp_path, monkeypatch, small):
    calls, embed = [], pairs_module.embed_views
    monkeypatch.setattr(pairs_module, "embed_views", lambda *args, **how: calls.append(1) or embed(*args, **how))
    options = ["--suite", "smoke", "--limit", "256", "--methods", "gje", "--epochs", "1", "--tasks", "density"]
    assert main(["run", *options, "--output", str(tmp_path / "run")]) == 0
    assert len(calls) == PROTOCOL.consolidation_passes
    data = load_dataset("fashion_mnist_12k", limit=256)
    found = gmje_bench.evaluate(tmp_path / "run" / "models" / "gje-seed0", data, ["density"], keep=False)
    assert len(calls) == 2 * PROTOCOL.consolidation_passes, "an evaluation has no closing stage to take them from"
    (record,) = read_results(tmp_path / "run").records
    assert found.metrics == record.metrics


def test_pictures_are_those_that_one_process_reads():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (520, 1, 40, 40), dtype=torch.uint8, generator=generator)
    split = Split.whole(ResidentImages(images), torch.zeros(520, dtype=torch.int64))
    assert torch.equal(reduced_images(split, 32, device=CPU), split.reduced(32))


def test_images_of_a_draw_are_read_at_their_own_places(data, capped):
    seen = viewed(data, "test")
    assert torch.equal(seen.split.batch(torch.arange(30)), data.test.batch(seen.rows))
    assert torch.equal(seen.of(data.test.labels), seen.split.labels)
