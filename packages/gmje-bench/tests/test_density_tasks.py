"""Tasks that ask densities: uncertainty, sampling, maps; identities of their measures, and subjects that are odd."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from subject_factories import CLASSES, DIM, collapse, embedded, make_subject, parts, randn, true_density
from torch import Tensor

from gmje_bench.protocol import PROTOCOL
from gmje_bench.runs import METRICS, SOURCES
from gmje_bench.tasks.densities import Scale, conditional_log_prob, embedding_log_prob, fit_joint
from gmje_bench.tasks.latent import latent_map, neighbours
from gmje_bench.tasks.sampling import sampling
from gmje_bench.tasks.sampling.measures import frechet_distance, manifold_measures, maximum_mean_discrepancy
from gmje_bench.tasks.sampling.sources import fit_gaussian, fit_kernel, fit_mixture
from gmje_bench.tasks.subject import Embedded
from gmje_bench.tasks.uncertainty import area_under_risk_coverage, risk_coverage, uncertainty
from gmje_core.errors import CollapsedError

# Measures


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_frechet_distance_is_that_of_gaussians(dim):
    x, y = randn(400, dim) @ randn(dim, dim, seed=5), 2 * randn(300, dim, seed=1) + 1
    cx, cy = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    gap = (x.mean(0) - y.mean(0)).square().sum()
    expected = float(gap) + np.trace(cx + cy - 2 * np.real(linalg.sqrtm(cx @ cy)))
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_flat_clouds_is_finite():
    flat = torch.cat([randn(50, 2), torch.zeros(50, 2)], dim=1)
    assert frechet_distance(flat, torch.ones(20, 4)) > 0
    assert math.isfinite(frechet_distance(torch.ones(20, 4), torch.ones(30, 4)))


def test_manifolds_by_definition():
    real, samples, k = randn(40, 2), 1.5 * randn(30, 2, seed=1), 3

    def reach(cloud: Tensor, point: Tensor) -> float:
        return float((cloud - point).norm(dim=1).sort().values[k])  # the first is itself

    near = [[float((s - r).norm()) <= reach(real, r) for s in samples] for r in real]
    back = [[float((s - r).norm()) <= reach(samples, s) for s in samples] for r in real]
    found = manifold_measures(real, samples, k)
    assert found.precision == pytest.approx(np.any(near, axis=0).mean())
    assert found.recall == pytest.approx(np.any(back, axis=1).mean())
    assert found.density == pytest.approx(np.sum(near) / (k * len(samples)))
    assert found.coverage == pytest.approx(np.any(near, axis=1).mean())
    with pytest.raises(ValueError, match="got 30"):
        manifold_measures(real, samples, 30)


def test_discrepancy_has_no_bias_and_sees_a_shift():
    same = [maximum_mean_discrepancy(randn(60, 3, seed=s), randn(60, 3, seed=100 + s)) for s in range(40)]
    assert abs(np.mean(same)) < 4 * np.std(same) / math.sqrt(40)
    assert maximum_mean_discrepancy(randn(60, 3), randn(60, 3, seed=1) + 1) > 10 * np.std(same)
    assert math.isfinite(maximum_mean_discrepancy(torch.zeros(9, 2), torch.zeros(9, 2)))


def test_risk_coverage_of_known_rankings():
    wrong = (torch.arange(100) < 20).double()
    best, worst = (area_under_risk_coverage(risk_coverage(sign * -wrong, wrong)) for sign in (1, -1))
    expected = sum(max(0, n - 80) / n for n in range(1, 101)) / 100
    assert best == pytest.approx(expected)
    assert worst == pytest.approx(sum(min(n, 20) / n for n in range(1, 101)) / 100)
    curve = risk_coverage(randn(100), wrong)
    assert curve[-1].tolist() == [1.0, 0.2]
    assert torch.equal(curve[:, 0], torch.arange(1, 101).double() / 100)


# Densities


def test_scale_is_exact_and_refuses_a_point():
    z = 3 * randn(500, 4) + 2
    scaled = Scale.of(z).apply(z)
    assert scaled.mean(0).abs().max() < 1e-12
    assert float(scaled.var(0, correction=0).mean()) == pytest.approx(1)
    for collapsed in (torch.ones(9, 4), torch.zeros(9, 4), 1 + 1e-9 * randn(9, 4)):
        with pytest.raises(CollapsedError, match="all the same"):
            Scale.of(collapsed)


def test_conditional_log_prob_in_chunks_is_that_of_the_whole():
    density = true_density()
    part = embedded(250, 4)
    target, samples = conditional_log_prob(density, part.context, part.target, samples=5, seed=0)
    expected = density.condition(part.context.double()).log_prob(part.target.double())
    torch.testing.assert_close(target, expected)
    assert samples.shape == (5, 250)
    state = torch.get_rng_state()
    again = conditional_log_prob(density, part.context, part.target, samples=5, seed=0)[1]
    assert torch.equal(samples, again)
    assert torch.equal(torch.get_rng_state(), state), "the global source is left as it was"
    torch.testing.assert_close(
        embedding_log_prob(density, part.context), density.context.log_prob(part.context.double())
    )


@pytest.mark.parametrize("fit", [fit_gaussian, fit_kernel, fit_mixture])
def test_fitted_sources_are_densities(fit):
    z = torch.cat([randn(300, 1) - 3, randn(300, 1, seed=1) + 3])
    source = fit(z, 0)
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    assert float(source.log_prob(grid).exp().sum()) * 24 / 4000 == pytest.approx(1, abs=1e-3)
    samples = source.sample(4000, 0)
    assert torch.equal(samples, source.sample(4000, 0))
    assert float(samples.std()) == pytest.approx(float(z.std()), rel=0.05)
    two_modes = float((samples.abs() < 1).double().mean()) < 0.1
    assert two_modes == (fit is not fit_gaussian)


# Uncertainty


def test_the_true_density_is_calibrated_and_the_fitted_one_nearly():
    subject = make_subject(true_density())
    result = uncertainty(subject)
    assert result.metrics.keys() == {name for name, metric in METRICS.items() if metric.task == "uncertainty"}
    limit = 2.23 / math.sqrt(300)  # Kolmogorov, once in 10,000
    assert result.metrics["conditional_hpd"] < limit
    assert result.metrics["conditional_hpd_fitted"] < limit + 0.05
    assert result.metrics["conditional_ece"] < 0.06
    assert result.metrics["marginal_ece_context"] < 0.06
    assert result.metrics["marginal_ece_target"] < 0.06
    assert result.metrics["ood_auroc"] > 0.99
    assert result.metrics["ood_auroc_fitted"] > 0.99
    for kind in ("learned", "fitted"):
        assert result.artifacts[f"uncertainty.hpd_histogram.{kind}"].sum() == 300
        for of in ("conditional", "context", "target"):
            assert result.artifacts[f"uncertainty.reliability.{of}.{kind}"].shape == (19, 4)
        assert len(result.artifacts[f"uncertainty.ood_scores.{kind}.outside"]) == 200
    assert all(value.dtype == torch.float32 for value in result.artifacts.values())


def test_a_density_that_is_too_sure_is_not_calibrated():
    subject = make_subject(true_density(noise=0.3))
    result = uncertainty(subject)
    assert result.metrics["conditional_hpd"] > 0.2
    assert result.metrics["conditional_ece"] > 0.1


def test_chance_levels():
    subject = make_subject(true_density(), digits=embedded(300, 9))
    result = uncertainty(subject)
    assert result.metrics["ood_auroc"] == pytest.approx(0.5, abs=0.1)
    risk = float((subject.probe.log_prob.argmax(1) != subject.test.labels).double().mean())
    assert result.artifacts["uncertainty.risk_coverage.softmax"][-1, 1] == pytest.approx(risk)
    assert result.metrics["aurc_softmax"] < risk


def test_a_method_without_a_density_has_the_fitted_numbers():
    subject = make_subject()
    metrics = uncertainty(subject).metrics
    assert "ood_auroc" not in metrics
    assert metrics["ood_auroc_fitted"] > 0.99


def test_scale_changes_no_fitted_number():
    plain = make_subject()

    def shrunk(part: Embedded) -> Embedded:
        z = (1e-4 * getattr(part, name) + 3 for name in ("embeddings", "context", "target"))
        return Embedded(part.labels, part.features, part.images, *(x.double() for x in z))

    small = make_subject(**{name: shrunk(part) for name, part in parts(plain).items()})
    one, two = (uncertainty(subject).metrics for subject in (plain, small))
    assert one == pytest.approx(two, abs=0.02)


def test_collapsed_embeddings_are_an_error_by_name():
    plain = make_subject()
    subject = make_subject(**{name: collapse(part) for name, part in parts(plain).items()})
    with pytest.raises(CollapsedError, match="all the same"):
        uncertainty(subject)
    with pytest.raises(CollapsedError, match="all the same"):
        sampling(subject)


# Sampling


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """A decoder of pictures of one colour needs few steps."""
    monkeypatch.setitem(PROTOCOL.__dict__, "decoder_steps", 60)


def test_the_true_density_samples_as_well_as_the_data():
    subject = make_subject(true_density(), train=embedded(1500, 1))
    result = sampling(subject)
    metrics = result.metrics
    assert metrics.keys() == {name for name, metric in METRICS.items() if metric.task == "sampling"}
    assert all(math.isfinite(value) for value in metrics.values())
    for measure in ("frechet", "mmd", "image_frechet", "decoded_frechet", "nearest_frechet"):
        assert metrics[f"{measure}.learned"] < metrics[f"{measure}.real"] + 0.15, measure
    assert metrics["coverage.learned"] > 0.85
    assert metrics["precision.learned"] > 0.85
    assert metrics["nll.learned"] < metrics["nll.mixture"] < metrics["nll.gaussian"]
    entropy = stats.multivariate_normal(np.zeros(DIM), 2 * np.eye(DIM)).entropy() + math.log(CLASSES)
    volume = DIM * math.log(Scale.of(subject.train.context).factor)
    assert metrics["nll.learned"] == pytest.approx(entropy - volume, abs=0.4)
    for source in (*SOURCES, "real", "original"):
        pictures = result.artifacts[f"sampling.pictures.{source}"]
        assert (pictures.shape, pictures.dtype) == ((16, 1, 8, 8), torch.uint8)


def test_sampling_is_a_function_of_the_seed():
    subject = make_subject()
    one, two = sampling(subject), sampling(subject)
    assert one.metrics == two.metrics
    assert "frechet.learned" not in one.metrics


# Maps


def test_maps_and_neighbours_have_the_promised_form():
    subject = make_subject(true_density())
    maps = latent_map(subject)
    assert maps["latent.pca"].shape == maps["latent.tsne"].shape == (300, 2)
    agreement = (maps["latent.component"] == maps["latent.label"]).double().mean()
    assert agreement > 0.85, "components are the classes here"
    assert "latent.component" not in latent_map(make_subject())
    near = neighbours(subject)
    assert near["neighbours.images"].shape == (CLASSES, 8, 1, 8, 8)
    assert near["neighbours.query_label"].tolist() == [0, 1, 2]
    assert (near["neighbours.label"] == near["neighbours.query_label"][:, None]).double().mean() > 0.8


@pytest.mark.parametrize("size", [0, 1e-30])
def test_the_map_of_embeddings_that_cannot_be_told_apart_is_a_point(size):
    subject = make_subject()
    part = collapse(subject.test)
    noise = size * torch.randn(part.embeddings.shape)
    collapsed = Embedded(part.labels, part.features, part.images, part.context, part.target, noise)
    maps = latent_map(make_subject(test=collapsed))
    assert maps["latent.tsne"].eq(0).all()
    assert maps["latent.pca"].abs().max() < 1e-20


def test_the_fitted_joint_depends_on_the_seed_alone():
    part = embedded(300, 5)
    one, two = (fit_joint(part.context.double(), part.target.double(), 0) for _ in range(2))
    assert torch.equal(one.log_prob(part.context, part.target), two.log_prob(part.context, part.target))
