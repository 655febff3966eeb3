"""Spherical covariances: variances repeated and reshaped in the wrong order mix components with dimensions."""

import pytest
import torch
from density_cases import make

from gmje_core.densities.covariance import SphericalCovariance, covariance_from_dense

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize(("components", "dim"), [(2, 3), (3, 2), (4, 4), (1, 5), (5, 1)])
def test_everything_that_it_can_be_asked(components, dim):
    variance = torch.arange(1.0, components + 1, dtype=torch.float64)
    spherical = SphericalCovariance(variance, dim)
    eye = torch.eye(dim, dtype=torch.float64)
    expected = torch.stack([v * eye for v in variance])
    assert torch.equal(spherical.dense(), expected)
    assert torch.equal(spherical.diagonal(), torch.stack([torch.full((dim,), v).double() for v in variance]))
    torch.testing.assert_close(spherical.half_log_det(), 0.5 * torch.logdet(expected))
    assert torch.equal(spherical.add_diagonal(torch.ones(dim).double()).dense(), expected + eye)
    assert torch.equal(spherical.marginal([0]).dense(), variance[:, None, None])
    x, means = torch.randn(7, dim, dtype=torch.float64), torch.randn(components, dim, dtype=torch.float64)
    torch.testing.assert_close(
        spherical.squared_mahalanobis(x, means), (x[:, None] - means).square().sum(dim=-1) / variance
    )


def test_noise_that_differs_by_dimension_is_not_spherical():
    noise = torch.tensor([1.0, 2.0, 3.0])
    noisy = SphericalCovariance(torch.tensor([10.0, 20.0]), 3).add_diagonal(noise)
    assert noisy.dense().diagonal(dim1=-2, dim2=-1).tolist() == [[11, 12, 13], [21, 22, 23]]


def test_draws():
    spherical = SphericalCovariance(torch.tensor([1.0, 100.0, 1e4]), 2)
    noise = spherical.draw(torch.arange(3).expand(20_000, 3))
    deviations = noise.std(dim=0)
    torch.testing.assert_close(deviations, torch.tensor([[1.0], [10.0], [100.0]]).expand(3, 2), rtol=0.03, atol=0)


def test_spherical_from_dense_is_spherical():
    covariance = covariance_from_dense(make("full", (3,)).dense(), "spherical")
    assert (covariance.diagonal() == covariance.diagonal()[:, :1]).all()
