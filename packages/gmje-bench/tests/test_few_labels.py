"""Probes with few labels: what is drawn, and that strengths are chosen within it."""

import pytest
import torch

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.few_labels import chosen_strength, draw, few_labels, folds_of, spanned
from gmje_bench.tasks.logistic import fit_path
from gmje_bench.tasks.rows import Rows
from gmje_bench.tasks.subject import Features, FeatureSubject


def blobs(count, seed, noise=1.5):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=g)
    return noise * torch.randn(count, 12, generator=g) + 2 * torch.eye(4, 12)[labels], labels


def test_a_draw_has_its_share_of_every_class():
    labels = torch.randint(5, (5000,), generator=torch.Generator().manual_seed(0)) ** 2
    first, second = draw(labels, 0.01, 0), draw(labels, 0.01, 1)
    expected = {int(c): round(0.01 * int((labels == c).sum())) for c in labels.unique()}
    assert {int(c): int((labels[first] == c).sum()) for c in labels[first].unique()} == expected
    assert len(first.unique()) == len(first)
    assert not torch.equal(first, second)
    assert torch.equal(first, draw(labels, 0.01, 0))


def test_rare_classes_have_two_images_or_all():
    labels = torch.cat([torch.zeros(1000), torch.ones(3), torch.full((1,), 2)]).long()
    assert labels[draw(labels, 0.01, 0)].bincount().tolist() == [10, 2, 1]


def test_folds_are_stratified():
    labels = torch.arange(60) % 4
    folds = folds_of(labels)
    for fold in range(5):
        assert labels[folds == fold].bincount().tolist() == [3] * 4


def test_more_labels_are_better_and_the_test_labels_choose_nothing():
    (x, y), (z, truth) = blobs(2000, 0), blobs(500, 1)
    classes = ("a", "b", "c", "d")
    honest = few_labels(FeatureSubject("gje", 0, classes, Features(y, x), Features(truth, z)))
    assert 25 < honest.metrics["few_labels_1"] < honest.metrics["few_labels_10"] < 100
    other = few_labels(FeatureSubject("simclr", 1, classes, Features(y, x), Features(truth.flip(0), z)))
    assert other.choices["few_labels_1_c"] == honest.choices["few_labels_1_c"]
    assert other.metrics["few_labels_10"] < 40


def test_fewer_rows_than_features_have_the_same_classifier_in_the_space_they_span():
    x, y = blobs(40, 0)
    g = torch.Generator().manual_seed(2)
    x = 0.3 * x.double() @ torch.randn(12, 64, dtype=torch.float64, generator=g)
    x[1] = x[0]  # They span less than their number, too.
    few, basis = spanned(Rows.of(x).take(torch.arange(40), replicated=True))
    assert few.whole().shape == (40, 40)
    torch.testing.assert_close(few.whole() @ basis.T, x)
    (expected,) = fit_path(Rows.of(x), y, 4, [0.1], tolerance=1e-12)
    (found,) = fit_path(few, y, 4, [0.1], tolerance=1e-12)
    torch.testing.assert_close(found.along(basis).coefficients, expected.coefficients, rtol=1e-4, atol=1e-5)
    many = Rows.of(torch.randn(40, 12))
    assert spanned(many) == (many, None)


def test_noise_asks_for_strong_regularisation_and_clear_classes_for_less():
    strengths = [chosen_strength(Rows.of(x), y, 4) for x, y in (blobs(120, 0, noise=20), blobs(120, 0, noise=0.7))]
    assert strengths[0] <= strengths[1]
    assert set(strengths) <= set(PROTOCOL.few_label_c)


def test_folds_that_are_fitted_one_by_one_choose_the_same(monkeypatch):
    x, y = blobs(150, 3)
    together = chosen_strength(Rows.of(x), y, 4)
    monkeypatch.setattr("gmje_bench.tasks.few_labels._TOGETHER", 1)
    assert chosen_strength(Rows.of(x), y, 4) == together


def test_a_class_without_training_images_is_never_right():
    (x, y), (z, truth) = blobs(400, 0, noise=0.3), blobs(200, 1, noise=0.3)
    kept = y != 2
    subject = FeatureSubject("gje", 0, ("a", "b", "c", "d"), Features(y[kept], x[kept]), Features(truth, z))
    share = float((truth != 2).double().mean())
    assert few_labels(subject).metrics["few_labels_10"] == pytest.approx(100 * share, abs=1.0)
    assert subject.probe.accuracy == pytest.approx(100 * share, abs=1.0)
