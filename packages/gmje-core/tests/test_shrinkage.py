"""Shrinkage is the maximum a posteriori covariance: against the posterior's density, and at its limits."""

import pytest
import torch
from scipy import stats

from gmje_core.estimation.shrinkage import isotropic_target, shrink_covariances


def covariances(count, dim, seed=0):
    """Random well-conditioned covariances ``(count, dim, dim)``."""
    factor = torch.randn(count, dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.mT + torch.eye(dim)


def test_it_is_the_mode_of_the_inverse_wishart_posterior():
    dim, rows, prior_count = 3, 11, 9.0
    (second,), (target,) = covariances(1, dim), covariances(1, dim, seed=1)
    z = stats.multivariate_normal(cov=second).rvs(rows, random_state=0)
    scatter = torch.from_numpy(z.T @ z)

    def log_posterior(covariance):
        prior = stats.invwishart(df=prior_count - dim - 1, scale=(prior_count * target).numpy())
        return prior.logpdf(covariance.numpy()) + stats.multivariate_normal(cov=covariance).logpdf(z).sum()

    mode = shrink_covariances(scatter[None] / rows, torch.tensor([rows]), target, prior_count)[0]
    best = log_posterior(mode)
    for change in covariances(20, dim, seed=2):
        assert log_posterior(mode + 0.05 * change) < best
        assert log_posterior(mode - 0.01 * change) < best


@pytest.mark.parametrize("diagonal", [False, True])
def test_limits_and_each_component_on_its_own(diagonal):
    second, (target,) = covariances(3, 4), covariances(1, 4, seed=1)
    if diagonal:
        second, target = second.diagonal(dim1=-2, dim2=-1), target.diagonal()
    counts = torch.tensor([0.0, 5.0, 2.0], dtype=torch.float64)
    prior_count = torch.tensor([3.0, 0.0, 6.0], dtype=torch.float64)
    shrunk = shrink_covariances(second, counts, target, prior_count)
    torch.testing.assert_close(shrunk[0], target)
    torch.testing.assert_close(shrunk[1], second[1])
    torch.testing.assert_close(shrunk[2], 0.25 * second[2] + 0.75 * target)
    same = shrink_covariances(second, counts, target, 3.0)
    torch.testing.assert_close(same[1], 0.625 * second[1] + 0.375 * target)
    without_prior = shrink_covariances(second, counts, target, 0.0)
    assert torch.equal(without_prior, torch.stack([target, second[1], second[2]]))


def test_isotropic_target_keeps_the_trace():
    (covariance,) = covariances(1, 4)
    target = isotropic_target(covariance, diagonal=False)
    torch.testing.assert_close(target.trace(), covariance.trace())
    torch.testing.assert_close(target, target[0, 0] * torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(isotropic_target(covariance.diagonal(), diagonal=True), target.diagonal())
