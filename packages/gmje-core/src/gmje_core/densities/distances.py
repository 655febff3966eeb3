"""Squared Euclidean distances between rows and centres, through matrix products instead of differences."""

import torch
from torch import Tensor

from gmje_core.densities.blockwise import has_graph

__all__ = ["as_distances", "common_origin", "squared_distances", "weighted_squared_distances"]


def common_origin(x: Tensor, means: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Move rows and means to the mean of the means as origin, so that products of them keep their digits.

    Distances do not depend on the origin. It is therefore detached: gradients need not pass through it.

    Args:
        x: Rows of shape ``(B, D)``.
        means: Centres of shape ``(K, D)``.
        dtype: Precision of the results; that of ``means`` where it is ``None``.

    Returns:
        The moved rows and the moved means.
    """
    origin = means.detach().to(dtype or means.dtype).mean(dim=0)
    return x - origin, means - origin


def squared_distances(x: Tensor, means: Tensor) -> Tensor:
    """Squared Euclidean distances, by one matrix product; rounding may leave small ones below zero.

    Args:
        x: Rows of shape ``(B, D)``, in the precision that the products should have.
        means: Centres of shape ``(K, D)``.

    Returns:
        Tensor of shape ``(B, K)``.

    Examples:
        >>> squared_distances(torch.tensor([[1.0]]), torch.tensor([[0.0], [3.0]]))
        tensor([[1., 4.]])
    """
    distances = torch.addmm(means.square().sum(dim=-1), x, means.T, alpha=-2)
    return distances.add_(x.square().sum(dim=-1, keepdim=True))


def weighted_squared_distances(x: Tensor, means: Tensor, precision: Tensor) -> Tensor:
    r"""Squared distances :math:`\sum_d p_{kd} (x_d - \mu_{kd})^2`, by two matrix products.

    Rounding may leave small ones below zero.

    Args:
        x: Rows of shape ``(B, D)``, in the precision that the products should have.
        means: Centres of shape ``(K, D)``.
        precision: Inverse variances of shape ``(K, D)`` or ``(1, D)``.

    Returns:
        Tensor of shape ``(B, K)``.

    Examples:
        >>> weighted_squared_distances(torch.tensor([[1.0]]), torch.tensor([[0.0], [3.0]]), torch.tensor([[0.5]]))
        tensor([[0.5000, 2.0000]])
    """
    scaled = means * precision
    distances = torch.addmm((scaled * means).sum(dim=-1), x, scaled.T, alpha=-2)
    if len(precision) == 1:
        return distances.add_(x.square() @ precision.T)
    return distances.addmm_(x.square(), precision.T)


def as_distances(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Raise to zero what rounding left below it, and convert to ``dtype``; ``values`` may be overwritten."""
    return (values.clamp_min(0) if has_graph(values) else values.clamp_min_(0)).to(dtype)
