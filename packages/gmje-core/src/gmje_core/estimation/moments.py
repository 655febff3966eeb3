"""Weighted means and covariances that merge without cancellation: the state of every running estimate."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["MIN_VARIANCE", "MomentSums", "Moments", "batch_moments", "merge_moments", "pooled_covariance"]

#: Smallest variance that embeddings are assumed to have, so that constant embeddings give finite numbers in float32.
MIN_VARIANCE = 1e-24
#: Mass ``(...)``, mean ``(..., D)`` and central second moment, ``(..., D, D)`` or its diagonal ``(..., D)``.
Moments = tuple[Tensor, Tensor, Tensor]

# Most elements of a temporary tensor while a batch's full second moments are taken, a few components at a time.
_MOST_ELEMENTS = 2**24
# A variance may come from a difference of squares while its relative error stays below this.
_TOLERATED_ERROR = 1e-8


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
        diagonal: Whether to compute only the diagonal of each :math:`C_k`.
        centred: Whether to take a covariance again about the component's own mean wherever a difference of squares
            about the batch's mean would lose digits. This is exact for components far apart, and ten times slower for
            hundreds of components that own a row each.

    Returns:
        Mass ``(K,)``, means ``(K, D)`` and covariances ``(K, D, D)`` or ``(K, D)``; without the ``K`` axis where
        ``responsibilities`` is ``None``. A component without mass gets the mean of the batch and zero covariance.

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
        new: The moments of the batch, of the same shapes.
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


def pooled_covariance(mass: Tensor, second: Tensor) -> Tensor:
    """Mean of the components' covariances, weighted by their masses.

    Args:
        mass: ``(K,)``, in any unit.
        second: ``(K, D, D)`` or ``(K, D)``.

    Returns:
        ``(D, D)`` or ``(D,)``: the covariance within components.

    Examples:
        >>> pooled_covariance(torch.tensor([4.0, 1.0]), torch.tensor([[2.0], [0.0]]))
        tensor([1.6000])
    """
    return (mass.view(-1, *[1] * (second.ndim - 1)) * second).sum(dim=0) / mass.sum()


class MomentSums:
    """Sums of weighted rows and of their outer products about fixed points, added up block by block in float64.

    Where every block shares its points, adding up sums is as exact as :func:`merge_moments` of the blocks' moments
    and faster: no block needs means of its own.

    Args:
        about: Points ``(K, D)`` near the components' means. Squares are taken about them, so that few digits cancel.

    Examples:
        >>> sums = MomentSums(torch.tensor([[0.0]]))
        >>> for block in (torch.tensor([[1.0]]), torch.tensor([[3.0]])):
        ...     sums.add(block, torch.ones(1, 1))
        >>> mass, means, second = sums.moments()
        >>> mass.tolist(), means.tolist(), second.tolist()
        ([1.0], [[2.0]], [[[1.0]]])
    """

    def __init__(self, about: Tensor) -> None:
        self.about = about.double()
        self.rows = 0
        self.mass, self.first = torch.zeros_like(self.about[:, 0]), torch.zeros_like(self.about)
        self.second = self.about.new_zeros(*about.shape, about.shape[-1])

    def add(self, x: Tensor, responsibilities: Tensor) -> None:
        """Add a block of rows ``(b, D)`` with their responsibilities ``(b, K)``."""
        x, share = x.double(), responsibilities.double()
        self.rows += len(x)
        self.mass += share.sum(dim=0)
        # A loop over components is faster here than a batched product, and needs no more memory than the rows again.
        for k, centre in enumerate(self.about):
            difference = x - centre
            weighted = difference * share[:, k : k + 1]
            self.first[k] += weighted.sum(dim=0)
            self.second[k].addmm_(weighted.T, difference)

    def moments(self) -> Moments:
        """Mass ``(K,)``, means ``(K, D)`` and covariances ``(K, D, D)`` of all rows added so far."""
        total = self.mass.clamp_min(torch.finfo(self.mass.dtype).tiny)
        shift = self.first / total[:, None]
        second = self.second / total[:, None, None] - shift[:, :, None] * shift[:, None, :]
        return self.mass / self.rows, self.about + shift, second


def _without_cancellation(covariance: Tensor, centred: Tensor, share: Tensor, mean: Tensor) -> Tensor:
    """Take covariances again about a component's mean that is so far from the batch's mean that digits were lost."""
    variance = covariance if covariance.ndim == mean.ndim else covariance.diagonal(dim1=-2, dim2=-1)
    lost = torch.finfo(mean.dtype).eps * mean.detach().square() > _TOLERATED_ERROR * variance.detach()
    far = (lost.any(dim=1) & (share.detach().sum(dim=0) > 0)).nonzero().flatten()
    if not len(far):
        return covariance
    exact = []
    for index in far.split(max(1, _MOST_ELEMENTS // max(1, centred.numel()))):
        own = centred - mean[index].unsqueeze(1)
        weighted = share.T[index].unsqueeze(-1) * own
        exact.append((weighted * own).sum(dim=1) if covariance.ndim == mean.ndim else weighted.mT @ own)
    return covariance.index_copy(0, far, torch.cat(exact))


def _second_moments(centred: Tensor, share: Tensor) -> Iterator[Tensor]:
    """Yield ``sum_i share_ik x_i x_i^T`` for a few components at a time, each ``(k, D, D)``."""
    size = max(1, _MOST_ELEMENTS // max(1, centred.numel()))
    for weights in share.T.split(size):
        yield (weights.unsqueeze(-2) * centred.T) @ centred
