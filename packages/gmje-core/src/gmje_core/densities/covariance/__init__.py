"""Covariances of ``K`` components in four forms with one interface, a module for each form.

Each form knows its log-determinants, its Mahalanobis distances, its marginals, its conditionals and how to draw noise,
in the cheapest way that its structure allows. None of them caches anything, so nothing can go stale.

Two more forms, ``scaled`` and ``framed``, hold many components of few matrices. Mixtures with several scales make them;
they have no name to be chosen by.
"""

import torch
from torch import Tensor

from gmje_core.densities.covariance.base import Conditional, Covariance, CovarianceType
from gmje_core.densities.covariance.diagonal import DiagonalCovariance
from gmje_core.densities.covariance.full import FullCovariance
from gmje_core.densities.covariance.low_rank import LowRankCovariance
from gmje_core.densities.covariance.spherical import SphericalCovariance
from gmje_core.errors import ConfigError, ShapeError, unknown_name
from gmje_core.linalg import require_finite

__all__ = [
    "COVARIANCE_TYPES",
    "Conditional",
    "Covariance",
    "CovarianceType",
    "DiagonalCovariance",
    "FullCovariance",
    "LowRankCovariance",
    "SphericalCovariance",
    "covariance_class",
    "covariance_from_dense",
]

#: The forms by their names; the order is that of messages.
COVARIANCE_TYPES: dict[str, type[Covariance]] = {
    form.covariance_type: form for form in (FullCovariance, LowRankCovariance, DiagonalCovariance, SphericalCovariance)
}


def covariance_class(covariance_type: str) -> type[Covariance]:
    """The form with this name.

    Args:
        covariance_type: ``"full"``, ``"low_rank"``, ``"diag"`` or ``"spherical"``.

    Raises:
        ConfigError: there is no such form; the closest name is suggested.

    Examples:
        >>> covariance_class("diag").__name__
        'DiagonalCovariance'
        >>> covariance_class("sperical")
        Traceback (most recent call last):
        ...
        gmje_core.errors.ConfigError: unknown covariance_type 'sperical'; did you mean 'spherical'? (choose from ...
    """
    if covariance_type not in COVARIANCE_TYPES:
        raise ConfigError(unknown_name("covariance_type", covariance_type, COVARIANCE_TYPES))
    return COVARIANCE_TYPES[covariance_type]


def covariance_from_dense(
    covariances: Tensor,
    covariance_type: CovarianceType = "full",
    *,
    tied: bool = False,
    rank: int | None = None,
    weights: Tensor | None = None,
) -> Covariance:
    r"""Covariance of a named form, from dense matrices.

    ``diag`` and ``spherical`` keep the diagonals and their means; ``low_rank`` is fitted (see
    :meth:`Covariance.from_second_moments`).

    Args:
        covariances: ``(..., K, D, D)``.
        covariance_type: ``"full"``, ``"low_rank"``, ``"diag"`` or ``"spherical"``.
        tied: Pool the components into one matrix, :math:`\sum_k w_k \Sigma_k`.
        rank: Number of columns of the factor of ``low_rank``, which needs it.
        weights: Weights ``(..., K)`` of the pooling; uniform where omitted.

    Returns:
        The covariance, its ``K`` axis of size 1 where tied.

    Raises:
        ConfigError: unknown type, or a rank that is missing or out of range.
        ShapeError, NonFiniteError, NotPositiveDefiniteError: matrices that are no covariances.

    Examples:
        >>> covariance_from_dense(torch.diag_embed(torch.tensor([[1.0, 3.0], [5.0, 7.0]])), "spherical").variance
        tensor([2., 6.])
        >>> covariance_from_dense(torch.eye(2).expand(5, 2, 2), "full", tied=True)
        FullCovariance(tied, shape=(1,), dim=2, dtype=torch.float32)
    """
    form = covariance_class(covariance_type)
    if covariances.ndim < 3 or covariances.shape[-1] != covariances.shape[-2]:
        raise ShapeError(f"covariances must have shape (..., K, D, D), but have {tuple(covariances.shape)}")
    require_finite("covariances", covariances)
    if tied and covariances.shape[-3] > 1:
        share = torch.ones(covariances.shape[:-2]).to(covariances) if weights is None else weights
        share = share / share.sum(dim=-1, keepdim=True)
        covariances = (share[..., None, None] * covariances).sum(dim=-3, keepdim=True)
    return form.from_second_moments(covariances, rank=rank)
