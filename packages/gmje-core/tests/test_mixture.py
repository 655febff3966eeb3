"""Densities against exact and float64 oracles, and the identities that any mixture must obey."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal

from gmje_core.densities import blockwise
from gmje_core.densities.covariance import DiagonalCovariance, FullCovariance, LowRankCovariance, SphericalCovariance
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError, NonFiniteError, NotPositiveDefiniteError, ShapeError

TYPES = ["full", "low_rank", "diag", "spherical"]
DIMS = [(2, 3), (4, 1), (1, 4)]
# Relative error: rounding of float64 times the condition number.
CONDITIONS = {1e1: 1e-10, 1e4: 1e-10, 1e8: 1e-6}


def random_covariance(kind, components, dim, condition=10.0, seed=0):
    """A float64 covariance whose condition number is about the one asked for."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(components, *shape, generator=generator, dtype=torch.float64)

    basis, _ = torch.linalg.qr(normal(dim, dim))
    values = condition ** -torch.linspace(0, 1, dim, dtype=torch.float64)
    if kind == "full":
        scale = normal(1).exp()[..., None]
        return FullCovariance(torch.linalg.cholesky(scale * (basis * values) @ basis.mT))
    if kind == "low_rank":
        rank = max(1, dim // 2)
        return LowRankCovariance(basis[..., :rank], (0.5 + normal(dim).sigmoid()) / condition)
    if kind == "diag":
        return DiagonalCovariance(values[torch.stack([torch.randperm(dim, generator=generator) for _ in normal()])])
    return SphericalCovariance(normal().exp(), dim)


def random_joint(kind="full", components=3, dims=(2, 3), condition=10.0, tied=False, seed=0):
    """A joint density, and pairs drawn from it."""
    generator = torch.Generator().manual_seed(100 + seed)
    dim = sum(dims)
    density = JointGaussianMixture(
        torch.randn(components, generator=generator, dtype=torch.float64),
        torch.randn(components, dim, generator=generator, dtype=torch.float64),
        random_covariance(kind, 1 if tied else components, dim, condition, seed),
        context_dim=dims[0],
    )
    torch.manual_seed(seed)
    return density, *density.sample((11,))


def oracle_log_prob(weights, means, covariances, x):
    """Mixture log-density by scipy, one component at a time."""
    parts = [
        np.log(w) + stats.multivariate_normal(m, c, allow_singular=False).logpdf(x)
        for w, m, c in zip(weights.numpy(), means.numpy(), covariances.numpy(), strict=True)
    ]
    return torch.from_numpy(np.logaddexp.reduce(np.stack(parts), axis=0))


def parameters_of(mixture, indices=slice(None)):
    """Weights, means and dense covariances of chosen dimensions."""
    dense = mixture.covariance.dense().expand(mixture.components, -1, -1)
    return mixture.weights, mixture.means[:, indices], dense[:, indices][:, :, indices]


def assert_relative(actual, expected, tolerance):
    error = ((actual - expected).abs() / expected.abs().clamp_min(1)).max()
    assert error < tolerance, f"relative error {float(error):.1e} above {tolerance:.0e}"


def exact_conditional(mean, covariance, given, values):
    """Mean, covariance and half log-determinant of the free dimensions, by elimination in rational numbers."""
    free = [i for i in range(len(mean)) if i not in given]
    order = [*given, *free]
    table = [[Fraction(float(covariance[i][j])) for j in order] for i in order]
    shift = [Fraction(float(v)) - Fraction(float(mean[i])) for v, i in zip(values, given, strict=True)]
    column = [*shift, *[Fraction(0)] * len(free)]  # ends as minus the shift of the free means
    for pivot in range(len(given)):
        for row in range(pivot + 1, len(order)):
            ratio = table[row][pivot] / table[pivot][pivot]
            column[row] -= ratio * column[pivot]
            for j in range(pivot, len(order)):
                table[row][j] -= ratio * table[pivot][j]
    size = len(given)
    means = [float(Fraction(float(mean[i])) - column[size + n]) for n, i in enumerate(free)]
    schur = torch.tensor([[float(x) for x in row[size:]] for row in table[size:]], dtype=torch.float64)
    work = [row[size:] for row in table[size:]]
    half_log_det = 0.0
    for pivot in range(len(free)):
        half_log_det += 0.5 * float(np.log(float(work[pivot][pivot])))
        for row in range(pivot + 1, len(free)):
            ratio = work[row][pivot] / work[pivot][pivot]
            for j in range(pivot, len(free)):
                work[row][j] -= ratio * work[pivot][j]
    return torch.tensor(means, dtype=torch.float64), schur, half_log_det


@pytest.mark.parametrize(("condition", "tolerance"), CONDITIONS.items())
@pytest.mark.parametrize("components", [1, 4])
@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", TYPES)
class TestOracles:
    def test_densities_equal_scipy(self, kind, tied, dims, components, condition, tolerance):
        joint, z_c, z_t = random_joint(kind, components, dims, condition, tied)
        z = torch.cat([z_c, z_t], dim=-1)
        context, target = slice(0, dims[0]), slice(dims[0], None)
        log_joint = oracle_log_prob(*parameters_of(joint.joint), z)
        log_context = oracle_log_prob(*parameters_of(joint.joint, context), z_c)
        log_target = oracle_log_prob(*parameters_of(joint.joint, target), z_t)
        assert_relative(joint.log_prob(z_c, z_t), log_joint, tolerance)
        assert_relative(joint.context.log_prob(z_c), log_context, tolerance)
        assert_relative(joint.target.log_prob(z_t), log_target, tolerance)
        assert_relative(joint.condition(z_c).log_prob(z_t), log_joint - log_context, tolerance)
        assert_relative(joint.condition_on_target(z_t).log_prob(z_c), log_joint - log_target, tolerance)
        assert_relative(joint.pmi(z_c, z_t), log_joint - log_context - log_target, tolerance)

    @pytest.mark.parametrize("direction", ["target", "context"])
    def test_conditionals_equal_exact_elimination(self, kind, tied, dims, components, condition, tolerance, direction):
        joint, z_c, z_t = random_joint(kind, components, dims, condition, tied)
        given = list(range(dims[0])) if direction == "target" else list(range(dims[0], sum(dims)))
        values = z_c if direction == "target" else z_t
        posterior = joint.condition(z_c) if direction == "target" else joint.condition_on_target(z_t)
        assert posterior.batch_shape == (11,)
        assert posterior.event_shape == (sum(dims) - len(given),)
        _, means, covariances = parameters_of(joint.joint)
        for k in range(components):
            mean, covariance, half_log_det = exact_conditional(means[k], covariances[k], given, values[0])
            scale = covariance.diagonal().sqrt()
            shared = 0 if tied else k
            error = (posterior.means[0, k] - mean) / scale
            assert error.abs().max() < tolerance * max(1, float(((means[k] - joint.means[k].mean()) / scale[0]).norm()))
            actual = posterior.covariance.dense()[shared]
            assert ((actual - covariance) / (scale[:, None] * scale)).abs().max() < tolerance
            assert abs(float(posterior.covariance.half_log_det()[shared]) - half_log_det) < tolerance


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_agrees_with_torch_distributions(kind, tied):
    joint, z_c, z_t = random_joint(kind, tied=tied)
    weights, means, covariances = parameters_of(joint.joint)
    reference = MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances))
    mixture = joint.joint
    torch.testing.assert_close(
        mixture.log_prob(torch.cat([z_c, z_t], -1)), reference.log_prob(torch.cat([z_c, z_t], -1))
    )
    torch.testing.assert_close(mixture.mean, reference.mean)
    torch.testing.assert_close(mixture.variance, reference.variance)
    torch.testing.assert_close(mixture.covariance_matrix.diagonal(), reference.variance)


