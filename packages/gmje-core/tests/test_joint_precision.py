"""Joint densities in float32 and half precision against float64."""

import pytest
import torch
from density_cases import TYPES, mixture_of, random_covariance, random_joint

from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture

pytestmark = pytest.mark.usefixtures("seeded")


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
def test_inference_in_float32_at_an_offset(kind):
    mixture = mixture_of(kind, scale=0.1)
    x = mixture.sample((50,))
    density = JointGaussianMixture(mixture.log_weights, mixture.means, mixture.covariance, context_dim=2)
    moved = JointGaussianMixture(
        mixture.log_weights.float(), (mixture.means + 100).float(), mixture.covariance.to(torch.float32), context_dim=2
    )
    truth = density.condition(x[:, :2]).log_prob(x[:, 2:]), density.pmi(x[:, :2], x[:, 2:])
    y = (x + 100).float()
    got = moved.condition(y[:, :2]).log_prob(y[:, 2:]), moved.pmi(y[:, :2], y[:, 2:])
    for expected, value in zip(truth, got, strict=True):
        assert (value.double() - expected).abs().max() < 0.02  # rounding of the embeddings themselves included
