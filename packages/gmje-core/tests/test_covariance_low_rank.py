"""Low-rank covariances: factor analysis, and no square matrix."""

import pytest
import torch
from density_cases import RANK, Largest, make

from gmje_core.densities.covariance import LowRankCovariance, covariance_from_dense
from gmje_core.densities.covariance.low_rank import factor_analysis
from gmje_core.densities.mixture import GaussianMixture

pytestmark = pytest.mark.usefixtures("seeded")


def test_low_rank_never_builds_a_square_matrix():
    dim, context = 20_000, 12_000
    covariance = make("low_rank", (3,), dim=dim, rank=4, dtype=torch.float32)
    means, x = torch.randn(3, dim), torch.randn(5, dim)
    mixture = GaussianMixture(torch.zeros(3), means, covariance)
    with Largest() as largest:
        posterior = mixture.condition(range(context), x[:, :context])
        conditional = posterior.log_prob(x[:, context:])
        marginal = mixture.marginal(range(context)).log_prob(x[:, :context])
        joint = mixture.log_prob(x)
        posterior.sample((2,))
        assert posterior.variance.shape == (5, dim - context)
    assert largest.elements <= 2**21  # a square matrix would hold 4e8
    assert posterior.covariance.covariance_type == "low_rank"
    torch.testing.assert_close(conditional + marginal, joint, rtol=1e-5, atol=0)


def divergence(source, fitted):
    """KL of centred Gaussians from dense matrices to a covariance, nats."""
    trace = torch.linalg.solve(fitted.dense(), source).diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return 0.5 * (trace - source.shape[-1] - torch.logdet(source)) + fitted.half_log_det()


def test_low_rank_from_dense_is_factor_analysis():
    source = make("low_rank", (20,), dim=12, seed=5).dense()
    fitted = covariance_from_dense(source, "low_rank", rank=RANK)
    assert fitted.rank == RANK
    torch.testing.assert_close(fitted.diagonal(), source.diagonal(dim1=-2, dim2=-1))
    assert divergence(source, fitted).max() < 1e-3
    # One factor too few: worse than the right number, better than none, and still keeps the variances.
    short = covariance_from_dense(source, "low_rank", rank=1)
    torch.testing.assert_close(short.diagonal(), source.diagonal(dim1=-2, dim2=-1))
    assert (divergence(source, short) > divergence(source, fitted)).all()
    assert (divergence(source, short) < divergence(source, covariance_from_dense(source, "diag"))).all()


class TestFromAPreviousCovariance:
    def second(self):
        factor = torch.randn(3, 9, 20, dtype=torch.float64)
        return factor @ factor.mT / 20

    def test_reaches_what_many_rounds_from_nothing_reach(self):
        second = self.second()
        previous = LowRankCovariance.from_second_moments(1.2 * second + 0.1 * torch.eye(9).double(), rank=RANK)
        fitted = LowRankCovariance.from_second_moments(second, rank=RANK, previous=previous)
        scratch = LowRankCovariance.from_second_moments(second, rank=RANK)
        assert (divergence(second, fitted) - divergence(second, scratch)).abs().max() < 1e-2
        torch.testing.assert_close(fitted.diagonal(), second.diagonal(dim1=-2, dim2=-1))

    def test_ends_at_once_where_it_starts_at_the_end(self):
        second = self.second()
        end = LowRankCovariance(*factor_analysis(second, RANK))
        for _ in range(20):
            end = LowRankCovariance(*factor_analysis(second, RANK, start=end))
        _, again = factor_analysis(second, RANK, start=end, tolerance=1e-3)
        torch.testing.assert_close(again, end.diagonal_variance, rtol=1e-3, atol=0)

    def test_variances_stay_above_the_floor(self):
        second = self.second()
        previous = LowRankCovariance.from_second_moments(second, rank=5)
        assert previous.diagonal_variance.min() < 0.2
        fitted = LowRankCovariance.from_second_moments(second, rank=5, previous=previous, floor=0.2)
        assert fitted.diagonal_variance.min() == 0.2