class TestFloat32:
    @pytest.mark.parametrize("dims", [(8, 8), (5, 11)])
    @pytest.mark.parametrize("direction", ["target", "context"])
    def test_conditional_log_determinant_from_factors_at_condition_1e8(self, dims, direction):
        dim = sum(dims)
        scale_tril = random_covariance("full", 6, dim, 1e8).scale_tril.float()
        weights, means = torch.ones(6), torch.zeros(6, dim)
        joint = JointGaussianMixture.from_scale_tril(weights, means, scale_tril, dims[0])
        truth = JointGaussianMixture.from_scale_tril(weights, means, scale_tril.double(), dims[0])
        size = dims[0] if direction == "target" else dims[1]

        def half_log_det(density, dtype):
            values = torch.zeros(1, size, dtype=dtype)
            posterior = density.condition(values) if direction == "target" else density.condition_on_target(values)
            assert posterior.dtype == dtype
            return posterior.covariance.half_log_det().double()

        error = 2 * (half_log_det(joint, torch.float32) - half_log_det(truth, torch.float64))
        assert error.abs().max() < 1e-3

    @pytest.mark.parametrize("kind", TYPES)
    @pytest.mark.parametrize("direction", ["target", "context"])
    def test_stays_near_float64(self, kind, direction):
        joint, z_c, z_t = random_joint(kind, condition=100.0)
        half = joint.to(torch.float32)
        assert half.dtype == torch.float32
        for name in ("log_prob", "pmi"):
            precise = getattr(joint, name)(z_c.float().double(), z_t.float().double())
            assert (getattr(half, name)(z_c.float(), z_t.float()) - precise).abs().max() < 1e-3

    @pytest.mark.parametrize("kind", TYPES)
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_inputs_are_promoted_and_autocast_is_off(self, kind, dtype):
        joint, z_c, z_t = random_joint(kind)
        joint, z_c, z_t = joint.to(torch.float32), z_c.to(dtype), z_t.to(dtype)
        expected = joint.log_prob(z_c.float(), z_t.float())
        posterior = joint.condition(z_c.float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(joint.log_prob(z_c, z_t), expected)
            assert torch.equal(joint.condition(z_c).mean, posterior.mean)
            assert torch.equal(joint.condition(z_c).covariance_matrix, posterior.covariance_matrix)
            assert torch.equal(joint.pmi(z_c, z_t), joint.pmi(z_c.float(), z_t.float()))
            assert joint.sample((2,))[0].dtype == torch.float32

    def test_half_precision_parameters_are_promoted(self):
        mixture = GaussianMixture.from_moments(
            torch.ones(2).bfloat16(), torch.zeros(2, 3).bfloat16(), torch.eye(3).expand(2, 3, 3).bfloat16()
        )
        assert mixture.dtype == mixture.covariance.dtype == torch.float32

    def test_float64_inputs_are_not_rounded(self):
        joint, z_c, z_t = random_joint()
        narrow = joint.to(torch.float32)
        torch.testing.assert_close(narrow.log_prob(z_c, z_t), narrow.to(torch.float64).log_prob(z_c, z_t))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("direction", ["target", "context"])
@pytest.mark.parametrize("free", [1, 2])
def test_mass_of_conditionals_is_one(kind, direction, free):
    dims = (3, free) if direction == "target" else (free, 3)
    joint, z_c, z_t = random_joint(kind, dims=dims, condition=20.0)
    joint, given = joint.to(torch.float32), (z_c if direction == "target" else z_t)[:3]
    posterior = joint.condition(given) if direction == "target" else joint.condition_on_target(given)
    points = 4001 if free == 1 else 401
    spread = 8 * (posterior.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt().amax())
    for member in range(3):
        one = GaussianMixture(posterior.log_weights[member], posterior.means[member], posterior.covariance)
        axes = [torch.linspace(float(m - spread), float(m + spread), points) for m in one.mean]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        cell = torch.stack([a[1] - a[0] for a in axes]).prod()
        assert abs(float(one.log_prob(grid).exp().sum() * cell) - 1) < 1e-3


class TestSampling:
    @pytest.mark.parametrize("tied", [False, True])
    @pytest.mark.parametrize("kind", TYPES)
    def test_moments_within_four_standard_errors(self, kind, tied):
        # Variances far from one: a variance used as a standard deviation shows at once.
        joint, *_ = random_joint(kind, condition=30.0, tied=tied, seed=2)
        torch.manual_seed(0)
        count = 60_000
        x = torch.cat(joint.sample((count,)), dim=-1)
        mixture = joint.joint
        within_four(x, mixture.mean, count)
        centred = x - mixture.mean
        within_four(centred.unsqueeze(-1) * centred.unsqueeze(-2), mixture.covariance_matrix, count)

    @pytest.mark.parametrize("kind", TYPES)
    def test_moments_of_a_batched_posterior(self, kind):
        joint, z_c, _ = random_joint(kind, condition=30.0, seed=4)
        posterior = joint.condition(z_c[:3])
        torch.manual_seed(0)
        count = 60_000
        x = posterior.sample((count,))
        assert x.shape == (count, 3, 3)
        within_four(x, posterior.mean, count)
        centred = x - posterior.mean
        within_four(centred.unsqueeze(-1) * centred.unsqueeze(-2), posterior.covariance_matrix, count)

    def test_component_frequencies(self):
        weights = torch.tensor([0.1, 0.0, 0.6, 0.3])
        mixture = GaussianMixture.from_moments(
            weights, 100 * torch.arange(4.0)[:, None], 1e-4 * torch.eye(1).expand(4, 1, 1)
        )
        torch.manual_seed(0)
        drawn = (mixture.sample((20_000,)) / 100).round().long().flatten().bincount(minlength=4) / 20_000
        assert drawn[1] == 0
        assert ((drawn - weights).abs() <= 4 * (weights * (1 - weights) / 20_000).sqrt()).all()

    @pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
    @pytest.mark.parametrize("tied", [False, True])
    @pytest.mark.parametrize("kind", TYPES)
    def test_shapes(self, kind, tied, shape):
        joint, z_c, _ = random_joint(kind, tied=tied)
        context, target = joint.sample(shape)
        assert (context.shape, target.shape) == ((*shape, 2), (*shape, 3))
        posterior = joint.condition(z_c)
        assert posterior.sample(torch.Size(shape)).shape == (*shape, 11, 3)
        nothing = joint.condition(z_c[:0])
        assert nothing.sample(shape).shape == (*shape, 0, 3)
        assert nothing.log_prob(nothing.sample()).shape == joint.log_prob(z_c[:0], nothing.sample()).shape == (0,)

    def test_samples_repeat_with_the_seed_and_carry_no_gradient(self):
        joint, *_ = random_joint()
        torch.manual_seed(7)
        first = joint.joint.sample((5,))
        torch.manual_seed(7)
        assert torch.equal(first, joint.joint.sample((5,)))
        assert not first.requires_grad


def within_four(x, expected, count):
    """Means of samples within four standard errors."""
    error = (x.mean(dim=0) - expected).abs()
    assert (error <= 4 * x.std(dim=0) / count**0.5).all(), f"off by {float((error / x.std(dim=0)).max() * count**0.5)}"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", TYPES)
class TestIdentities:
    @pytest.mark.parametrize("indices", [[0], [4], [1, 3], [3, 0], [4, 2, 1], [-1, 0], [0, 1, 2, 3]])
    def test_conditional_times_marginal_is_joint(self, kind, tied, indices):
        mixture = random_joint(kind, tied=tied)[0].joint
        x = torch.randn(7, 5, dtype=torch.float64)
        free = [i for i in range(5) if i not in [j % 5 for j in indices]]
        conditional = mixture.condition(indices, x[:, indices]).log_prob(x[:, free])
        marginal = mixture.marginal(indices).log_prob(x[:, indices])
        torch.testing.assert_close(conditional + marginal, mixture.log_prob(x), rtol=1e-10, atol=1e-10)

    def test_conditioning_in_two_orders_agrees(self, kind, tied):
        mixture = random_joint(kind, tied=tied)[0].joint
        x = torch.randn(7, 5, dtype=torch.float64)
        once = mixture.condition([1, 4], x[:, [1, 4]])
        first_one = mixture.condition([1], x[:, [1]]).condition([3], x[:, [4]])  # 4 is the fourth of 0, 2, 3, 4
        first_four = mixture.condition([4], x[:, [4]]).condition([1], x[:, [1]])
        for other in (first_one, first_four):
            torch.testing.assert_close(other.log_weights, once.log_weights)
            torch.testing.assert_close(other.means, once.means)
            torch.testing.assert_close(other.covariance_matrix, once.covariance_matrix)

    @pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [1, 0, 3, 4, 2]])
    def test_permuting_dimensions_commutes(self, kind, tied, order):
        mixture = random_joint(kind, tied=tied)[0].joint
        x = torch.randn(7, 5, dtype=torch.float64)
        permuted = mixture.marginal(order)
        torch.testing.assert_close(permuted.log_prob(x[:, order]), mixture.log_prob(x))
        torch.testing.assert_close(permuted.covariance_matrix, mixture.covariance_matrix[order][:, order])
        given = [order.index(i) for i in (3, 0)]
        actual = permuted.condition(given, x[:, [3, 0]])
        expected = mixture.condition([3, 0], x[:, [3, 0]])
        rest = [i for i in order if i not in (3, 0)]
        torch.testing.assert_close(actual.mean, expected.mean[:, [[1, 2, 4].index(i) for i in rest]])

    def test_marginalising_in_two_steps_agrees(self, kind, tied):
        mixture = random_joint(kind, tied=tied)[0].joint
        x = torch.randn(7, 2, dtype=torch.float64)
        torch.testing.assert_close(
            mixture.marginal([4, 1, 3]).marginal([2, 0]).log_prob(x), mixture.marginal([3, 4]).log_prob(x)
        )

    def test_pmi_is_the_sum_over_components(self, kind, tied):
        joint, z_c, z_t = random_joint(kind, tied=tied)
        by_context, by_target = joint.context.log_responsibilities(z_c), joint.target.log_responsibilities(z_t)
        inside = joint.component_pmi(z_c, z_t)
        identity = (by_context + by_target - joint.log_weights + inside).logsumexp(dim=-1)
        torch.testing.assert_close(joint.pmi(z_c, z_t), identity)
        if kind in ("diag", "spherical"):
            assert inside.abs().max() < 1e-12

    def test_total_covariance_is_that_of_samples_of_components(self, kind, tied):
        joint, z_c, _ = random_joint(kind, tied=tied)
        posterior = joint.condition(z_c)
        w, m = posterior.weights, posterior.means
        dense = posterior.covariance.dense().expand(3, 3, 3)
        second = torch.einsum("bk,bkij->bij", w, dense + m[..., :, None] * m[..., None, :])
        expected = second - posterior.mean[..., :, None] * posterior.mean[..., None, :]
        torch.testing.assert_close(posterior.covariance_matrix, expected)
        torch.testing.assert_close(posterior.variance, expected.diagonal(dim1=-2, dim2=-1))
        torch.testing.assert_close(posterior.covariance_within, torch.einsum("bk,kij->bij", w, dense))

    def test_responsibilities_of_the_pair(self, kind, tied):
        joint, z_c, z_t = random_joint(kind, tied=tied)
        responsibilities = joint.log_responsibilities(z_c, z_t).exp()
        torch.testing.assert_close(responsibilities.sum(dim=-1), torch.ones(11, dtype=torch.float64))
        by_bayes = (joint.component_log_prob(z_c, z_t) - joint.log_prob(z_c, z_t)[:, None]).exp()
        torch.testing.assert_close(responsibilities, by_bayes)
        torch.testing.assert_close(joint.joint.responsibilities(torch.cat([z_c, z_t], -1)), responsibilities)

    def test_posterior_covariance_is_shared_by_the_batch(self, kind, tied):
        joint, z_c, _ = random_joint(kind, tied=tied)
        assert joint.condition(z_c).covariance.shape == ((1,) if tied else (3,))

    def test_expand(self, kind, tied):
        joint, z_c, z_t = random_joint(kind, tied=tied)
        mixture, z = joint.joint, torch.cat([z_c, z_t], -1)
        wide = mixture.expand((4, 11))
        assert wide.batch_shape == (4, 11)
        torch.testing.assert_close(wide.log_prob(z), mixture.log_prob(z).expand(4, 11))
        torch.testing.assert_close(
            wide.condition([0, 1], z_c).log_prob(z_t), joint.condition(z_c).log_prob(z_t).expand(4, 11)
        )
        assert wide.sample((2,)).shape == (2, 4, 11, 5)
        assert wide.mean.shape == (4, 11, 5)
        assert wide.covariance_within.shape == (4, 11, 5, 5)

    def test_detach_and_to(self, kind, tied):
        joint, z_c, z_t = random_joint(kind, tied=tied)
        leaf = joint.log_weights.clone().requires_grad_()
        free = JointGaussianMixture(leaf, joint.means, joint.covariance, 2)
        assert free.log_prob(z_c, z_t).requires_grad
        assert not free.detach().log_prob(z_c, z_t).requires_grad
        assert free.to(torch.float32).log_prob(z_c.float(), z_t.float()).requires_grad


