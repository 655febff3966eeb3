"""E-step and M-step against their definitions: moments of blocks, the pooled covariance, and empty components."""

import pytest
import torch

from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError, NotPositiveDefiniteError
from gmje_core.estimation import em
from gmje_core.estimation.em import CovarianceForm, expectation, maximization, moments_of, total_moments
from gmje_core.estimation.moments import batch_moments
from gmje_core.estimation.pairs import Pairs

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
