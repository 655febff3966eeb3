"""Checks and conversions of what a mixture is made of and what it is asked: weights, covariances, shapes, indices."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gmje_core.densities.covariance import Covariance, CovarianceType, covariance_from_dense
from gmje_core.errors import ConfigError, ShapeError
from gmje_core.linalg import broadcast_shapes, full_precision, require_finite

__all__ = [
    "check_dimensions",
    "check_parameter_shapes",
    "check_parameter_values",
    "check_same_rows",
    "check_value_shape",
    "covariance_beside_means",
    "log_of_weights",
    "normalised_log_weights",
]


def log_of_weights(weights: Tensor, *, validate: bool = True) -> Tensor:
    """Logarithm that is ``-inf`` for a weight of zero, with finite gradients there.

    Args:
        weights: ``(..., K)``.
        validate: Check that no weight is negative, infinite or NaN, which reads values from the device.

    Returns:
        ``(..., K)``, not normalised.

    Raises:
        ConfigError: a weight is negative.
        NonFiniteError: a weight is NaN or infinite.

    Examples:
        >>> log_of_weights(torch.tensor([1.0, 0.0]))
        tensor([0., -inf])
    """
    if validate:
        require_finite("weights", weights)
        if (weights.detach() < 0).any():
            raise ConfigError(f"weights must not be negative, but the least is {float(weights.detach().min())!r}")
    positive = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
    return torch.where(weights > 0, positive, torch.full_like(positive, -math.inf))


def normalised_log_weights(log_weights: Tensor) -> Tensor:
    """Log-weights that sum to one, with finite numbers in the place of ``-inf``.

    The log-softmax of ``-inf`` has NaN gradients. A quarter of the least number takes its place, which leaves room for
    sums of several.

    Args:
        log_weights: Log-weights or any logits, ``(..., K)``, of which one at least is not ``-inf``.

    Returns:
        ``(..., K)``.

    Examples:
        >>> normalised_log_weights(torch.tensor([0.0, -torch.inf])).exp()
        tensor([1., 0.])
    """
    least = torch.finfo(log_weights.dtype).min / 4
    with full_precision(log_weights.device.type):
        return log_weights.clamp_min(least).log_softmax(dim=-1).clamp_min(least)


def covariance_beside_means(
    weights: Tensor,
    means: Tensor,
    covariances: Tensor,
    covariance_type: CovarianceType,
    tied: bool,
    rank: int | None,
) -> Covariance:
    """Covariance of a named form, from the dense matrices that stand beside these means.

    Args:
        weights: ``(..., K)``, of the pooling where ``tied``.
        means: ``(..., K, D)``.
        covariances: ``(..., K, D, D)``, or ``(..., D, D)`` where ``tied``.
        covariance_type: ``"full"``, ``"low_rank"``, ``"diag"`` or ``"spherical"``.
        tied: One covariance for all components.
        rank: Number of columns of the factor of ``low_rank``, which needs it.

    Raises:
        ShapeError: the matrices do not have the shape of the means with one more axis.
        ConfigError, NonFiniteError, NotPositiveDefiniteError: as in
            :func:`~gmje_core.densities.covariance.covariance_from_dense`.
    """
    if tied and covariances.ndim == means.ndim:
        covariances = covariances.unsqueeze(-3)
    if covariances.ndim != means.ndim + 1:
        raise ShapeError(
            f"covariances must have shape (..., K, D, D), but have {tuple(covariances.shape)} beside means of shape "
            f"{tuple(means.shape)}"
        )
    return covariance_from_dense(covariances, covariance_type, tied=tied, rank=rank, weights=weights)


def check_parameter_shapes(log_weights: Tensor, means: Tensor, covariance: Covariance) -> None:
    """Check that weights, means and covariance belong to one mixture.

    Args:
        log_weights: ``(..., K)``.
        means: ``(..., K, D)``.
        covariance: Covariance of leading shape ``(..., K)`` or ``(..., 1)``.

    Raises:
        ShapeError: components, dimensions or batch shapes do not agree.
    """
    shapes = (
        f"log_weights {tuple(log_weights.shape)}, means {tuple(means.shape)} and covariance of leading shape "
        f"{tuple(covariance.shape)} and dim {covariance.dim}"
    )
    if log_weights.ndim < 1 or means.ndim < 2:
        raise ShapeError(f"log_weights must have shape (..., K) and means (..., K, D), but got {shapes}")
    components, dim = means.shape[-2:]
    if log_weights.shape[-1] != components or covariance.shape[-1] not in (1, components) or covariance.dim != dim:
        raise ShapeError(f"components and dimensions must agree, but got {shapes}")
    try:
        broadcast_shapes(log_weights.shape[:-1], means.shape[:-2], covariance.shape[:-1])
    except ShapeError as error:
        raise ShapeError(f"batch shapes must broadcast, but got {shapes}") from error


def check_dimensions(indices: Sequence[int], dim: int) -> list[int]:
    """Check that indices name distinct dimensions.

    Args:
        indices: Dimensions; negative ones count from the end.
        dim: Number of dimensions ``D``.

    Returns:
        The same dimensions, none of them negative.

    Raises:
        ConfigError: there are none, or one is repeated or out of range.

    Examples:
        >>> check_dimensions([-1, 0], 3)
        [2, 0]
    """
    chosen = [int(i) for i in indices]
    if not chosen or any(not -dim <= i < dim for i in chosen):
        raise ConfigError(f"indices must name at least one of the dimensions 0 to {dim - 1}, got {chosen}")
    chosen = [i % dim for i in chosen]
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"indices must be distinct, got {chosen}")
    return chosen


def check_parameter_values(log_weights: Tensor, means: Tensor) -> None:
    """Check that log-weights leave a component and that means are finite; reads values from the device.

    Args:
        log_weights: Log-weights or any logits, ``(..., K)``; ``-inf`` removes a component.
        means: ``(..., K, D)``.

    Raises:
        ConfigError: every component of a mixture is removed.
        NonFiniteError: NaN or infinity in the means, or in the log-weights NaN or positive infinity.
    """
    if (log_weights.detach() == -math.inf).all(dim=-1).any():
        raise ConfigError("log_weights must leave at least one component, but all of a row are -inf")
    require_finite("log_weights", log_weights.clamp_min(torch.finfo(log_weights.dtype).min / 4))
    require_finite("means", means)


def check_value_shape(name: str, value: Tensor, size: int, batch_shape: torch.Size) -> None:
    """Check that a mixture can score a value.

    Args:
        name: What the value is, for the message.
        value: ``(..., size)``, its leading axes broadcasting with ``batch_shape``.
        size: Number of dimensions that the value should have.
        batch_shape: Batch shape of the mixture.

    Raises:
        ShapeError: the value has another size, or its leading axes do not broadcast.
    """
    if value.ndim < 1 or value.shape[-1] != size:
        raise ShapeError(f"{name} must have shape (..., {size}), but has {tuple(value.shape)}")
    try:
        broadcast_shapes(value.shape[:-1], batch_shape)
    except ShapeError as error:
        raise ShapeError(
            f"{name} of shape {tuple(value.shape)} must broadcast with batch_shape {tuple(batch_shape)} "
            f"followed by {size}"
        ) from error


def check_same_rows(z_context: Tensor, z_target: Tensor) -> None:
    """Check that two views hold as many rows as each other.

    Args:
        z_context: ``(..., d_c)``.
        z_target: ``(..., d_t)``.

    Raises:
        ShapeError: the leading axes differ.
    """
    if z_context.shape[:-1] != z_target.shape[:-1]:
        raise ShapeError(
            "z_context and z_target must hold the same rows, but have shapes "
            f"{tuple(z_context.shape)} and {tuple(z_target.shape)}"
        )