@pytest.mark.parametrize("kind", TYPES)
def test_batched_parameters_equal_one_at_a_time(kind):
    # One mixture per row, covariances included: what a conditional network gives.
    singles = [random_joint(kind, seed=seed)[0].joint for seed in range(4)]
    parameters = [torch.stack(tensors) for tensors in zip(*[m.covariance.parameters for m in singles], strict=True)]
    batched = GaussianMixture(
        torch.stack([m.log_weights for m in singles]),
        torch.stack([m.means for m in singles]),
        singles[0].covariance.rebuild(*parameters),
    )
    assert batched.batch_shape == (4,)
    x = torch.randn(6, 4, 5, dtype=torch.float64)
    for i, single in enumerate(singles):
        torch.testing.assert_close(batched.log_prob(x)[:, i], single.log_prob(x[:, i]))
        torch.testing.assert_close(batched.mean[i], single.mean)
        torch.testing.assert_close(batched.covariance_matrix[i], single.covariance_matrix)
        posterior = batched.condition([3, 1], x[..., [3, 1]])
        expected = single.condition([3, 1], x[:, i][:, [3, 1]])
        torch.testing.assert_close(posterior.mean[:, i], expected.mean)
        torch.testing.assert_close(
            posterior.log_prob(x[..., [0, 2, 4]])[:, i], expected.log_prob(x[:, i][:, [0, 2, 4]])
        )
    assert batched.sample((3,)).shape == (3, 4, 5)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("chunk", [1, 2**18])
