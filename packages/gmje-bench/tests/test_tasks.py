"""The tasks against their definitions, and the schedule of pretraining."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks import TASKS, named
from gmje_bench.tasks.knn import weighted_knn
from gmje_bench.tasks.probe import fit_probe
from gmje_bench.tasks.rows import Rows
from gmje_bench.tasks.subject import Features, FeatureSubject
from gmje_bench.training.pretrain import learning_rate

CPU = torch.device("cpu")


def blobs(n: int, seed: int, classes: int = 4, dim: int = 6):
    g = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, dim, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(n) % classes
    return centers[labels] + 0.9 * torch.randn(n, dim, generator=g), labels


def test_weighted_knn_against_numpy():
    (train, y), (test, truth) = blobs(300, 0), blobs(120, 1)
    unit = [v.numpy() / np.linalg.norm(v.numpy(), axis=1, keepdims=True) for v in (train, test)]
    cosine = unit[1] @ unit[0].T
    nearest = np.argsort(-cosine, axis=1)[:, : PROTOCOL.knn_k]
    votes = np.zeros((120, 4))
    for i, row in enumerate(nearest):
        np.add.at(votes[i], y.numpy()[row], np.exp(cosine[i, row] / PROTOCOL.knn_temperature))
    expected = 100 * np.mean(votes.argmax(1) == truth.numpy())
    assert weighted_knn(Rows.of(train), y, Rows.of(test), truth, 4, CPU)[0] == pytest.approx(expected)
    assert 50 < expected < 99, "neither trivial nor hopeless"


def test_linear_probe_is_the_chosen_logistic_regression():
    (train, y), (test, truth) = blobs(400, 0), blobs(200, 1)
    probe = fit_probe(Rows.of(train), y, Rows.of(test), truth, CPU)
    assert probe.c in PROTOCOL.probe_c
    mean, std = train.double().mean(0), train.double().std(0, correction=0)
    x, x_test = ((v.double() - mean) / std for v in (train, test))
    reference = LogisticRegression(C=probe.c, max_iter=1000).fit(x.numpy(), y.numpy())
    assert probe.accuracy == pytest.approx(100 * reference.score(x_test.numpy(), truth.numpy()))


def test_linear_probe_does_not_choose_on_test():
    (train, y), (test, truth) = blobs(400, 0), blobs(200, 1)
    shuffled = truth[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    honest, other = (
        fit_probe(Rows.of(train), y, Rows.of(test), truth, CPU),
        fit_probe(Rows.of(train), y, Rows.of(test), shuffled, CPU),
    )
    assert (honest.c, honest.validation_accuracy) == (other.c, other.validation_accuracy)


def test_learning_rate_warms_up_and_falls_along_a_cosine():
    rates = [learning_rate(step, 100, 0.5, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == rates[10] == 0.5
    assert rates[55] == pytest.approx(0.25)
    assert rates[99] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_what_a_run_shares_is_made_once_for_all_methods():
    of_run, made = {}, []
    features, labels = blobs(60, 0)
    part = Features(labels, features)
    for method in ("gmje", "simclr"):
        subject = FeatureSubject(method, 0, ("a", "b", "c", "d"), part, part, of_run=of_run)
        assert subject.shared("list", lambda: made.append(1) or made) is made
        assert subject.probe is subject.probe, "fitted once"
    assert made == [1]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_is_where_the_registry_says(task):
    assert callable(task.load())
    assert not task.section or callable(named(task.section))
    assert bool(task.title) == bool(task.section)
