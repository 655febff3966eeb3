r"""A round of EM as two matrix products a block: scores and moments of all components are linear in products of rows.

With :math:`\varphi(x)` the products :math:`x_i x_j`, :math:`i \le j`, of a row that ends with a one, a component's
log-density is :math:`\langle w_k, \varphi(x) \rangle`, and its moments are :math:`\sum_n r_{nk} \varphi(x_n)`. Both
sides need the same :math:`\varphi`, half of the arithmetic of products with whole matrices, and no tensor of rows x
components x dimensions, not even block by block. Responsibilities are never stored.

Sums of products cancel where a component is narrow beside all rows. Rows are therefore whitened first, and
:func:`product_round` declines where that would not be enough.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from gmje_core.densities.covariance import FullCovariance
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.densities.quadratic import fill_products, pairs_of_dimensions
from gmje_core.estimation.moments import Moments
from gmje_core.estimation.pairs import Pairs
from gmje_core.exponentials import exp_
from gmje_core.linalg import LOG_2PI, triangular_inverse

__all__ = ["WhiteFrame", "product_round"]

# Most error, in nats, that cancellation may leave in the log-density of a row at a typical distance from the centre.
_TOLERATED_ERROR = {torch.float64: 1e-7, torch.float32: 1e-3}
# Most dimensions for which products of pairs of them are worth their memory, and fewest components that share them.
_MOST_DIMENSIONS, _FEWEST_COMPONENTS = 128, 4
# A block has about so many products, within a range of rows that runs fast.
_BLOCK_ELEMENTS, _FEWEST_ROWS, _MOST_ROWS = 2**20, 128, 1024


@dataclass(frozen=True)
class WhiteFrame:
    """An affine map after which all rows together have mean zero and unit covariance, or unit variances.

    Attributes:
        mean: ``(D,)`` float64.
        scale: Lower-triangular root ``(D, D)`` of the covariance of all rows, or deviations ``(D,)``.
        inverse: Its inverse, or one over the deviations.
    """

    mean: Tensor
    scale: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, total: tuple[Tensor, Tensor]) -> Self | None:
        """The map for rows of this mean and covariance ``(D, D)``, or variances ``(D,)``; ``None`` where singular."""
        mean, second = total
        if second.ndim == 1:
            return cls(mean, second.sqrt(), second.rsqrt()) if bool((second > 0).all()) else None
        scale, info = torch.linalg.cholesky_ex(second)
        return None if bool(info) else cls(mean, scale, triangular_inverse(scale))

    def apply(self, x: Tensor) -> Tensor:
        """Whitened rows ``(D, b)``, one a column, of rows ``(b, D)``, in float64."""
        centred = x.double() - self.mean
        return centred.mul_(self.inverse).T if self.inverse.ndim == 1 else self.inverse @ centred.T

    def back(self, means: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Means ``(K, D)`` and second moments, ``(K, D, D)`` or ``(K, D)``, in the units of the rows."""
        if self.scale.ndim == 1:
            return self.mean + means * self.scale, second * self.scale.square()
        return self.mean + means @ self.scale.T, self.scale @ second @ self.scale.T


