"""Canonical axes of linear Gaussian channels against what defines them."""

import pytest
import torch

from gmje_core.densities.canonical import CanonicalAxes

K = 4


def channel(context_dim: int, target_dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)

    def lower(dim: int) -> torch.Tensor:
        factor = torch.randn(K, dim, dim, generator=g, dtype=torch.float64)
        return factor.tril(-1) + torch.diag_embed(0.5 + factor.diagonal(dim1=1, dim2=2).abs())

    gain = torch.randn(K, target_dim, context_dim, generator=g, dtype=torch.float64)
    return lower(context_dim), gain, lower(target_dim)


@pytest.mark.parametrize("dims", [(3, 3), (4, 2), (2, 4), (1, 3)])
class TestCanonicalAxes:
    def test_axes_are_roots_of_the_covariances(self, dims):
        context, gain, target = channel(*dims)
        axes = CanonicalAxes.of_channel(context, gain, target)
        torch.testing.assert_close(axes.context @ axes.context.mT, context @ context.mT)
        torch.testing.assert_close(axes.target @ axes.target.mT, target @ target.mT)

    def test_the_channel_acts_on_each_coordinate_alone(self, dims):
        context, gain, target = channel(*dims)
        axes = CanonicalAxes.of_channel(context, gain, target)
        inside = torch.linalg.inv(axes.target) @ gain @ axes.context
        expected = torch.zeros_like(inside)
        expected.diagonal(dim1=1, dim2=2).copy_(axes.strengths)
        torch.testing.assert_close(inside, expected, rtol=1e-9, atol=1e-9)

    def test_strengths_give_the_canonical_correlations(self, dims):
        context, gain, target = channel(*dims)
        axes = CanonicalAxes.of_channel(context, gain, target)
        within = context @ context.mT
        cross = gain @ within
        marginal = cross @ gain.mT + target @ target.mT
        explained = torch.linalg.solve(marginal, cross) @ torch.linalg.solve(within, cross.mT)
        squares = torch.linalg.eigvals(explained).real.sort(descending=True).values[:, : min(dims)]
        found = axes.strengths.square() / (1 + axes.strengths.square())
        torch.testing.assert_close(found, squares, rtol=1e-8, atol=1e-10)

    def test_covariances_and_means_are_those_of_conditioning(self, dims):
        context, gain, target = channel(*dims)
        scales = torch.tensor([0.2, 3.0], dtype=torch.float64), torch.tensor([0.5, 1.0, 9.0], dtype=torch.float64)
        axes = CanonicalAxes.of_channel(context, gain, target)
        residual = torch.randn(5, K, dims[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        marginals, posteriors = (f(*scales).dense() for f in (axes.target_covariance, axes.context_covariance))
        shifts = axes.context_shift(residual, *scales)
        for k in range(K):
            for a, alpha in enumerate(scales[0]):
                for b, beta in enumerate(scales[1]):
                    component = (k * 2 + a) * 3 + b
                    within, noise = alpha * context[k] @ context[k].T, beta * target[k] @ target[k].T
                    marginal = gain[k] @ within @ gain[k].T + noise
                    torch.testing.assert_close(marginals[component], marginal)
                    back = torch.linalg.solve(marginal, gain[k] @ within).T
                    torch.testing.assert_close(posteriors[component], within - back @ gain[k] @ within)
                    torch.testing.assert_close(shifts[:, component], residual[:, k] @ back.T)


def test_axes_carry_no_gradient():
    parts = [part.requires_grad_() for part in channel(3, 2)]
    axes = CanonicalAxes.of_channel(*parts)
    assert not any(part.requires_grad for part in (axes.context, axes.target, axes.strengths))
