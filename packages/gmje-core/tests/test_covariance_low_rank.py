"""Low-rank covariances: factor analysis, and no square matrix."""

import pytest
import sklearn.decomposition
import torch
from density_cases import RANK, Largest, make

from gmje_core.densities.covariance import LowRankCovariance, covariance_from_dense, low_rank
from gmje_core.densities.covariance.low_rank import factor_analysis, factor_step
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
        for _ in range(80):
            end = LowRankCovariance(*factor_analysis(second, RANK, start=end))
        _, again = factor_analysis(second, RANK, start=end, tolerance=1e-3)
        torch.testing.assert_close(again, end.diagonal_variance, rtol=1e-3, atol=0)

    def test_variances_stay_above_the_floor(self):
        second = self.second()
        previous = LowRankCovariance.from_second_moments(second, rank=5)
        assert previous.diagonal_variance.min() < 0.2
        fitted = LowRankCovariance.from_second_moments(second, rank=5, previous=previous, floor=0.2)
        assert fitted.diagonal_variance.min() == 0.2


class TestFactorAnalysis:
    """Rounds of parameter-expanded EM against closed forms and against scikit-learn."""

    def second(self, matrices=4, dim=9, rows=30):
        factor = torch.randn(matrices, dim, rows, dtype=torch.float64)
        return factor @ factor.mT / rows

    def test_no_round_lowers_the_likelihood(self, monkeypatch):
        monkeypatch.setattr(low_rank, "LATER_ROUNDS", 1)
        second = self.second()
        fitted = LowRankCovariance(torch.randn(4, 9, RANK).double(), torch.rand(4, 9).double() + 0.1)
        values = []
        for _ in range(60):
            fitted = LowRankCovariance(*factor_analysis(second, RANK, start=fitted))
            values.append(divergence(second, fitted))
        gains = torch.stack(values[:-1]) - torch.stack(values[1:])
        assert gains.min() > -1e-12
        assert gains[0].min() > 1e-3

    def test_a_step_is_that_of_rubin_and_thayer_with_the_covariance_of_the_factors(self):
        second = self.second()
        fitted = LowRankCovariance(torch.randn(4, 9, RANK).double(), torch.rand(4, 9).double() + 0.1)
        gain, noise = fitted.latent_posterior()
        cross = second @ gain.mT
        latent = noise + gain @ cross
        factor, variance = factor_step(cross, latent, second.diagonal(dim1=-2, dim2=-1), 0.0)
        plain = cross @ torch.linalg.inv(latent)
        residual = second - plain @ cross.mT
        torch.testing.assert_close(variance, residual.diagonal(dim1=-2, dim2=-1))
        torch.testing.assert_close(factor @ factor.mT, plain @ latent @ plain.mT)

    def test_the_posterior_of_the_factors_is_that_of_the_joint_gaussian(self):
        fitted = LowRankCovariance(torch.randn(4, 9, RANK).double(), torch.rand(4, 9).double() + 0.1)
        gain, noise = fitted.latent_posterior()
        torch.testing.assert_close(gain, fitted.factor.mT @ torch.linalg.inv(fitted.dense()))
        torch.testing.assert_close(noise, torch.eye(RANK).double() - gain @ fitted.factor)

    def test_equal_small_eigenvalues_give_probabilistic_pca(self):
        """Tipping and Bishop (1999): where the other eigenvalues are equal, PPCA's closed form is the optimum."""
        basis = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64)).Q
        values = torch.tensor([9.0, 6.0, 4.0, *[0.7] * 6], dtype=torch.float64)
        second = (basis * values) @ basis.T
        factor, variance = factor_analysis(second[None], 3)
        kept = basis[:, :3] * (values[:3] - 0.7)
        torch.testing.assert_close(factor[0] @ factor[0].T, kept @ basis[:, :3].T, rtol=0, atol=1e-6)
        torch.testing.assert_close(variance[0], torch.full((9,), 0.7, dtype=torch.float64), rtol=1e-6, atol=0)

    def test_full_rank_is_the_full_covariance(self):
        second = self.second(dim=5)
        assert divergence(second, LowRankCovariance(*factor_analysis(second, 5))).max() < 1e-6

    def test_it_reaches_the_likelihood_of_scikit_learn(self):
        rows = torch.randn(400, 2).double() @ torch.randn(2, 8).double() + 0.5 * torch.randn(400, 8).double()
        other = sklearn.decomposition.FactorAnalysis(2, tol=1e-10, max_iter=5000, svd_method="lapack").fit(rows.numpy())
        fitted = LowRankCovariance.from_second_moments(rows.T.cov(correction=0)[None], rank=2)
        mixture = GaussianMixture(torch.zeros(1).double(), rows.mean(dim=0)[None], fitted)
        assert float(mixture.log_prob(rows).mean()) == pytest.approx(other.score(rows.numpy()), abs=1e-4)

    def test_fewer_rows_than_factors_stop_at_the_floor(self):
        rows = torch.randn(2, 9, 3, dtype=torch.float64)
        start = LowRankCovariance(torch.randn(2, 9, 5).double(), torch.ones(2, 9).double())
        factor, variance = factor_analysis(rows @ rows.mT / 3, 5, start=start, floor=0.01)
        assert torch.isfinite(factor).all()
        assert variance.min() == 0.01