def test_gradients(kind, tied, chunk, monkeypatch):
    monkeypatch.setattr(blockwise, "CHUNK", chunk)
    joint, z_c, z_t = random_joint(kind, dims=(1, 2), tied=tied)
    parts = (joint.log_weights, joint.means, z_c[:2], z_t[:2], *joint.covariance.parameters)
    inputs = [t.detach().clone().requires_grad_() for t in parts]

    def outputs(log_weights, means, z_c, z_t, *parameters):
        parameters = [p.tril() for p in parameters] if kind == "full" else parameters
        density = JointGaussianMixture(log_weights, means, joint.covariance.rebuild(*parameters), 1)
        forward, backward = density.condition(z_c), density.condition_on_target(z_t)
        return (
            density.log_prob(z_c, z_t),
            density.pmi(z_c, z_t),
            forward.log_prob(z_t),
            forward.mean,
            forward.covariance_matrix,
            forward.weight_entropy,
            backward.log_prob(z_c),
            backward.variance,
        )

    torch.autograd.gradcheck(outputs, inputs)


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])  # low_rank is fitted without gradient
def test_gradient_in_dense_moments(kind):
    root = torch.randn(2, 3, 3, dtype=torch.float64)
    inputs = [torch.rand(2, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64), root]

    def function(weights, means, root):
        covariances = root @ root.mT + torch.eye(3)
        return GaussianMixture.from_moments(weights, means, covariances, kind).log_prob(torch.zeros(3).double())

    torch.autograd.gradcheck(function, [t.requires_grad_() for t in inputs])


