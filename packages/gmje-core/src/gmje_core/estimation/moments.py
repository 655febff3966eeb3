"""Weighted means and covariances that merge without cancellation: the state of every running estimate."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["MIN_VARIANCE", "Moments", "batch_moments", "merge_moments"]

#: Smallest variance that embeddings are taken to have: constant ones stay finite in float32.
MIN_VARIANCE = 1e-24
#: Mass ``(...)``, mean ``(..., D)`` and central second moment, ``(..., D, D)`` or its diagonal ``(..., D)``.
Moments = tuple[Tensor, Tensor, Tensor]

# Elements of the largest temporary of a batch's full second moments: components are taken in chunks of it.
_CHUNK = 2**24
# Relative error of a variance that is still taken from a difference of squares.
_LOSS = 1e-8


def batch_moments(
    x: Tensor, responsibilities: Tensor | None = None, *, diagonal: bool = False, centred: bool = False
) -> Moments:
    r"""Mass, mean and covariance of a batch, or of each component's share of it.

    .. math::
        n_k = \tfrac1B \sum_i r_{ik}, \quad m_k = \sum_i r_{ik} x_i / \sum_i r_{ik}, \quad
        C_k = \sum_i r_{ik} (x_i - m_k)(x_i - m_k)^\top / \sum_i r_{ik}

    Args:
        x: ``(B, D)``.
        responsibilities: ``(B, K)``, or ``None`` for one component that owns every row.
        diagonal: Only the diagonal of each :math:`C_k`.
        centred: Take covariances about each component's own mean wherever a difference of squares about the batch's
            would lose digits: exact for components far apart, and ten times slower for hundreds that own a row each.

    Returns:
        ``(K,)``, ``(K, D)`` and ``(K, D, D)`` or ``(K, D)``; without ``K`` where ``responsibilities`` is
        ``None``. A component without mass gets the mean of the batch and zero covariance.

    Examples:
        >>> batch_moments(torch.tensor([[1.0], [3.0]]))
        (tensor(1.), tensor([2.]), tensor([[1.]]))
        >>> batch_moments(torch.tensor([[1.0], [3.0]]), torch.eye(2), diagonal=True)
        (tensor([0.5000, 0.5000]), tensor([[1.], [3.]]), tensor([[0.], [0.]]))
    """
    if responsibilities is None:
        mass, mean, covariance = batch_moments(x, x.new_ones(x.shape[0], 1), diagonal=diagonal, centred=centred)
        return mass[0], mean[0], covariance[0]
    shift = x.mean(dim=0)
    rows = x - shift
    total = responsibilities.sum(dim=0)
    share = responsibilities / total.clamp_min(torch.finfo(x.dtype).tiny)
    mean = share.T @ rows
    if diagonal:
        covariance = (share.T @ rows.square() - mean.square()).clamp_min(0)
    else:
        covariance = torch.cat(list(_second_moments(rows, share))) - mean[:, :, None] * mean[:, None, :]
    if centred:
        covariance = _without_cancellation(covariance, rows, share, mean)
    return total / x.shape[0], mean + shift, covariance


def merge_moments(old: Moments, new: Moments, step: float | Tensor) -> Moments:
    r"""Moments of the mixture :math:`(1 - \gamma)\,\text{old} + \gamma\,\text{new}`, exactly.

    With :math:`n' = (1-\gamma) n + \gamma \hat n`, :math:`\rho = \gamma \hat n / n'` and
    :math:`\delta = \hat m - m`: :math:`m' = m + \rho\delta` and
    :math:`C' = (1-\rho) C + \rho \hat C + \rho(1-\rho)\,\delta\delta^\top`. This is the stochastic
    approximation step of online EM (Cappé and Moulines, 2009) on centred statistics.

    Args:
        old: The moments so far.
        new: Those of the batch, of the same shapes.
        step: :math:`\gamma` in ``(0, 1]``.

    Returns:
        The merged moments.

    Examples:
        >>> one = (torch.tensor(1.0), torch.tensor([0.0]), torch.tensor([[0.0]]))
        >>> other = (torch.tensor(1.0), torch.tensor([2.0]), torch.tensor([[0.0]]))
        >>> merge_moments(one, other, 0.5)
        (tensor(1.), tensor([1.]), tensor([[1.]]))
    """
    (mass, mean, covariance), (new_mass, new_mean, new_covariance) = old, new
    merged = (1 - step) * mass + step * new_mass
    rho = (step * new_mass / merged.clamp_min(torch.finfo(mass.dtype).tiny)).unsqueeze(-1)
    delta = new_mean - mean
    if covariance.ndim == mean.ndim:
        outer, rho_c = delta.square(), rho
    else:
        outer, rho_c = delta.unsqueeze(-1) * delta.unsqueeze(-2), rho.unsqueeze(-1)
    spread = rho_c * (1 - rho_c) * outer
    return merged, mean + rho * delta, (1 - rho_c) * covariance + rho_c * new_covariance + spread


def _without_cancellation(covariance: Tensor, centred: Tensor, share: Tensor, mean: Tensor) -> Tensor:
    """Covariances again about the component's own mean, where that is so far from the batch's that digits were lost."""
    variance = covariance if covariance.ndim == mean.ndim else covariance.diagonal(dim1=-2, dim2=-1)
    lost = torch.finfo(mean.dtype).eps * mean.detach().square() > _LOSS * variance.detach()
    far = (lost.any(dim=1) & (share.detach().sum(dim=0) > 0)).nonzero().flatten()
    if not len(far):
        return covariance
    exact = []
    for index in far.split(max(1, _CHUNK // max(1, centred.numel()))):
        own = centred - mean[index].unsqueeze(1)
        weighted = share.T[index].unsqueeze(-1) * own
        exact.append((weighted * own).sum(dim=1) if covariance.ndim == mean.ndim else weighted.mT @ own)
    return covariance.index_copy(0, far, torch.cat(exact))


def _second_moments(centred: Tensor, share: Tensor) -> Iterator[Tensor]:
    """``sum_i share_ik x_i x_i^T`` in chunks of components, each ``(k, D, D)``."""
    size = max(1, _CHUNK // max(1, centred.numel()))
    for weights in share.T.split(size):
        yield (weights.unsqueeze(-2) * centred.T) @ centred
