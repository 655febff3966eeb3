"""Objectives against their definitions, and contrastive learning as the degenerate limit of the mixture."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from gmje_core.densities.covariance import DiagonalCovariance, FullCovariance, LowRankCovariance, SphericalCovariance
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.errors import BatchSizeError, ConfigError, NonFiniteError, NotPositiveDefiniteError, ShapeError
from gmje_core.objectives import (
    conditional_nll,
    gaussian_mutual_information,
    info_nce,
    info_nce_mixture,
    joint_nll,
    nt_xent,
    pmi,
)

COVARIANCES = {
    "full": lambda k, d, n: FullCovariance(0.3 * n(k, d, d).tril(-1) + torch.diag_embed(n(k, d).exp())),
    "low_rank": lambda k, d, n: LowRankCovariance(n(k, d, 2), n(k, d).exp()),
    "diag": lambda k, d, n: DiagonalCovariance(n(k, d).exp()),
    "spherical": lambda k, d, n: SphericalCovariance(n(k).exp(), d),
}


def normals(seed):
    """Float64 normal draws with their own seed."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def density_and_pairs(kind="full", components=3, dims=(2, 3), batch=9, seed=0):
    n = normals(seed)
    covariance = COVARIANCES[kind](components, sum(dims), n)
    density = JointGaussianMixture(n(components), n(components, sum(dims)), covariance, dims[0])
    return density, n(batch, dims[0]), n(batch, dims[1])


def units(count, dim, seed=0):
    n = normals(seed)
    a = n(count, dim)
    return a, a + 0.5 * n(count, dim)


@pytest.mark.parametrize("kind", COVARIANCES)
class TestLikelihoods:
    def test_definitions(self, kind):
        density, z_c, z_t = density_and_pairs(kind)
        joint = -density.log_prob(z_c, z_t)
        to_target = -density.condition(z_c).log_prob(z_t)
        to_context = -density.condition_on_target(z_t).log_prob(z_c)
        torch.testing.assert_close(joint_nll(density, z_c, z_t), joint.mean())
        torch.testing.assert_close(conditional_nll(density, z_c, z_t), to_target.mean())
        torch.testing.assert_close(conditional_nll(density, z_c, z_t, "context"), to_context.mean())
        torch.testing.assert_close(conditional_nll(density, z_c, z_t, "both"), 0.5 * (to_target + to_context).mean())

    def test_pmi_of_the_density(self, kind):
        density, z_c, z_t = density_and_pairs(kind)
        expected = density.log_prob(z_c, z_t) - density.context.log_prob(z_c) - density.target.log_prob(z_t)
        torch.testing.assert_close(pmi(density, z_c, z_t), expected)

    def test_pmi_with_the_weights_of_the_batch(self, kind):
        density, z_c, z_t = density_and_pairs(kind)
        by_context, by_target = density.context.responsibilities(z_c), density.target.responsibilities(z_t)
        usage = torch.cat([by_context, by_target]).mean(dim=0)
        inside = density.component_pmi(z_c, z_t).exp()
        expected = (by_context * by_target / usage * inside).sum(dim=-1).log()
        torch.testing.assert_close(pmi(density, z_c, z_t, weights="batch"), expected)

    @pytest.mark.parametrize("weights", ["density", "batch"])
    def test_pmi_of_one_component_is_gaussian(self, kind, weights):
        density, z_c, z_t = density_and_pairs(kind, components=1)
        torch.testing.assert_close(pmi(density, z_c, z_t, weights=weights), density.component_pmi(z_c, z_t)[:, 0])

    @pytest.mark.parametrize("weights", ["density", "batch"])
    def test_pmi_is_differentiable(self, kind, weights):
        density, z_c, z_t = density_and_pairs(kind, batch=3)
        inputs = [z_c, z_t, density.log_weights.clone(), density.means.clone()]

        def function(z_c, z_t, log_weights, means):
            return pmi(JointGaussianMixture(log_weights, means, density.covariance, 2), z_c, z_t, weights=weights)

        torch.autograd.gradcheck(function, [t.detach().requires_grad_() for t in inputs])


