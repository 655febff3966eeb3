"""The identities that any mixture must obey, its samples, and its limits."""

import math

import pytest
import torch
from density_cases import (
    TYPES,
    Reads,
    mixture_of,
    parameters_of,
    random_covariance,
    random_joint,
)
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal

from gmje_core.densities.covariance import DiagonalCovariance, SphericalCovariance
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError, NonFiniteError, NotPositiveDefiniteError, ShapeError

pytestmark = pytest.mark.usefixtures("seeded")


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


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])  # low_rank is fitted without gradient
def test_gradient_in_dense_moments(kind):
    root = torch.randn(2, 3, 3, dtype=torch.float64)
    inputs = [torch.rand(2, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64), root]

    def function(weights, means, root):
        covariances = root @ root.mT + torch.eye(3)
        return GaussianMixture.from_moments(weights, means, covariances, kind).log_prob(torch.zeros(3).double())

    torch.autograd.gradcheck(function, [t.requires_grad_() for t in inputs])


def test_weights_that_move_to_a_device_keep_every_bit():
    # Normalising these once more changes their last digit, and what is read from a file is moved to its device.
    for logits in torch.randn(50, 7, generator=torch.Generator().manual_seed(0)):
        mixture = GaussianMixture(logits, torch.zeros(7, 2), SphericalCovariance(torch.ones(7), 2))
        assert torch.equal(mixture.to("cpu").log_weights, mixture.log_weights)


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

    def test_removed_components_say_nothing(self):
        logits = torch.tensor([0.3, -math.inf, 1.0])
        mixture = mixture_of("full").to(torch.float32)
        some = GaussianMixture(logits, mixture.means, mixture.covariance)
        left = GaussianMixture(logits[[0, 2]], mixture.means[[0, 2]], mixture.covariance.map(lambda t: t[[0, 2]]))
        x = mixture.sample((9,))
        torch.testing.assert_close(some.log_prob(x), left.log_prob(x))
        torch.testing.assert_close(some.weight_entropy, left.weight_entropy)
        torch.testing.assert_close(some.covariance_matrix, left.covariance_matrix)

    @pytest.mark.parametrize("kind", TYPES)
    def test_a_point_that_every_component_gives_no_mass(self, kind):
        mixture = mixture_of(kind).to(torch.float32)
        x = torch.full((1, 5), 1e4, requires_grad=True)
        assert mixture.log_prob(x.detach()).exp() == 0
        value = mixture.log_prob(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
        assert mixture.responsibilities(x).sum().isclose(torch.ones(()))


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


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_no_value_is_read_without_validation(kind, tied):
    joint, z_c, z_t = random_joint(kind, tied=tied)
    x = torch.cat([z_c, z_t], dim=-1)
    parameters = (joint.log_weights, joint.means, joint.covariance)
    with Reads() as reads:
        mixture = GaussianMixture(*parameters, validate_args=False)
        mixture.log_prob(x)
        mixture.log_prob(x.float())
        mixture.responsibilities(x)
        for posterior in (mixture.condition([0, 1], x[:, :2]), mixture.condition([3, 1], x[:, [3, 1]])):
            posterior.log_prob(x[:, 2:])
            posterior.covariance_matrix.sum()
            posterior.variance.sum()
            posterior.weight_entropy.sum()
            posterior.marginal([-1]).detach().log_prob(x[:, -1:])
        mixture.expand((4, 11)).log_prob(x)
        mixture.to(torch.float32).log_prob(x)
    assert reads.names == []
    with Reads() as reads:
        GaussianMixture(*parameters)
    assert reads.names  # the counter sees the checks


JOINT, Z_C, Z_T = random_joint()
SINGULAR = torch.ones(1, 2, 2) - 2 * torch.eye(2)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: JOINT.joint.log_prob(torch.zeros(3)), ShapeError, r"value must have shape \(\.\.\., 5\).*\(3,\)"),
        (lambda: JOINT.joint.log_prob(torch.tensor(0.0)), ShapeError, r"\(\.\.\., 5\)"),
        (lambda: JOINT.joint.condition(range(5), torch.zeros(5)), ConfigError, "at least one of the 5"),
        (lambda: JOINT.joint.condition([0, 0], torch.zeros(2)), ConfigError, r"distinct, got \[0, 0\]"),
        (lambda: JOINT.joint.condition([4, -1], torch.zeros(2)), ConfigError, r"distinct, got \[4, 4\]"),
        (lambda: JOINT.joint.condition([0, 1], torch.zeros(3)), ShapeError, r"values must have shape \(\.\.\., 2\)"),
        (lambda: JOINT.joint.marginal([5]), ConfigError, r"0 to 4, got \[5\]"),
        (lambda: JOINT.joint.marginal([]), ConfigError, "at least one"),
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
