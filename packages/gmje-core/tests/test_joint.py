"""Joint densities against exact and float64 oracles, both ways of conditioning, and the identities of the pmi."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from density_cases import (
    TYPES,
    Reads,
    assert_relative,
    parameters_of,
    random_joint,
    scaled_covariance,
)
from scipy import stats

from gmje_core.densities import blockwise
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError, NonFiniteError, ShapeError
from gmje_core.objectives import pmi

DIMS = [(2, 3), (4, 1), (1, 4)]
# Relative error: rounding of float64 times the condition number.
CONDITIONS = {1e1: 1e-10, 1e4: 1e-10, 1e8: 1e-6}

pytestmark = pytest.mark.usefixtures("seeded")


def oracle_log_prob(weights, means, covariances, x):
    """Mixture log-density by scipy, one component at a time."""
    parts = [
        np.log(w) + stats.multivariate_normal(m, c, allow_singular=False).logpdf(x)
        for w, m, c in zip(weights.numpy(), means.numpy(), covariances.numpy(), strict=True)
    ]
    return torch.from_numpy(np.logaddexp.reduce(np.stack(parts), axis=0))


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


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", TYPES)
class TestIdentities:
    def test_pmi_is_the_sum_over_components(self, kind, tied):
        joint, z_c, z_t = random_joint(kind, tied=tied)
        by_context, by_target = joint.context.log_responsibilities(z_c), joint.target.log_responsibilities(z_t)
        inside = joint.component_pmi(z_c, z_t)
        identity = (by_context + by_target - joint.log_weights + inside).logsumexp(dim=-1)
        torch.testing.assert_close(joint.pmi(z_c, z_t), identity)
        if kind in ("diag", "spherical"):
            assert inside.abs().max() < 1e-12

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

    def test_detach_and_to(self, kind, tied):
        joint, z_c, z_t = random_joint(kind, tied=tied)
        leaf = joint.log_weights.clone().requires_grad_()
        free = JointGaussianMixture(leaf, joint.means, joint.covariance, 2)
        assert free.log_prob(z_c, z_t).requires_grad
        assert not free.detach().log_prob(z_c, z_t).requires_grad
        assert free.to(torch.float32).log_prob(z_c.float(), z_t.float()).requires_grad


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


def test_repr_names_the_form():
    joint, *_ = random_joint("diag", tied=True)
    assert "diag, tied, components=3, context_dim=2, target_dim=3" in repr(joint)


@pytest.mark.parametrize("kind", TYPES)
def test_gradients_with_removed_components_are_finite(kind):
    # log_softmax over -inf alone has NaN gradients; a removed component must have none.
    logits = torch.tensor([0.0, -math.inf, -math.inf], dtype=torch.float64, requires_grad=True)
    means = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    density = JointGaussianMixture(logits, means, scaled_covariance(kind), context_dim=2)
    z_context, z_target = (z.requires_grad_() for z in density.sample((6,)))
    for value in (
        density.log_prob(z_context, z_target),
        density.condition(z_context).log_prob(z_target),
        density.condition(z_context).mean,
        density.condition(z_context).weight_entropy,
        pmi(density, z_context, z_target),
        pmi(density, z_context, z_target, weights="batch"),
    ):
        assert value.isfinite().all()
        gradients = torch.autograd.grad(value.sum(), [z_context, logits, means], allow_unused=True, retain_graph=True)
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_no_value_is_read_without_validation(kind, tied):
    checked, z_c, z_t = random_joint(kind, tied=tied)
    with Reads() as reads:
        joint = JointGaussianMixture(checked.log_weights, checked.means, checked.covariance, 2, validate_args=False)
        joint.log_prob(z_c, z_t)
        joint.pmi(z_c, z_t)
        joint.component_pmi(z_c, z_t)
        joint.context.log_prob(z_c)
        joint.target.log_prob(z_t)
        joint.condition(z_c).log_prob(z_t)
        joint.condition_on_target(z_t).log_prob(z_c)
        if kind == "full":
            factor = checked.covariance.scale_tril
            JointGaussianMixture.from_scale_tril(checked.weights, checked.means, factor, 2, validate_args=False)
    assert reads.names == []
    with Reads() as reads:
        checked.log_prob(z_c, z_t)
    assert len(reads.names) == 2  # each view is checked once


JOINT, Z_C, Z_T = random_joint()


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
        (lambda: JointGaussianMixture.from_mixture(JOINT.joint, 5), ConfigError, "between 1 and D - 1 = 4, got 5"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()