class TestPMIGradients:
    def test_batch_weights_carry_gradient(self):
        # Through the usage, a pair's dependence depends on the other pairs of the batch.
        density, z_c, z_t = density_and_pairs("spherical")
        z_c.requires_grad_()
        (grad,) = torch.autograd.grad(pmi(density, z_c, z_t, weights="batch")[0], z_c)
        assert grad[1:].abs().max() > 1e-6
        (grad,) = torch.autograd.grad(pmi(density, z_c, z_t)[0], z_c)
        assert grad[1:].abs().max() == 0

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dead_components_leave_values_and_gradients_finite(self, dtype):
        n = normals(0)
        means = torch.cat([n(2, 4), 1e6 * torch.ones(2, 4)]).to(dtype).requires_grad_()
        logits = torch.tensor([0.0, 0.0, 0.0, -torch.inf], dtype=dtype, requires_grad=True)
        variance = torch.full((4, 4), 1e-3, dtype=dtype, requires_grad=True)
        z_c, z_t = (n(6, 2).to(dtype).requires_grad_() for _ in range(2))
        density = JointGaussianMixture(logits, means, DiagonalCovariance(variance), 2)
        value = pmi(density, z_c, z_t, weights="batch")
        value.mean().backward()
        assert value.isfinite().all()
        for leaf in (means, logits, variance, z_c, z_t):
            assert leaf.grad.isfinite().all()
        alive = JointGaussianMixture(logits[:2], means[:2], DiagonalCovariance(variance[:2]), 2)
        torch.testing.assert_close(pmi(alive, z_c, z_t, weights="batch"), value, rtol=1e-3, atol=1e-3)

    def test_usage_rewards_spread_assignments(self):
        # Four far components. Using all of them is worth log 4 nats; using one is worth nothing.
        means = 20 * torch.eye(4, dtype=torch.float64)
        covariance = SphericalCovariance(torch.ones(1, dtype=torch.float64), 8)
        density = JointGaussianMixture(torch.zeros(4), torch.cat([means, means], dim=1), covariance, 4)
        spread, single = means, means[:1].expand(4, 4)
        torch.testing.assert_close(
            pmi(density, spread, spread, weights="batch"), torch.full((4,), math.log(4), dtype=torch.float64)
        )
        assert pmi(density, single, single, weights="batch").abs().max() < 1e-12


class TestGaussianMutualInformation:
    @pytest.mark.parametrize("context_dim", [1, 2, 4])
    def test_log_determinants(self, context_dim):
        root = normals(0)(3, 5, 5)
        covariance = root @ root.mT
        blocks = covariance[..., :context_dim, :context_dim], covariance[..., context_dim:, context_dim:]
        expected = 0.5 * (torch.logdet(blocks[0]) + torch.logdet(blocks[1]) - torch.logdet(covariance))
        torch.testing.assert_close(gaussian_mutual_information(covariance, context_dim), expected)
        torch.autograd.gradcheck(
            lambda r: gaussian_mutual_information(r @ r.mT, context_dim), root.clone().requires_grad_()
        )

    def test_is_the_mean_pmi_under_the_moments_of_the_batch(self):
        n = normals(0)
        z_c = n(200, 2)
        z_t = torch.cat([z_c, n(200, 1)], dim=1) @ n(3, 3)
        z = torch.cat([z_c, z_t + 0.1 * n(200, 3)], dim=1)
        covariance = torch.cov(z.T, correction=0)
        density = JointGaussianMixture.from_moments(torch.ones(1), z.mean(0)[None], covariance[None], 2)
        torch.testing.assert_close(gaussian_mutual_information(covariance, 2), density.pmi(z[:, :2], z[:, 2:]).mean())

    def test_independent_blocks_share_nothing(self):
        assert gaussian_mutual_information(torch.diag(torch.tensor([1.0, 2.0, 3.0])), 1) == 0

    def test_bad_input(self):
        with pytest.raises(ConfigError, match="between 1 and D - 1 = 1, got 2"):
            gaussian_mutual_information(torch.eye(2), 2)
        with pytest.raises(NotPositiveDefiniteError):
            gaussian_mutual_information(-torch.eye(2), 1)


