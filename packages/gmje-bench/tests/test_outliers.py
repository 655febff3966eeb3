"""The task of outliers: identities of its measures and scores, and a subject whose answers are known."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.neighbors import NearestNeighbors
from subject_factories import collapse, embedded, generator, make_subject, parts, randn, true_density

from gmje_bench.runs import METRICS, OUTLIER_KINDS, OUTLIER_SCORES
from gmje_bench.tasks.outliers import outliers
from gmje_bench.tasks.outliers.joint import JointScore, fit_kernels, fit_pairs
from gmje_bench.tasks.outliers.measures import auroc, false_positive_rate
from gmje_bench.tasks.outliers.scores import knn_score, mahalanobis_score
from gmje_core.errors import CollapsedError


def test_perfect_separation_and_its_opposite():
    low, high = torch.arange(100.0), torch.arange(200.0, 260.0)
    assert (auroc(high, low), false_positive_rate(high, low)) == (1.0, 0.0)
    assert (auroc(low, high), false_positive_rate(low, high)) == (0.0, 1.0)


def test_equal_distributions_are_at_chance():
    inside, outside = randn(20_000, seed=0), randn(20_000, seed=1)
    assert auroc(inside, outside) == pytest.approx(0.5, abs=0.01)
    assert false_positive_rate(inside, outside) == pytest.approx(0.95, abs=0.01)
    same = torch.zeros(50)
    assert (auroc(same, same), false_positive_rate(same, same)) == (0.5, 1.0)


@pytest.mark.parametrize("ties", [False, True])
def test_measures_are_those_of_the_curve(ties):
    inside, outside = randn(137, seed=2) + 1, randn(91, seed=3)
    if ties:
        inside, outside = inside.round(), outside.round()
    truth = np.r_[np.ones(137), np.zeros(91)]
    scores = torch.cat([inside, outside]).numpy()
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert false_positive_rate(inside, outside) == pytest.approx(false[true >= 0.95].min())
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(truth, scores))
    assert auroc(inside, outside) == pytest.approx(float(np.trapezoid(true, false)))


def test_measures_ignore_order_and_scale():
    inside, outside = randn(80, seed=4) + 1, randn(60, seed=5)
    shuffled = inside[torch.randperm(80, generator=generator())]
    for measure in (auroc, false_positive_rate):
        expected = measure(inside, outside)
        assert measure(shuffled, outside) == expected
        assert measure(inside.exp(), outside.exp()) == pytest.approx(expected)


def test_mahalanobis_without_classes_is_scikit_learns():
    train, rows = randn(200, 5, seed=6) @ randn(5, 5, seed=7) + 3, randn(30, 5, seed=8)
    expected = EmpiricalCovariance().fit(train.numpy()).mahalanobis(rows.numpy())
    torch.testing.assert_close(mahalanobis_score(train, rows), -torch.from_numpy(expected))
    precision = torch.linalg.inv(torch.cov(train.T, correction=0))
    by_hand = torch.from_numpy(cdist(rows.numpy(), train.mean(0, keepdim=True).numpy(), "mahalanobis", VI=precision))
    torch.testing.assert_close(mahalanobis_score(train, rows), -by_hand.square()[:, 0])


def test_mahalanobis_with_classes_has_one_covariance_about_their_means():
    labels = torch.arange(210) % 3 * 2  # Labels may have gaps.
    train = 5 * torch.eye(4, dtype=torch.float64)[labels // 2] + randn(210, 4, seed=9)
    rows = randn(40, 4, seed=10)
    means = torch.stack([train[labels == label].mean(0) for label in (0, 2, 4)])
    centred = train - means[labels // 2]
    precision = torch.linalg.inv(centred.T @ centred / len(train))
    distances = [((rows - mean) @ precision * (rows - mean)).sum(1) for mean in means]
    torch.testing.assert_close(mahalanobis_score(train, rows, labels), -torch.stack(distances).min(dim=0).values)


def test_mahalanobis_passes_over_features_that_never_change():
    train, rows = randn(100, 3, seed=11), randn(20, 3, seed=12)
    flat = [torch.cat([part, torch.ones(len(part), 2)], dim=1) for part in (train, rows)]
    torch.testing.assert_close(mahalanobis_score(*flat), mahalanobis_score(train, rows))


def test_kernels_have_the_shape_of_views_about_their_image():
    rows, points = randn(40, 3, seed=15), randn(20, 3, seed=16)
    shape = randn(3, 3, seed=17)
    views = tuple(rows + randn(40, 3, seed=seed) @ shape.T for seed in (18, 19))
    kernels = fit_kernels(rows, views, randn(30, 3, seed=20))
    difference = (views[0] - views[1]).numpy()
    within = difference.T @ difference / 80
    within += 1e-3 * np.diag(within).mean() * np.eye(3)
    each = [stats.multivariate_normal(row.numpy(), kernels.width**2 * within).pdf(points.numpy()) for row in rows]
    torch.testing.assert_close(
        kernels.log_prob(points), torch.from_numpy(np.log(np.mean(each, axis=0))), rtol=1e-4, atol=1e-4
    )


def test_the_width_is_the_one_of_held_out_images():
    corners = 8 * torch.eye(4, dtype=torch.float64)[torch.arange(400) % 4]
    noise = [0.2 * randn(400, 4, seed=seed) for seed in (21, 22, 23, 24)]
    close = fit_kernels(corners + noise[0], (noise[1], noise[2]), corners + noise[3])
    spread = fit_kernels(corners + noise[0], (noise[1], noise[2]), corners + 4 * noise[3])
    assert close.width < 1 < spread.width


def test_the_density_of_pairs_ignores_the_units_of_features_up_to_a_constant():
    features, embeddings = randn(300, 3, seed=25).abs(), randn(300, 2, seed=26)
    points = randn(20, 3, seed=27).abs(), randn(20, 2, seed=28)
    one = fit_pairs(features, embeddings, seed=0).log_prob(*points)
    other = fit_pairs(16 * features, embeddings, seed=0).log_prob(16 * points[0], points[1])
    torch.testing.assert_close(one - one.mean(), other - other.mean(), rtol=1e-2, atol=1e-2)


def test_the_joint_score_sees_what_either_density_sees():
    labels = torch.arange(900) % 3
    embeddings = 10 * torch.eye(3, dtype=torch.float64)[labels] + randn(900, 3, seed=29)
    features = randn(900, 40, seed=30)
    views = tuple(embeddings + 0.5 * randn(900, 3, seed=seed) for seed in (31, 32))
    score = JointScore(features[:600], embeddings[:600], (views[0][:600], views[1][:600]), seed=0)
    inside = score(features[600:], embeddings[600:])
    # Both log-densities have mean 0 and standard deviation 1 on images like the training images.
    assert abs(float(inside.mean())) < 0.5
    assert 1 < float(inside.std()) < 2.2
    between = embeddings[600:].roll(1, dims=0) / 2 + embeddings[600:] / 2  # Means of two classes.
    assert auroc(inside, score(features[600:], between)) > 0.99
    assert auroc(inside, score(3 * features[600:], embeddings[600:])) > 0.99


def test_the_joint_score_takes_features_that_never_change():
    z = randn(200, 3, seed=33)
    features = torch.cat([z, torch.zeros(200, 2), torch.ones(200, 1)], dim=1)
    found = JointScore(features, z, (z + randn(200, 3, seed=34), z), seed=0)(features, z)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("k", [1, 7])
def test_knn_is_scikit_learns_and_blind_to_norms(k):
    train, rows = randn(90, 6, seed=13), randn(1100, 6, seed=14)
    unit = [part / part.norm(dim=1, keepdim=True) for part in (train, rows)]
    expected = NearestNeighbors(n_neighbors=k).fit(unit[0].numpy()).kneighbors(unit[1].numpy())[0][:, -1]
    torch.testing.assert_close(knn_score(train, rows, k), -torch.from_numpy(expected))
    torch.testing.assert_close(knn_score(3 * train, 0.1 * rows, k), knn_score(train, rows, k))
    assert torch.equal(knn_score(train, rows, 1000), knn_score(train, rows, 90))


def kinds() -> dict:
    shifts = {"held_out": 1.5, "corrupted": 3.0, "mixed": 2.0, "digits": 6.0, "noise": 12.0}
    return {kind: embedded(150, 20 + index, shift=shift) for index, (kind, shift) in enumerate(shifts.items())}


def test_every_score_is_asked_of_every_kind():
    result = outliers(make_subject(true_density(), **kinds()))
    assert result.metrics.keys() == {name for name, metric in METRICS.items() if metric.task == "outliers"}
    assert all(0 <= value <= 1 for value in result.metrics.values())
    assert result.artifacts.keys() == {
        f"outliers.{score}.{kind}" for score in OUTLIER_SCORES for kind in ("test", *OUTLIER_KINDS)
    }
    for score in ("density", "joint", "fitted", "mahalanobis", "class_mahalanobis", "embedding_mahalanobis"):
        found = [result.metrics[f"auroc.{kind}.{score}"] for kind in ("held_out", "mixed", "digits", "noise")]
        assert found == sorted(found), f"{score}: what is further is told more easily"
        assert found[-1] > 0.999
    assert result.metrics["auroc.noise.density"] == pytest.approx(1 - result.metrics["fpr95.noise.density"], abs=0.01)


def test_a_method_without_a_density_and_data_without_held_out_classes_lack_those_numbers():
    scores = [score for score in OUTLIER_SCORES if score != "density"]
    expected = {f"{measure}.digits.{score}" for measure in ("auroc", "fpr95") for score in scores}
    assert outliers(make_subject()).metrics.keys() == expected


def test_test_images_as_outliers_are_at_chance():
    subject = make_subject(true_density(), digits=make_subject().test)
    metrics = outliers(subject).metrics
    assert all(value == pytest.approx(0.5) for name, value in metrics.items() if name.startswith("auroc"))
    assert all(value == pytest.approx(0.95, abs=0.01) for name, value in metrics.items() if name.startswith("fpr95"))


def test_collapsed_embeddings_are_an_error_by_name():
    plain = make_subject()
    with pytest.raises(CollapsedError, match="all the same"):
        outliers(make_subject(**{name: collapse(part) for name, part in parts(plain).items()}))
    assert math.isfinite(outliers(plain).metrics["auroc.digits.knn"])
