"""Distances through products: float32 where it keeps the digits, float64 where it would lose them."""

import pytest
import torch

from gmje_core.densities.covariance import DiagonalCovariance, LowRankCovariance, SphericalCovariance
from gmje_core.densities.distances import for_products

COMPONENTS, DIM = 7, 6


def covariances(variance):
    """One covariance of each form that takes distances through products."""
    generator = torch.Generator().manual_seed(1)
    spread = variance * (0.5 + torch.rand(COMPONENTS, DIM, generator=generator))
    factor = variance**0.5 * torch.randn(COMPONENTS, DIM, 2, generator=generator)
    return [SphericalCovariance(spread[:, 0], DIM), DiagonalCovariance(spread), LowRankCovariance(factor, spread)]


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("variance", [1.0, 1e-2, 1e-6])
@pytest.mark.parametrize("form", range(3))
def test_distances_in_float32_are_those_of_float64(form, variance, offset):
    covariance = covariances(variance)[form]
    generator = torch.Generator().manual_seed(0)
    means = offset + torch.randn(COMPONENTS, DIM, generator=generator)
    # Each row is near a mean, so that a small distance is a difference of large products.
    x = means[torch.arange(40) % COMPONENTS] + variance**0.5 * torch.randn(40, DIM, generator=generator)
    found = covariance.squared_mahalanobis(x, means).double()
    difference = x.double().unsqueeze(1) - means.double()
    dense = covariance.to(torch.float64).dense()
    expected = (difference * torch.linalg.solve(dense, difference.unsqueeze(-1)).squeeze(-1)).sum(dim=-1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * DIM)


def test_float32_is_kept_only_where_it_has_the_digits():
    x = torch.randn(10, DIM, generator=torch.Generator().manual_seed(0))
    assert for_products(x, x[:3], torch.ones(1, 1))[0].dtype == torch.float32
    assert (
        for_products(x + 1000, x[:3] + 1000, torch.ones(1, DIM))[0].dtype == torch.float32
    )  # a common offset is moved
    assert for_products(x, x[:3], torch.full((1, 1), 1e4))[0].dtype == torch.float64
    assert for_products(x, 1e4 + x[:3], torch.ones(3, DIM))[1].dtype == torch.float64
    assert for_products(x.double(), x[:3].double(), torch.ones(1, 1))[0].dtype == torch.float64
    assert for_products(x.new_zeros(0, DIM), x[:3], torch.ones(1, 1))[0].shape == (0, DIM)


def test_a_row_that_is_not_finite_does_not_choose_float32():
    x = torch.full((1, DIM), torch.nan)
    assert for_products(x, torch.zeros(2, DIM), torch.ones(1, 1))[0].dtype == torch.float64