class TestContrast:
    @pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 2.0])
    def test_info_nce_is_the_limit_of_the_mixture(self, temperature):
        z_c, z_t = units(16, 8)
        context = F.normalize(z_c, dim=-1)
        target = F.normalize(z_t, dim=-1)
        expected = info_nce(z_c, z_t, temperature)
        gaps = []
        for scale in (1.0, 0.3, 0.1, 0.03, 1e-2, 1e-3):
            density = info_nce_mixture(z_t, temperature, scale)
            gaps.append(abs(float(math.log(16) - density.pmi(context, target).mean() - expected)))
        assert all(later < earlier or later < 1e-12 for earlier, later in itertools.pairwise(gaps))
        assert gaps[0] > 1e-2
        assert gaps[-1] < 1e-10

    def test_the_mixture_has_the_structure_of_the_limit(self):
        density = info_nce_mixture(torch.randn(5, 3), 0.2, 1e-2)
        torch.testing.assert_close(density.weights, torch.full((5,), 0.2))
        torch.testing.assert_close(density.means[:, :3], density.means[:, 3:])
        torch.testing.assert_close(density.covariance.diagonal()[0], torch.tensor([0.2] * 3 + [0.01] * 3))
        assert density.covariance.tied

    @pytest.mark.parametrize("temperature", [0.1, 1.0])
    def test_info_nce_by_its_definition(self, temperature):
        z_c, z_t = units(7, 4)
        a, b = z_c / z_c.norm(dim=1, keepdim=True), z_t / z_t.norm(dim=1, keepdim=True)
        terms = [
            -math.log(math.exp(a[i] @ b[i] / temperature) / sum(math.exp(a[i] @ b[j] / temperature) for j in range(7)))
            for i in range(7)
        ]
        assert abs(float(info_nce(z_c, z_t, temperature)) - sum(terms) / 7) < 1e-12

    @pytest.mark.parametrize("temperature", [0.1, 1.0])
    def test_nt_xent_by_its_definition(self, temperature):
        z_c, z_t = units(6, 4)
        z = F.normalize(torch.cat([z_c, z_t]), dim=-1)
        terms = []
        for i in range(12):
            others = [math.exp(z[i] @ z[j] / temperature) for j in range(12) if j != i]
            terms.append(-math.log(math.exp(z[i] @ z[(i + 6) % 12] / temperature) / sum(others)))
        assert abs(float(nt_xent(z_c, z_t, temperature)) - sum(terms) / 12) < 1e-12

    @pytest.mark.parametrize(("loss", "chance"), [(info_nce, math.log(8)), (nt_xent, math.log(15))])
    def test_chance_scale_and_gradient(self, loss, chance):
        same = torch.ones(8, 3, dtype=torch.float64)
        assert abs(float(loss(same, same)) - chance) < 1e-12
        z_c, z_t = units(8, 3)
        torch.testing.assert_close(loss(5 * z_c, 0.1 * z_t), loss(z_c, z_t))
        torch.autograd.gradcheck(loss, (z_c.clone().requires_grad_(), z_t.clone().requires_grad_()))

    @pytest.mark.parametrize("loss", [info_nce, nt_xent])
    def test_half_precision_and_autocast(self, loss):
        z_c, z_t = (z.bfloat16() for z in units(8, 3))
        expected = loss(z_c.float(), z_t.float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(loss(z_c, z_t), expected)

    @pytest.mark.parametrize("loss", [info_nce, nt_xent])
    def test_bad_input(self, loss):
        z = torch.randn(4, 3)
        with pytest.raises(ShapeError, match=r"\(4, 3\) and \(3, 3\)"):
            loss(z, z[:3])
        with pytest.raises(BatchSizeError, match="at least 2 pairs, but the batch holds 1"):
            loss(z[:1], z[:1])
        with pytest.raises(ConfigError, match=r"temperature must be positive and finite, got 0.0"):
            loss(z, z, temperature=0.0)
        with pytest.raises(NonFiniteError, match="z_target"):
            loss(z, z * torch.nan)
        with pytest.raises(ConfigError, match="target_scale must be positive, got 0"):
            info_nce_mixture(z, target_scale=0)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda d, c, t: conditional_nll(d, c, t, "tarhet"), ConfigError, "unknown direction 'tarhet'.*'target'"),
        (lambda d, c, t: pmi(d, c, t, weights="bacth"), ConfigError, "unknown weights 'bacth'; did you mean 'batch'"),
        (lambda d, c, t: joint_nll(d, t, c), ShapeError, "z_context must have shape"),
        (lambda d, c, t: pmi(d, c, t[:2], weights="batch"), ShapeError, "same rows"),
        (lambda d, c, t: conditional_nll(d, c * torch.inf, t), NonFiniteError, "z_context"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call(*density_and_pairs())


def test_blocks_of_the_contrastive_mixture():
    density = info_nce_mixture(torch.randn(4, 3), temperature=0.5, target_scale=0.25)
    torch.testing.assert_close(density.context.covariance.diagonal(), torch.full((1, 3), 0.5))
    torch.testing.assert_close(density.target.covariance.diagonal(), torch.full((1, 3), 0.25))