class TestDeadComponents:
    def test_minus_infinity_removes_a_component_with_finite_gradients(self):
        logits = torch.tensor([0.0, -torch.inf, 1.0], requires_grad=True)
        covariance = random_covariance("diag", 3, 2).to(torch.float32)
        mixture = GaussianMixture(logits, torch.zeros(3, 2), covariance)
        assert mixture.weights[1] == 0
        loss = mixture.log_prob(torch.ones(4, 2)).sum() + mixture.weight_entropy + mixture.mean.sum()
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()

    def test_zero_weight_in_moments_has_finite_gradient(self):
        weights = torch.tensor([0.5, 0.0, 0.5], requires_grad=True)
        mixture = GaussianMixture.from_moments(weights, torch.zeros(3, 2), torch.eye(2).expand(3, 2, 2))
        mixture.log_prob(torch.ones(2)).backward()
        assert mixture.weights[1] == 0
        assert weights.grad.isfinite().all()

    def test_tiny_weights_are_not_floored(self):
        # A component of weight exp(-500) explains a far point better than all others.
        means = torch.tensor([[0.0], [100.0]])
        mixture = GaussianMixture(torch.tensor([0.0, -500.0]), means, SphericalCovariance(torch.ones(2), 1))
        assert mixture.responsibilities(torch.tensor([100.0]))[1] == 1


