"""What the density of every criterion must obey: units, origin, calibration, precision."""

import math

import pytest
import torch
from density_cases import TYPES, assert_calibrated, assert_mean_is

from gmje_core.criteria import GJE, GMJE, GMJEGNG, GMJEMDN, GMJESMC

pytestmark = pytest.mark.usefixtures("seeded")


CRITERIA = {
    "gje": lambda dim: GJE(dim),
    "gje-learned": lambda dim: GJE(dim, moments="learned"),
    **{f"gmje-{t}": lambda dim, t=t: GMJE(dim, 5, covariance_type=t) for t in ("full", "diag", "spherical")},
    **{
        f"gmje-{t}-gradient": lambda dim, t=t: GMJE(dim, 5, covariance_type=t, update="gradient", rank=2) for t in TYPES
    },
    **{f"mdn-{t}": lambda dim, t=t: GMJEMDN(dim, 3, covariance_type=t, rank=2, hidden=8) for t in TYPES},
    "gng": lambda dim: GMJEGNG(dim, 12, insert_every=64),
    "smc": lambda dim: GMJESMC(dim, 200),
}


@pytest.mark.parametrize("scale", [1e-2, 1e2])
@pytest.mark.parametrize("name", CRITERIA)
def test_densities_follow_the_units(name, scale):
    draws = [torch.randn(2, 128, 3, dtype=torch.float64) + torch.arange(3) for _ in range(4)]
    densities = []
    for unit in (1.0, scale):
        criterion = CRITERIA[name](3)
        for z_context, z_target in draws:
            criterion(unit * z_context, unit * z_target)
        densities.append(criterion.density())
    z_context, z_target = draws[0]
    jacobian = 6 * math.log(scale)
    torch.testing.assert_close(
        densities[1].log_prob(scale * z_context, scale * z_target) + jacobian,
        densities[0].log_prob(z_context, z_target),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("name", ["gmje-spherical", "gmje-spherical-gradient", "gng", "smc"])
def test_spherical_components_are_spherical(name):
    criterion = CRITERIA[name](3)
    for _ in range(5):
        criterion(*(torch.randn(2, 128, 3) * torch.tensor([0.1, 1.0, 10.0])))
    dense = criterion.density().covariance.dense()
    torch.testing.assert_close(dense, dense[:, :1, :1] * torch.eye(6))


@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize("name", CRITERIA)
def test_pairs_of_every_criterion(name, scale):
    criterion = CRITERIA[name](3)
    for _ in range(4):
        criterion(*(scale * torch.randn(2, 128, 3)))
    density = criterion.density()
    z_context, z_target = density.sample((4000,))
    assert_calibrated(density.context, z_context)
    posterior = density.condition(z_context)
    distances = posterior.covariance.squared_mahalanobis(z_target, posterior.means)
    assert_mean_is((posterior.responsibilities(z_target) * distances).sum(dim=1), 3)


@pytest.mark.parametrize("name", CRITERIA)
def test_densities_do_not_depend_on_the_origin(name):
    # A power of two: the float32 embeddings themselves are shifted without rounding their mean away.
    draws = [(torch.randn(2, 128, 3) * 256).round() / 256 for _ in range(4)]
    values = []
    for offset in (0.0, 1024.0):
        criterion = CRITERIA[name](3)
        for z_context, z_target in draws:
            criterion(z_context + offset, z_target + offset)
        z_context, z_target = (z + offset for z in draws[0])
        values.append(criterion.density().log_prob(z_context, z_target))
    torch.testing.assert_close(values[1], values[0], rtol=0, atol=0.02)


@pytest.mark.parametrize("name", CRITERIA)
def test_autocast_changes_no_density(name):
    values = []
    for enabled in (False, True):
        torch.manual_seed(0)
        criterion = CRITERIA[name](3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            for _ in range(3):
                z = torch.randn(2, 64, 3)
                loss = criterion(*z)
            values.append((loss, criterion.density().log_prob(*z)))
    for plain, cast in zip(*values, strict=True):
        assert cast.dtype == torch.float32
        torch.testing.assert_close(cast, plain)
