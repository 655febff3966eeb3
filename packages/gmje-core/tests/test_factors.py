"""Moments of rows and factors against whole second moments, in float64."""

import pytest
import torch

from gmje_core.densities.covariance import LowRankCovariance
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import NotPositiveDefiniteError
from gmje_core.estimation.factors import FactorMoments, FactorSums, random_factors
from gmje_core.estimation.moments import batch_moments, merge_moments
from gmje_core.estimation.shrinkage import CovariancePrior, shrink_covariances

pytestmark = pytest.mark.usefixtures("seeded")
COMPONENTS, DIM, RANK, ROWS = 3, 7, 2, 60


def wide(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def mixture(tied=False):
    matrices = 1 if tied else COMPONENTS
    covariance = LowRankCovariance(wide(matrices, DIM, RANK), 0.2 + torch.rand(matrices, DIM, dtype=torch.float64))
    return GaussianMixture(wide(COMPONENTS), wide(COMPONENTS, DIM), covariance)


def moments(density, x, share, blocks=1):
    sums = FactorSums(density)
    for rows, part in zip(x.chunk(blocks), share.chunk(blocks), strict=True):
        sums.add(rows, part)
    return sums.moments()


def batch(rows=ROWS):
    x = 2.0 + wide(rows, DIM) @ wide(DIM, DIM)
    return x, torch.softmax(wide(rows, COMPONENTS), dim=1)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("blocks", [1, 4])
def test_they_are_products_of_the_whole_second_moments(tied, blocks):
    density, (x, share) = mixture(tied), batch()
    got = moments(density, x, share, blocks)
    mass, means, second = batch_moments(x, share)
    gain, noise = density.covariance.latent_posterior()
    torch.testing.assert_close(got.mass, mass)
    torch.testing.assert_close(got.means, means)
    torch.testing.assert_close(got.variances, second.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(got.cross, second @ gain.mT)
    torch.testing.assert_close(got.latent, noise + gain @ second @ gain.mT)


@pytest.mark.parametrize("whole", [False, True])
def test_a_prior_is_that_of_whole_covariances(whole):
    density, (x, share) = mixture(), batch()
    _, _, second = batch_moments(x, share)
    root = wide(DIM, DIM)
    target = root @ root.mT if whole else torch.rand(DIM, dtype=torch.float64)
    got = moments(density, x, share)
    shrunk = got.shrunk(CovariancePrior(target, 0.3))
    wanted = shrink_covariances(second, got.mass, target if whole else target.diag(), 0.3)
    torch.testing.assert_close(shrunk.variances, wanted.diagonal(dim1=1, dim2=2))
    torch.testing.assert_close(shrunk.cross, wanted @ density.covariance.latent_posterior()[0].mT)


def test_a_component_without_rows_keeps_its_parameters():
    density, (x, share) = mixture(), batch()
    share[:, 1] = 0.0
    got = moments(density, x, share)
    torch.testing.assert_close(got.means[1], density.means[1])
    covariance = got.covariance()
    torch.testing.assert_close(covariance.dense()[1], density.covariance.dense()[1])
    assert not torch.allclose(covariance.dense()[0], density.covariance.dense()[0])


def test_fewer_rows_than_factors_and_constant_dimensions_stop_at_the_ridge():
    density, (x, _) = mixture(), batch(2)
    x[:, 3] = 5.0
    got = moments(density, x, torch.eye(3, dtype=torch.float64)[[0, 0]])
    covariance = got.covariance(ridge=1e-3)
    assert torch.isfinite(covariance.factor).all()
    assert covariance.diagonal_variance[0].min() == 1e-3
    with pytest.raises(NotPositiveDefiniteError, match="diagonal_variance must be positive"):
        got.covariance()


class TestRunning:
    """Online EM: the merge of two batches against the merge of whole second moments of rows and factors."""

    def started(self, tied=False):
        density = mixture(tied)
        spread = density.covariance.diagonal().expand(COMPONENTS, -1)
        running = FactorMoments(density.weights, density.means, spread, density.covariance.factor, density.covariance)
        return density, running

    def test_a_whole_step_is_one_round_of_em(self):
        density, running = self.started()
        x, share = batch()
        got = moments(density, x, share)
        after = running.follow(got, 1.0)
        torch.testing.assert_close(after.cross, got.covariance().factor)
        torch.testing.assert_close(after.means, got.means)
        noise = after.variances - after.cross.square().sum(dim=-1)
        torch.testing.assert_close(noise, got.covariance().diagonal_variance)

    @pytest.mark.parametrize("tied", [False, True])
    def test_a_step_merges_rows_and_factors_as_one_vector(self, tied):
        density, running = self.started(tied)
        x, share = batch()
        after = running.follow(moments(density, x, share), 0.3)
        gain, noise = density.covariance.latent_posterior()
        mass, means, second = batch_moments(x, share)

        def joint(second, cross, latent):
            top = torch.cat([second, cross], dim=-1)
            return torch.cat([top, torch.cat([cross.mT, latent], dim=-1)], dim=-2)

        old = density.covariance.dense().expand(COMPONENTS, -1, -1)
        factor = density.covariance.factor.expand(COMPONENTS, -1, -1)
        eye = torch.eye(RANK, dtype=torch.float64).expand(COMPONENTS, -1, -1)
        shift = (gain @ (means - density.means).unsqueeze(-1)).squeeze(-1)
        merged, _, whole = merge_moments(
            (running.mass, torch.cat([running.means, 0 * shift], dim=1), joint(old, factor, eye)),
            (mass, torch.cat([means, shift], dim=1), joint(second, second @ gain.mT, noise + gain @ second @ gain.mT)),
            0.3,
        )
        if tied:
            whole = ((merged / merged.sum())[:, None, None] * whole).sum(dim=0, keepdim=True)
        cross, latent = whole[:, :DIM, DIM:], whole[:, DIM:, DIM:]
        explained = cross @ torch.linalg.solve(latent, cross.mT)
        torch.testing.assert_close(after.cross @ after.cross.mT, explained)
        torch.testing.assert_close(after.mass, merged)
        spread = after.variances if not tied else ((merged / merged.sum())[:, None] * after.variances).sum(0)[None]
        torch.testing.assert_close(spread, whole[:, :DIM, :DIM].diagonal(dim1=1, dim2=2))
        assert (spread - after.cross.square().sum(dim=-1)).min() > 0


def test_random_factors_depend_on_the_seed_alone():
    variances = 1.0 + torch.rand(3, 4)
    first, again, other = [random_factors(variances, 2, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.testing.assert_close(first.square().sum(dim=-1), 0.5 * variances)
