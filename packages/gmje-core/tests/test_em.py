"""E-step and M-step against their definitions: moments of blocks, the pooled covariance, and empty components."""

import pytest
import torch

from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError, NotPositiveDefiniteError
from gmje_core.estimation import em
from gmje_core.estimation.em import CovarianceForm, expectation, maximization, moments_of, total_moments
from gmje_core.estimation.moments import batch_moments
from gmje_core.estimation.pairs import Pairs
from gmje_core.estimation.shrinkage import CovariancePrior

KINDS = ["full", "low_rank", "diag", "spherical"]


def rows(count=70, dim=3, seed=0):
    """Correlated rows ``(count, dim)`` and responsibilities ``(count, 4)``."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, dim, generator=g, dtype=torch.float64) @ torch.randn(dim, dim, generator=g).double()
    return x, torch.softmax(torch.randn(count, 4, generator=g, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("diagonal", [False, True])
def test_moments_of_blocks_are_those_of_all_rows(diagonal, monkeypatch):
    x, share = rows()
    monkeypatch.setattr(em, "block_rows", lambda components, dim: 16)
    parts = iter(share.split(16))
    got = moments_of(Pairs({"rows": x}, x.dtype), lambda block: next(parts), x[:4], diagonal=diagonal)
    for value, expected in zip(got, batch_moments(x, share, diagonal=diagonal), strict=True):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_a_round_of_em_is_its_definition(kind, tied):
    x, share = rows()
    form = CovarianceForm(kind, tied, 2, 1e-3)
    pairs = Pairs({"rows": x}, x.dtype)
    start = maximization(batch_moments(x, share, diagonal=form.diagonal), form)
    bound, moments = expectation(start, pairs, form, total_moments(pairs, diagonal=False))
    assert bound == pytest.approx(float(start.log_prob(x).mean()))
    mixture = maximization(moments, form, start.covariance)

    posterior = start.responsibilities(x)
    mass, means, second = batch_moments(x, posterior)
    torch.testing.assert_close(mixture.weights, mass)
    torch.testing.assert_close(mixture.means, means)
    wanted = (mass[:, None, None] * second).sum(dim=0, keepdim=True) if tied else second
    wanted = wanted + 1e-3 * torch.eye(3)
    if kind == "full":
        torch.testing.assert_close(mixture.covariance.dense(), wanted)
    variance = wanted.diagonal(dim1=-2, dim2=-1)
    if kind in ("diag", "low_rank"):
        tolerance = {"diag": 1e-9, "low_rank": 2e-3}[kind]  # factor analysis ends at a relative change of 1e-3
        torch.testing.assert_close(mixture.covariance.diagonal(), variance, rtol=tolerance, atol=0)
    if kind == "spherical":
        torch.testing.assert_close(mixture.covariance.diagonal()[:, 0], variance.mean(dim=-1))
    assert float(mixture.log_prob(x).mean()) > bound - 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_component_gets_the_pooled_covariance_and_no_weight(kind):
    x, _ = rows()
    form = CovarianceForm(kind, False, 1, 0.0)
    mixture = maximization(batch_moments(x, torch.eye(2).double()[[0] * len(x)], diagonal=form.diagonal), form)
    assert isinstance(mixture, GaussianMixture)
    assert mixture.weights.tolist() == [1.0, 0.0]
    first, second = mixture.covariance.dense()
    torch.testing.assert_close(first, second)


def test_singular_moments_and_a_rank_too_high_are_named():
    x, share = rows()
    x[:, 1] = 5.0
    moments = batch_moments(x, share, centred=True)
    with pytest.raises(NotPositiveDefiniteError, match="component 0 has no variance in dimension 1: raise reg_covar"):
        maximization(moments, CovarianceForm("full", False, 1, 0.0))
    with pytest.raises(ConfigError, match="rank must lie between 1 and D = 3"):
        maximization(moments, CovarianceForm("low_rank", False, 4, 1e-3))


def round_of(mixture, pairs, form, prior=None):
    """Objective before a round of EM, and the mixture after it."""
    value, moments = expectation(mixture, pairs, form, total_moments(pairs, diagonal=False), prior)
    return value, maximization(moments, form, mixture.covariance, prior)


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_the_log_posterior_never_falls(kind, tied, factored, monkeypatch):
    monkeypatch.setattr(em, "_WHOLE_MOMENTS", 0 if factored else 64)
    monkeypatch.setattr(em, "block_rows", lambda components, dim: 50)
    x, share = rows(90, dim=9)
    form, pairs = CovarianceForm(kind, tied, 2, 0.0), Pairs({"rows": x}, x.dtype)
    assert form.factored(9) == (factored and kind == "low_rank" and not tied)
    root = torch.randn(9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target = root @ root.mT / 9 + 0.1 * torch.eye(9)
    prior = CovariancePrior(target.diagonal() if form.diagonal else target, 0.2)
    mixture = maximization(batch_moments(x, share, diagonal=form.diagonal), form, prior=prior)
    values = []
    for _ in range(25):
        value, mixture = round_of(mixture, pairs, form, prior)
        values.append(value)
    log_prior = sum(
        -0.1
        * (
            torch.logdet(sigma)
            + torch.trace(torch.linalg.solve(sigma, torch.diag(target.diagonal()) if form.diagonal else target))
        )
        for sigma in mixture.covariance.dense()
    )
    final, _ = expectation(mixture, pairs, form, total_moments(pairs, diagonal=False), prior)
    assert final == pytest.approx(float(mixture.log_prob(x).mean() + log_prior))
    gains = torch.tensor([*values, final], dtype=torch.float64).diff()
    assert gains.min() > -1e-9
    assert gains[0] > 1e-3


def test_with_one_component_the_posterior_mode_is_between_rows_and_target():
    x, _ = rows()
    pairs, target = Pairs({"rows": x}, x.dtype), torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    form = CovarianceForm("full", False, 1, 0.0)
    start = maximization(batch_moments(x, torch.ones(len(x), 1).double()), form)
    _, mixture = round_of(start, pairs, form, CovariancePrior(target, 30 / len(x)))
    wanted = (len(x) * x.T.cov(correction=0) + 30 * target) / (len(x) + 30)
    torch.testing.assert_close(mixture.covariance.dense()[0], wanted)


def test_a_factored_round_is_one_step_from_the_whole_second_moments(monkeypatch):
    x, share = rows(90, dim=9)
    form, pairs = CovarianceForm("low_rank", False, 2, 1e-3), Pairs({"rows": x}, x.dtype)
    mixture = maximization(batch_moments(x, share), form)
    monkeypatch.setattr("gmje_core.densities.covariance.low_rank.LATER_ROUNDS", 1)
    value, whole = round_of(mixture, pairs, form)
    monkeypatch.setattr(em, "_WHOLE_MOMENTS", 0)
    same_value, factored = round_of(mixture, pairs, form)
    assert same_value == pytest.approx(value, abs=1e-12)
    torch.testing.assert_close(factored.means, whole.means)
    torch.testing.assert_close(factored.covariance.dense(), whole.covariance.dense())


def test_factored_moments_without_variance_are_named(monkeypatch):
    monkeypatch.setattr(em, "_WHOLE_MOMENTS", 0)
    x, share = rows(90, dim=9)
    form = CovarianceForm("low_rank", False, 2, 1e-3)
    mixture = maximization(batch_moments(x, share), form)
    x[:, 4] = 5.0
    with pytest.raises(NotPositiveDefiniteError, match="component 0 has no variance in dimension 4: raise reg_covar"):
        round_of(mixture, Pairs({"rows": x}, x.dtype), CovarianceForm("low_rank", False, 2, 0.0))
