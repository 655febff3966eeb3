"""The conditionals of mixture density networks."""

import pytest
import torch
from density_cases import TYPES, assert_mass_is_one

from gmje_core.criteria import GMJEMDN
from gmje_core.densities.mixture import GaussianMixture

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("kind", TYPES)
def test_mass_of_a_network_s_conditional_is_one(kind):
    criterion = GMJEMDN((3, 2), 1, covariance_type=kind, rank=1, hidden=8, variance_floor=0.3)
    criterion(torch.randn(64, 3), torch.randn(64, 2) @ torch.tensor([[1.0, 0.9], [0.0, 0.1]]))
    posterior = criterion.condition(torch.randn(1, 3)).detach()
    assert_mass_is_one(
        GaussianMixture(posterior.log_weights[0], posterior.means[0], posterior.covariance.map(lambda t: t[0]))
    )


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("kind", TYPES)
def test_a_network_starts_at_half_the_deviation_of_the_target(kind, scale):
    criterion = GMJEMDN(4, 3, covariance_type=kind, rank=2, hidden=8, objective="nll", variance_floor=1e-8)
    z_context, z_target = torch.randn(2, 512, 4)
    criterion(z_context, scale * z_target)
    deviations = criterion.condition(z_context[:50]).covariance.diagonal().sqrt()
    assert 0.4 < (deviations / scale).mean() < 0.6


def test_spherical_conditionals_are_spherical():
    criterion = GMJEMDN((2, 3), 3, covariance_type="spherical", rank=2, hidden=8)
    criterion(torch.randn(64, 2), torch.randn(64, 3) * torch.tensor([0.1, 1.0, 10.0]))
    for parameter in criterion.network.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    dense = criterion.condition(torch.randn(5, 2)).covariance.dense()
    torch.testing.assert_close(dense, dense[..., :1, :1] * torch.eye(3))
    assert dense[:, :, 0, 0].unique().numel() == 15