def product_round(
    mixture: GaussianMixture, pairs: Pairs, total: tuple[Tensor, Tensor], *, diagonal: bool
) -> tuple[float, Moments] | None:
    """Sum of the log-densities of all rows, and the moments of each component's share of them.

    Args:
        mixture: The current mixture: full covariances, or with ``diagonal`` axis-aligned ones.
        pairs: The rows.
        total: Mean and covariance of all rows, or their variances where ``diagonal``.
        diagonal: Whether to compute only the diagonals of the second moments.

    Returns:
        The sum in nats, and shares of the rows ``(K,)``, means ``(K, D)`` and covariances ``(K, D, D)`` or ``(K, D)``
        in float64; ``None`` where products would lose digits, or cost more than they save.

    Examples:
        >>> from gmje_core.estimation.em import total_moments
        >>> pairs = Pairs({"rows": [[0.0], [2.0], [9.0], [11.0]]}, torch.float64)
        >>> means = torch.tensor([[1.0], [10.0], [90.0], [99.0]])
        >>> mixture = GaussianMixture.from_moments(torch.ones(4), means, torch.ones(4, 1, 1), "diag")
        >>> _, (mass, means, second) = product_round(mixture, pairs, total_moments(pairs, diagonal=True), diagonal=True)
        >>> mass[:2].tolist(), means[:2].flatten().round(decimals=6).tolist()
        ([0.5, 0.5], [1.0, 10.0])
    """
    if mixture.components < _FEWEST_COMPONENTS or not (diagonal or mixture.dim <= _MOST_DIMENSIONS):
        return None
    frame = WhiteFrame.of(total)
    if frame is None:
        return None
    weights = _diagonal_weights(mixture, frame) if diagonal else _full_weights(mixture, frame)
    dtype = _precision(weights, pairs.dtype, mixture.dim, diagonal)
    if dtype is None:
        return None
    scores, sums = weights.to(dtype), torch.zeros_like(weights)
    evidence = weights.new_zeros(())
    rows = min(_MOST_ROWS, max(_FEWEST_ROWS, _BLOCK_ELEMENTS // weights.shape[1]), len(pairs))
    # Memory that every block uses again is in the cache already, and takes no time to be allocated.
    memory = scores.new_empty(scores.shape[1], rows)
    for block in pairs.blocks(rows):
        products = _fill_products(memory[:, : len(block)], frame.apply(block), diagonal)
        shares = scores @ products
        top = shares.amax(dim=0)
        norm = exp_(shares.sub_(top)).sum(dim=0)
        evidence += (top.double() + norm.double().log()).sum()
        shares.div_(norm)
        if dtype == sums.dtype:
            sums.addmm_(shares, products.T)
        else:
            sums += shares @ products.T
    moments = _moments(sums, mixture.dim, len(pairs), diagonal)
    return float(evidence), (moments[0], *frame.back(*moments[1:]))


def _precision(weights: Tensor, wanted: torch.dtype, dim: int, diagonal: bool) -> torch.dtype | None:
    """The least precise dtype from the wanted one on in which scores keep enough digits; ``None`` where none does."""
    quadratic = weights[:, :dim] if diagonal else weights[:, :-1]
    # Rows are white, so that the squared norm of a typical one is D; the norm of the weights bounds what it multiplies.
    size = dim * float(quadratic.norm(dim=1).max())
    for dtype in (wanted, torch.float64):
        if 0.5 * torch.finfo(dtype).eps * size <= _TOLERATED_ERROR[dtype]:
            return dtype
    return None


def _fill_products(products: Tensor, rows: Tensor, diagonal: bool) -> Tensor:
    """Write the products of columns ``(D, b)`` into ``products``: squares, the columns and ones; or all, ones too."""
    dim = len(rows)
    if diagonal:
        products[dim:-1].copy_(rows)
        products[-1].fill_(1)
        torch.mul(products[dim:-1], products[dim:-1], out=products[:dim])
        return products
    return fill_products(torch.cat([rows.to(products.dtype), products.new_ones(1, products.shape[1])]), products)


def _diagonal_weights(mixture: GaussianMixture, frame: WhiteFrame) -> Tensor:
    """Weights ``(K, 2 D + 1)`` of the squares, the rows and the one in each component's log-density, in float64."""
    means = (mixture.means.double() - frame.mean) / frame.scale
    variance = (mixture.covariance.diagonal().double() / frame.scale.square()).expand_as(means)
    constant = _constant(mixture) - 0.5 * (means.square() / variance).sum(dim=1)
    return torch.cat([-0.5 / variance, means / variance, constant.unsqueeze(1)], dim=1)


def _full_weights(mixture: GaussianMixture, frame: WhiteFrame) -> Tensor:
    """Weights ``(K, P)`` of the products in each component's log-density, in float64."""
    assert isinstance(mixture.covariance, FullCovariance)
    inverse = triangular_inverse(mixture.covariance.scale_tril.double())
    root = (inverse @ frame.scale).expand(mixture.components, -1, -1)
    means = (inverse @ (mixture.means.double() - frame.mean).unsqueeze(2)).squeeze(2)
    linear = (root.mT @ means.unsqueeze(2)).squeeze(2)
    constant = _constant(mixture) - 0.5 * means.square().sum(dim=1)
    rows, columns = pairs_of_dimensions(mixture.dim + 1)
    form = torch.cat([-0.5 * root.mT @ root, 0.5 * linear.unsqueeze(1)], dim=1)
    last = torch.cat([0.5 * linear, constant.unsqueeze(1)], dim=1)
    # Every product of two dimensions stands once, but counts twice.
    weights: Tensor = torch.cat([form, last.unsqueeze(2)], dim=2)[:, rows, columns] * torch.where(
        rows == columns, 1.0, 2.0
    ).to(linear)
    return weights


def _constant(mixture: GaussianMixture) -> Tensor:
    """What a component's log-density is at its mean, its log-weight included, ``(K,)``."""
    half_log_det = mixture.covariance.half_log_det().double()
    return mixture.log_weights.double() - half_log_det - 0.5 * mixture.dim * LOG_2PI


def _moments(sums: Tensor, dim: int, rows: int, diagonal: bool) -> Moments:
    """Shares, means and central second moments of sums of products ``(K, P)``."""
    if diagonal:
        mass, first, second = sums[:, -1], sums[:, dim:-1], sums[:, :dim]
    else:
        i, j = pairs_of_dimensions(dim + 1)
        whole = sums.new_empty(len(sums), dim + 1, dim + 1)
        whole[:, i, j] = sums
        whole[:, j, i] = sums
        mass, first, second = whole[:, -1, -1], whole[:, -1, :-1], whole[:, :-1, :-1]
    total = mass.clamp_min(torch.finfo(mass.dtype).tiny)
    means = first / total.unsqueeze(1)
    if diagonal:
        return mass / rows, means, (second / total.unsqueeze(1) - means.square()).clamp_min(0)
    return mass / rows, means, second / total[:, None, None] - means.unsqueeze(2) * means.unsqueeze(1)
