"""Samples of mixtures: moments, frequencies, shapes and seeds."""

import pytest
import torch
from density_cases import TYPES, assert_calibrated, mixture_of, random_joint, within_four

from gmje_core.densities.mixture import GaussianMixture

pytestmark = pytest.mark.usefixtures("seeded")


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


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("kind", TYPES)
def test_mean_squared_distance_is_the_dimension(kind, scale):
    # A variance used as the standard deviation is invisible near one: these are far from it.
    mixture = mixture_of(kind, scale=scale)
    for density in (mixture, mixture.condition([1, 3], mixture.sample((1,))[0, [1, 3]])):
        assert_calibrated(density, density.sample((20_000,)))
