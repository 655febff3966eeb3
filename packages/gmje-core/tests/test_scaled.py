"""Mixtures with several scales against the same density with a factor for each component."""

import pytest
import torch
from density_cases import Largest

from gmje_core.densities.covariance.scaled import ScaledCovariance
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.densities.scaled import ScaledJointMixture
from gmje_core.errors import NonFiniteError, NotPositiveDefiniteError, ShapeError


def factors(count: int, dim: int, g: torch.Generator, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    lower = torch.randn(count, dim, dim, generator=g, dtype=torch.float64).tril(-1)
    return (0.3 * lower + torch.diag_embed(0.5 + torch.rand(count, dim, generator=g, dtype=torch.float64))).to(dtype)


def density(
    unit_norm: bool = False, dtype: torch.dtype = torch.float64, dims: tuple[int, int] = (3, 2)
) -> ScaledJointMixture:
    """Sizes, weights and scales that are all different, so that no two axes can be mistaken for each other."""
    g = torch.Generator().manual_seed(0)
    k, a, b, (c, t) = 4, 2, 3, dims

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


def pairs(count: int = 50, dims: tuple[int, int] = (3, 2)) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    z_context, z_target = (3 * torch.randn(count, dim, generator=g, dtype=torch.float64) for dim in dims)
    return z_context, z_target


def with_gain(density: ScaledJointMixture, gain: torch.Tensor) -> ScaledJointMixture:
    """The density with one gain for all of its components."""
    parameters = list(density.parameters)
    parameters[4] = gain.expand_as(parameters[4])
    return ScaledJointMixture(*parameters, *density.scales)


# Gains of less than full rank for views of 3 and 2 dimensions.
SINGULAR = {
    "zero": torch.zeros(2, 3, dtype=torch.float64),
    "rank one": torch.tensor([[1.0, 2.0, -1.0], [2.0, 4.0, -2.0]], dtype=torch.float64),
}


class TestAgainstTheExpandedMixture:
    def test_joint(self):
        z_context, z_target = pairs()
        expected = density().expanded().log_prob(z_context, z_target)
        torch.testing.assert_close(density().log_prob(z_context, z_target), expected, rtol=1e-10, atol=1e-10)

    def test_marginal_of_contexts(self):
        z_context, _ = pairs()
        expanded = density().expanded()
        torch.testing.assert_close(density().context.log_prob(z_context), expanded.context.log_prob(z_context))

    def test_conditional(self):
        z_context, z_target = pairs()
        mine, theirs = density().condition(z_context), density().expanded().condition(z_context)
        torch.testing.assert_close(mine.log_prob(z_target), theirs.log_prob(z_target), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mine.mean, theirs.mean)
        torch.testing.assert_close(mine.covariance_within, theirs.covariance_within)
        torch.testing.assert_close(mine.covariance_between, theirs.covariance_between)


@pytest.mark.parametrize("dims", [(3, 2), (2, 4), (3, 3), (1, 1)])
class TestOfTargets:
    """The marginal of targets and the mixture of contexts given one, whose components share a frame for each factor."""

    def test_marginal_is_that_of_the_expanded_mixture(self, dims):
        _, z_target = pairs(dims=dims)
        mine, theirs = density(dims=dims).target, density(dims=dims).expanded().target
        assert mine.components == theirs.components
        torch.testing.assert_close(
            mine.component_log_prob(z_target), theirs.component_log_prob(z_target), rtol=1e-10, atol=1e-10
        )
        torch.testing.assert_close(mine.mean, theirs.mean)
        torch.testing.assert_close(mine.variance, theirs.variance)
        torch.testing.assert_close(mine.covariance_matrix, theirs.covariance_matrix)

    def test_conditional_is_that_of_the_expanded_mixture(self, dims):
        z_context, z_target = pairs(dims=dims)
        mine = density(dims=dims).condition_on_target(z_target)
        theirs = density(dims=dims).expanded().condition_on_target(z_target)
        assert (mine.batch_shape, mine.components, mine.dim) == (theirs.batch_shape, theirs.components, theirs.dim)
        torch.testing.assert_close(mine.log_weights, theirs.log_weights, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mine.means, theirs.means, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mine.covariance.dense(), theirs.covariance.dense(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mine.log_prob(z_context), theirs.log_prob(z_context), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mine.responsibilities(z_context), theirs.responsibilities(z_context))
        torch.testing.assert_close(mine.mean, theirs.mean)
        torch.testing.assert_close(mine.variance, theirs.variance)
        torch.testing.assert_close(mine.covariance_within, theirs.covariance_within)
        torch.testing.assert_close(mine.covariance_between, theirs.covariance_between)

    def test_marginals_times_conditionals_are_the_joint(self, dims):
        q, (z_context, z_target) = density(dims=dims), pairs(dims=dims)
        joint = q.log_prob(z_context, z_target)
        product = q.context.log_prob(z_context) + q.condition(z_context).log_prob(z_target)
        torch.testing.assert_close(product, joint, rtol=1e-10, atol=1e-10)
        product = q.target.log_prob(z_target) + q.condition_on_target(z_target).log_prob(z_context)
        torch.testing.assert_close(product, joint, rtol=1e-10, atol=1e-10)

    def test_pmi_is_that_of_the_expanded_mixture(self, dims):
        q, (z_context, z_target) = density(dims=dims), pairs(dims=dims)
        torch.testing.assert_close(
            q.pmi(z_context, z_target), q.expanded().pmi(z_context, z_target), rtol=1e-9, atol=1e-9
        )

    def test_float32_agrees_with_float64(self, dims):
        q, (z_context, z_target) = density(dims=dims), pairs(dims=dims)
        single = q.to(torch.float32)
        marginal = single.target.log_prob(z_target.float())
        torch.testing.assert_close(marginal.double(), q.target.log_prob(z_target), rtol=1e-4, atol=1e-4)
        mine, theirs = single.condition_on_target(z_target.float()), q.condition_on_target(z_target)
        assert mine.dtype == torch.float32
        torch.testing.assert_close(
            mine.log_prob(z_context.float()).double(), theirs.log_prob(z_context), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(mine.mean.double(), theirs.mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gain", SINGULAR.values(), ids=SINGULAR.keys())
def test_a_gain_of_any_rank(gain):
    q, (z_context, z_target) = with_gain(density(), gain), pairs()
    theirs = q.expanded()
    torch.testing.assert_close(q.target.log_prob(z_target), theirs.target.log_prob(z_target))
    mine = q.condition_on_target(z_target)
    torch.testing.assert_close(mine.log_prob(z_context), theirs.condition_on_target(z_target).log_prob(z_context))
    if not gain.any():  # the target then chooses among components only
        means = q.parameters[1].repeat_interleave(6, dim=0)
        torch.testing.assert_close(mine.means, means.expand(len(z_target), -1, -1))


def test_gradients_reach_the_target():
    z_context, z_target = pairs(4)
    q = density()

    def score(z_target):
        return q.condition_on_target(z_target).log_prob(z_context) + q.target.log_prob(z_target)

    torch.autograd.gradcheck(score, z_target.requires_grad_())


def test_no_rows():
    posterior = density().condition_on_target(torch.zeros(0, 2, dtype=torch.float64))
    assert (posterior.batch_shape, posterior.mean.shape) == ((0,), (0, 3))


def test_no_matrix_is_made_for_a_component():
    g = torch.Generator().manual_seed(0)
    k, a, b, dim, rows = 3, 10, 12, 40, 5
    means = torch.randn(2, k, dim, generator=g)
    context_tril, target_tril = factors(2 * k, dim, g, torch.float32).view(2, k, dim, dim)
    gain = torch.randn(k, dim, dim, generator=g)
    scales = torch.linspace(0.5, 2, a), torch.linspace(0.5, 2, b)
    q = ScaledJointMixture(torch.zeros(k, a, b), *means, context_tril, gain, target_tril, *scales)
    z_context, z_target = q.sample((rows,))
    with Largest() as largest:
        q.target.log_prob(z_target)
        posterior = q.condition_on_target(z_target)
        posterior.log_prob(z_context)
        posterior.sample()
        assert posterior.mean.shape == posterior.variance.shape == (rows, dim)
        assert posterior.covariance_matrix.shape == (rows, dim, dim)
    assert largest.elements <= rows * k * a * b * dim  # the means
    assert largest.elements < k * a * b * dim**2 / 5


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
    z_context, z_target = pairs(1)
    for posterior in (q.condition(z_context), q.condition_on_target(z_target)):
        drawn = posterior.sample((count,))[:, 0]
        assert ((drawn.mean(dim=0) - posterior.mean[0]).abs() < 4.5 * posterior.variance[0].sqrt() / count**0.5).all()
        products = torch.einsum("ni,nj->nij", *[drawn - posterior.mean] * 2)
        error = (products.mean(dim=0) - posterior.covariance_matrix[0]).abs()
        assert (error < 4.5 * products.std(dim=0) / count**0.5).all()


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

    @pytest.mark.parametrize("lead", [(), (5,), (2, 5)])
    def test_weighted_sums_make_no_matrix_for_a_component(self, lead):
        covariance = self.covariance()
        weights = torch.rand(*lead, 6, dtype=torch.float64)
        expected = (weights[..., None, None] * covariance.dense()).sum(dim=-3)
        torch.testing.assert_close(covariance.weighted_sum(weights), expected)
        tied = ScaledCovariance(covariance.scale_tril[:1], covariance.scales[1:])
        torch.testing.assert_close(tied.weighted_sum(weights.softmax(-1)), tied.dense()[0].expand(*lead, -1, -1))

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
    with pytest.raises(ShapeError, match=r"z_target must have shape \(B, 2\), but has \(4, 3\)"):
        q.condition_on_target(torch.zeros(4, 3))
    with pytest.raises(ShapeError, match=r"z_target must have shape \(B, 2\), but has \(2,\)"):
        q.condition_on_target(torch.zeros(2))
    with pytest.raises(ShapeError, match=r"value must have shape \(\.\.\., 2\)"):
        q.target.log_prob(torch.zeros(4, 3))
    with pytest.raises(NonFiniteError, match="z_target"):
        q.condition_on_target(torch.full((1, 2), float("inf")))
    with pytest.raises(ShapeError, match="rows"):
        q.log_prob(torch.zeros(4, 3), torch.zeros(5, 2))
    with pytest.raises(NonFiniteError, match="z_target"):
        q.log_prob(torch.zeros(1, 3), torch.full((1, 2), float("nan")))
    with pytest.raises(ShapeError, match="must have shapes"):
        ScaledJointMixture(
            *(torch.zeros(1, 1, 2), *[torch.zeros(1, 2)] * 2, *[torch.eye(2)[None]] * 3), torch.ones(1), torch.ones(1)
        )
