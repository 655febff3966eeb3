"""Checks and conversions of the numbers that covariances are made of: variances, deviations, second moments."""

import torch.nn.functional as F
from torch import Tensor

from gmje_core.errors import NotPositiveDefiniteError, ShapeError

__all__ = ["require_positive", "standard_deviations", "variances_of"]


def require_positive(name: str, values: Tensor) -> None:
    """Check rows of variances or deviations for values that are not positive.

    Args:
        name: What the values are, for the message.
        values: ``(..., K, D)``.

    Raises:
        NotPositiveDefiniteError: names the first bad component.

    Examples:
        >>> import torch
        >>> require_positive("variance", torch.tensor([[1.0], [-2.0]]))
        Traceback (most recent call last):
        ...
        gmje_core.errors.NotPositiveDefiniteError: variance must be positive, but is -2 at the least; first bad ...
    """
    bad = (values.detach() <= 0).any(dim=-1)
    if bad.any():
        index = tuple(int(i) for i in bad.nonzero()[0])
        raise NotPositiveDefiniteError(
            f"{name} must be positive, but is {float(values.detach().min()):.3g} at the least; "
            f"first bad component: {index[0] if len(index) == 1 else index}"
        )


def variances_of(second: Tensor) -> Tensor:
    """Diagonals of second moments that may be given as diagonals already.

    Args:
        second: ``(..., K, D, D)``, or diagonals ``(K, D)``.

    Returns:
        ``(..., K, D)``.

    Raises:
        ShapeError: ``second`` has another shape.

    Examples:
        >>> import torch
        >>> variances_of(torch.eye(2)[None]), variances_of(torch.ones(1, 2))
        (tensor([[1., 1.]]), tensor([[1., 1.]]))
    """
    if second.ndim == 2:
        return second
    if second.ndim < 2 or second.shape[-1] != second.shape[-2]:
        raise ShapeError(f"second moments must have shape (..., K, D, D) or (K, D), but have {tuple(second.shape)}")
    diagonal: Tensor = second.diagonal(dim1=-2, dim2=-1)
    return diagonal


def standard_deviations(rho: Tensor, scale: Tensor | float, floor: float) -> Tensor:
    r"""Positive numbers :math:`\text{scale} \cdot (\operatorname{softplus}(\rho) + \text{floor})`.

    Args:
        rho: Unconstrained numbers.
        scale: Unit of length, a scalar.
        floor: Least deviation, in units of ``scale``.

    Returns:
        A tensor of the shape of ``rho``.

    Examples:
        >>> import torch
        >>> standard_deviations(torch.tensor([-100.0, 0.0]), scale=2.0, floor=0.5)
        tensor([1.0000, 2.3863])
    """
    return scale * (F.softplus(rho) + floor)