class TestDistribution:
    def test_is_a_torch_distribution(self):
        joint, z_c, z_t = random_joint()
        posterior = joint.condition(z_c)
        assert isinstance(posterior, Distribution)
        assert (joint.joint.batch_shape, joint.joint.event_shape) == ((), (5,))
        assert not posterior.has_rsample
        product = Independent(posterior, 1)
        torch.testing.assert_close(product.log_prob(z_t), posterior.log_prob(z_t).sum())
        for name, constraint in posterior.arg_constraints.items():
            assert constraint.check(getattr(posterior, name)).all()
        assert posterior.support.check(posterior.sample()).all()

    def test_validate_args_off_lets_values_pass(self):
        mixture = GaussianMixture(
            torch.zeros(1), torch.zeros(1, 2), DiagonalCovariance(torch.ones(1, 2)), validate_args=False
        )
        assert mixture.log_prob(torch.full((2,), torch.nan)).isnan()
        assert mixture.marginal([0]).log_prob(torch.tensor([torch.nan])).isnan()

    def test_weight_entropy(self):
        covariance = SphericalCovariance(torch.ones(1), 1)
        uniform = GaussianMixture(torch.zeros(8), torch.zeros(8, 1), covariance)
        torch.testing.assert_close(uniform.weight_entropy, torch.tensor(8.0).log())
        single = GaussianMixture(torch.tensor([0.0, -torch.inf]), torch.zeros(2, 1), covariance)
        assert single.weight_entropy == 0

    def test_repr_names_the_form(self):
        joint, *_ = random_joint("diag", tied=True)
        assert "diag, tied, components=3, context_dim=2, target_dim=3" in repr(joint)


