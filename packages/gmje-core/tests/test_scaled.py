"""Mixtures with several scales against the same density with a factor for each component."""

import pytest
import torch

from gmje_core.densities.covariance.scaled import ScaledCovariance
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.densities.scaled import ScaledJointMixture
from gmje_core.errors import NonFiniteError, NotPositiveDefiniteError, ShapeError


def factors(count: int, dim: int, g: torch.Generator, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    lower = torch.randn(count, dim, dim, generator=g, dtype=torch.float64).tril(-1)
    return (0.3 * lower + torch.diag_embed(0.5 + torch.rand(count, dim, generator=g, dtype=torch.float64))).to(dtype)


def density(unit_norm: bool = False, dtype: torch.dtype = torch.float64) -> ScaledJointMixture:
    """Sizes, weights and scales that are all different, so that no two axes can be mistaken for each other."""
    g = torch.Generator().manual_seed(0)
    k, a, b, c, t = 4, 2, 3, 3, 2

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    return ScaledJointMixture(
        draw(k, a, b),
        2 * draw(k, c),
        2 * draw(k, t),
        factors(k, c, g, dtype),
        draw(k, t, c),
        factors(k, t, g, dtype),
        torch.tensor([0.5, 3.0], dtype=dtype),
        torch.tensor([0.3, 1.0, 9.0], dtype=dtype),
        unit_norm=unit_norm,
    )


def pairs(count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return (
        3 * torch.randn(count, 3, generator=g, dtype=torch.float64),
        3 * torch.randn(count, 2, generator=g, dtype=torch.float64),
    )


class TestAgainstTheExpandedMixture:
    def test_joint(self):
        z_context, z_target = pairs()
        expected = density().expanded().log_prob(z_context, z_target)
        torch.testing.assert_close(density().log_prob(z_context, z_target), expected, rtol=1e-10, atol=1e-10)

    def test_marginals(self):
        z_context, z_target = pairs()
        expanded = density().expanded()
        torch.testing.assert_close(density().context.log_prob(z_context), expanded.context.log_prob(z_context))
        torch.testing.assert_close(density().target.log_prob(z_target), expanded.target.log_prob(z_target))

    def test_conditional(self):
        z_context, z_target = pairs()
        mine, theirs = density().condition(z_context), density().expanded().condition(z_context)
        torch.testing.assert_close(mine.log_prob(z_target), theirs.log_prob(z_target), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mine.mean, theirs.mean)
        torch.testing.assert_close(mine.covariance_within, theirs.covariance_within)
        torch.testing.assert_close(mine.covariance_between, theirs.covariance_between)


def test_conditioning_times_the_marginal_is_the_joint():
    q, (z_context, z_target) = density(), pairs()
    product = q.context.log_prob(z_context) + q.condition(z_context).log_prob(z_target)
    torch.testing.assert_close(product, q.log_prob(z_context, z_target), rtol=1e-10, atol=1e-10)


def test_float32_agrees_with_float64():
    z_context, z_target = pairs()
    single = density(dtype=torch.float32).log_prob(z_context.float(), z_target.float())
    torch.testing.assert_close(single.double(), density().log_prob(z_context, z_target), rtol=1e-4, atol=1e-4)


def test_samples_have_the_moments_of_the_density():
    torch.manual_seed(0)
    q = density()
    count = 100_000
    z = torch.cat(q.sample((count,)), dim=1)
    joint = q.expanded().joint
    error = joint.variance.sqrt() / count**0.5
    assert ((z.mean(dim=0) - joint.mean).abs() < 4.5 * error).all()
    torch.testing.assert_close(torch.cov(z.T), joint.covariance_matrix, rtol=0.05, atol=0.15)
    posterior = q.condition(pairs(1)[0])
    drawn = posterior.sample((count,))[:, 0]
    assert ((drawn.mean(dim=0) - posterior.mean[0]).abs() < 4.5 * posterior.variance[0].sqrt() / count**0.5).all()


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_shapes_of_samples_and_the_sphere(shape):
    z_context, z_target = density(unit_norm=True).sample(shape)
    assert z_context.shape == (*shape, 3)
    assert z_target.shape == (*shape, 2)
    torch.testing.assert_close(z_context.norm(dim=-1), torch.ones(shape, dtype=torch.float64))
    torch.testing.assert_close(z_target.norm(dim=-1), torch.ones(shape, dtype=torch.float64))


class TestScaledCovariance:
    def covariance(self) -> ScaledCovariance:
        g = torch.Generator().manual_seed(2)
        return ScaledCovariance(factors(3, 4, g), torch.tensor([0.5, 2.0], dtype=torch.float64))

    @pytest.mark.parametrize("batch", [(), (5,)])
    def test_a_mixture_with_shared_means(self, batch):
        g = torch.Generator().manual_seed(3)
        covariance = self.covariance()
        means = torch.randn(*batch, 3, 4, generator=g, dtype=torch.float64).repeat_interleave(2, dim=-2)
        weights = torch.randn(6, generator=g, dtype=torch.float64)
        x = torch.randn(7, *batch, 4, generator=g, dtype=torch.float64)
        mine = GaussianMixture(weights, means, covariance)
        theirs = GaussianMixture.from_moments(weights.softmax(0), means, covariance.dense().expand(*batch, 6, 4, 4))
        torch.testing.assert_close(mine.log_prob(x), theirs.log_prob(x))
        torch.testing.assert_close(mine.covariance_matrix, theirs.covariance_matrix)

    def test_marginal_and_conditional(self):
        covariance = self.covariance()
        for index, dense in enumerate(covariance.dense()):
            torch.testing.assert_close(covariance.marginal([2, 0]).dense()[index], dense[[2, 0]][:, [2, 0]])
            conditional = covariance.conditional([1, 3], [0, 2])
            known, free = [1, 3], [0, 2]
            gain = dense[free][:, known] @ torch.linalg.inv(dense[known][:, known])
            torch.testing.assert_close(conditional.encode[index], gain)
            schur = dense[free][:, free] - gain @ dense[known][:, free]
            torch.testing.assert_close(conditional.covariance.dense()[index], schur)

    def test_noise(self):
        variance = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
        covariance = self.covariance()
        torch.testing.assert_close(covariance.add_diagonal(variance).dense(), covariance.dense() + torch.diag(variance))

    def test_bad_scales(self):
        g = torch.Generator().manual_seed(0)
        with pytest.raises(NotPositiveDefiniteError, match="scales must be positive"):
            ScaledCovariance(factors(2, 3, g), torch.tensor([1.0, 0.0], dtype=torch.float64))
        with pytest.raises(ShapeError, match="scale_tril and scales"):
            ScaledCovariance(factors(2, 3, g), torch.ones(2, 2))


def test_bad_input():
    q = density()
    with pytest.raises(ShapeError, match=r"z_context must have shape \(B, 3\)"):
        q.condition(torch.zeros(4, 2))
    with pytest.raises(ShapeError, match="rows"):
        q.log_prob(torch.zeros(4, 3), torch.zeros(5, 2))
    with pytest.raises(NonFiniteError, match="z_target"):
        q.log_prob(torch.zeros(1, 3), torch.full((1, 2), float("nan")))
    with pytest.raises(ShapeError, match="must have shapes"):
        ScaledJointMixture(
            *(torch.zeros(1, 1, 2), *[torch.zeros(1, 2)] * 2, *[torch.eye(2)[None]] * 3), torch.ones(1), torch.ones(1)
        )
