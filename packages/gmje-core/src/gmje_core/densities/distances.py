"""Squared Euclidean distances between rows and centres, through matrix products instead of differences."""

import torch
from torch import Tensor

from gmje_core.densities.blockwise import has_graph
from gmje_core.linalg import accumulation_dtype

__all__ = [
    "as_distances",
    "common_origin",
    "for_products",
    "read_at_once",
    "squared_distances",
    "weighted_squared_distances",
]

# Error of a squared distance, in units of the number of dimensions, that products may have: a few of the roundings that
# a squared distance of that size has in float32 anyway.
_TOLERATED_ERROR = 1e-6
# Devices whose values are read without waiting.
_READ_AT_ONCE = frozenset({"cpu"})


def read_at_once(tensor: Tensor) -> bool:
    """Whether a value of the tensor may be read: a GPU would have to be waited for."""
    return tensor.device.type in _READ_AT_ONCE


def for_products(x: Tensor, means: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    r"""Rows and means about a common origin, in a precision in which products of them keep enough digits.

    A squared distance that comes from products has an error of about :math:`\epsilon (|x|^2 + |\mu|^2)`, in units of
    the covariance. On a CPU, float32 stays float32 where that is a few roundings of a squared distance of ``D``;
    elsewhere products are taken in float64. The bound is not read from a GPU, which would have to be waited for.

    Args:
        x: Rows of shape ``(B, D)``.
        means: Centres of shape ``(K, D)``.
        precision: Inverse variances, ``(K or 1, D)``, or ``(K or 1, 1)`` where all dimensions have one.

    Returns:
        The moved rows and the moved means.

    Examples:
        >>> near, far = torch.zeros(1, 2), torch.full((1, 2), 1e3)
        >>> for_products(near, near, torch.ones(1, 1))[0].dtype, for_products(far, near, torch.ones(1, 1))[0].dtype
        (torch.float32, torch.float64)
    """
    precise = accumulation_dtype(x)
    if x.dtype == precise or not read_at_once(x) or not len(x):
        return common_origin(x, means, precise)
    rows, centres = common_origin(x, means)
    with torch.no_grad():
        largest = precision.amax(dim=0).expand(x.shape[1])
        size = sum(float((part.square() @ largest).max()) for part in (rows, centres))
    if 0.5 * torch.finfo(x.dtype).eps * size <= _TOLERATED_ERROR * x.shape[1]:
        return rows, centres
    return common_origin(x, means, precise)


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