JOINT, Z_C, Z_T = random_joint()
SINGULAR = torch.ones(1, 2, 2) - 2 * torch.eye(2)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: JOINT.log_prob(Z_T, Z_C), ShapeError, r"z_context must have shape \(\.\.\., 2\).*\(11, 3\)"),
        (lambda: JOINT.log_prob(Z_C, Z_T[:4]), ShapeError, r"\(11, 2\) and \(4, 3\)"),
        (lambda: JOINT.log_prob(Z_C, Z_T.log()), NonFiniteError, "z_target must be finite"),
        (lambda: JOINT.pmi(Z_C.log(), Z_T), NonFiniteError, "z_context must be finite, but holds nan in row"),
        (lambda: JOINT.condition(Z_T), ShapeError, r"z_context must have shape \(\.\.\., 2\)"),
        (lambda: JOINT.condition_on_target(Z_C), ShapeError, r"z_target must have shape \(\.\.\., 3\)"),
        (
            lambda: JOINT.condition(Z_C).log_prob(Z_T[:4]),
            ShapeError,
            r"\(4, 3\) must broadcast with batch_shape \(11,\)",
        ),
        (lambda: JOINT.joint.log_prob(torch.zeros(3)), ShapeError, r"value must have shape \(\.\.\., 5\).*\(3,\)"),
        (lambda: JOINT.joint.log_prob(torch.tensor(0.0)), ShapeError, r"\(\.\.\., 5\)"),
        (lambda: JOINT.joint.condition(range(5), torch.zeros(5)), ConfigError, "at least one of the 5"),
        (lambda: JOINT.joint.condition([0, 0], torch.zeros(2)), ConfigError, r"distinct, got \[0, 0\]"),
        (lambda: JOINT.joint.condition([4, -1], torch.zeros(2)), ConfigError, r"distinct, got \[4, 4\]"),
        (lambda: JOINT.joint.condition([0, 1], torch.zeros(3)), ShapeError, r"values must have shape \(\.\.\., 2\)"),
        (lambda: JOINT.joint.marginal([5]), ConfigError, r"0 to 4, got \[5\]"),
        (lambda: JOINT.joint.marginal([]), ConfigError, "at least one"),
        (lambda: JointGaussianMixture.from_mixture(JOINT.joint, 5), ConfigError, "between 1 and D - 1 = 4, got 5"),
        (
            lambda: GaussianMixture(torch.zeros(2), torch.zeros(3, 2), DiagonalCovariance(torch.ones(3, 2))),
            ShapeError,
            r"log_weights \(2,\), means \(3, 2\)",
        ),
        (
            lambda: GaussianMixture(torch.zeros(3), torch.zeros(3, 2), DiagonalCovariance(torch.ones(3, 4))),
            ShapeError,
            "dim 4",
        ),
        (
            lambda: GaussianMixture(torch.zeros(2, 3), torch.zeros(4, 3, 2), DiagonalCovariance(torch.ones(3, 2))),
            ShapeError,
            "batch shapes must broadcast",
        ),
        (
            lambda: GaussianMixture(
                torch.zeros(1), torch.full((1, 2), torch.nan), DiagonalCovariance(torch.ones(1, 2))
            ),
            NonFiniteError,
            "means",
        ),
        (
            lambda: GaussianMixture(
                torch.full((2,), -torch.inf), torch.zeros(2, 1), SphericalCovariance(torch.ones(1), 1)
            ),
            ConfigError,
            "at least one component",
        ),
        (
            lambda: GaussianMixture(
                torch.tensor([torch.nan]), torch.zeros(1, 1), SphericalCovariance(torch.ones(1), 1)
            ),
            NonFiniteError,
            "log_weights",
        ),
        (
            lambda: GaussianMixture.from_moments(torch.tensor([-1.0]), torch.zeros(1, 2), torch.eye(2)[None]),
            ConfigError,
            "not be negative, but the least is -1",
        ),
        (
            lambda: GaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), torch.eye(2)),
            ShapeError,
            r"\(2, 2\) beside means of shape \(1, 2\)",
        ),
        (
            lambda: GaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), SINGULAR),
            NotPositiveDefiniteError,
            "component 0",
        ),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()
