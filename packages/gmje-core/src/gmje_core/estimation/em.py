r"""Expectation-maximisation of Gaussian mixtures as functions: moments in, mixture out, in bounded memory.

Statistics are centred and in float64; rows are read block by block, so that no tensor of rows x components x
dimensions is stored.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gmje_core.densities.covariance import (
    Covariance,
    CovarianceType,
    DiagonalCovariance,
    FullCovariance,
    LowRankCovariance,
    SphericalCovariance,
)
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError, NonFiniteError, NotPositiveDefiniteError
from gmje_core.estimation.moments import Moments, batch_moments, merge_moments
from gmje_core.estimation.pairs import Pairs
from gmje_core.linalg import safe_cholesky

__all__ = ["CovarianceForm", "block_rows", "expectation", "maximization", "moments_of", "total_moments"]

# Elements of a block's tensors, rows x (components + dimensions), within a range of rows that runs fast.
_BLOCK, _FEWEST, _MOST = 2**20, 256, 8192
# Rounds of factor analysis in an M-step, and the relative change of the variances that ends them. Few rounds, or steps
# of EM in their place, crawl: EM then stops nats below what it can reach.
_FACTOR_ROUNDS, _FACTOR_TOLERANCE = 100, 1e-3

Responsibilities = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CovarianceForm:
    """What covariances a mixture may have.

    Attributes:
        covariance_type: ``"full"``, ``"low_rank"``, ``"diag"`` or ``"spherical"``.
        tied: One covariance for all components.
        rank: Of ``"low_rank"``.
        reg_covar: Added to every variance.
    """

    covariance_type: CovarianceType
    tied: bool
    rank: int
    reg_covar: float

    @property
    def diagonal(self) -> bool:
        """Whether the diagonals of the second moments are enough."""
        return self.covariance_type in ("diag", "spherical")

    def parameter_count(self, components: int, dim: int) -> int:
        """Free parameters of a mixture, for information criteria.

        Of ``low_rank`` the rotations of its factor are no freedom, and there are never more than of ``full``.

        Args:
            components: ``K``.
            dim: ``D``.

        Examples:
            >>> [CovarianceForm(kind, False, 1, 0.0).parameter_count(2, 3) for kind in ("full", "diag", "spherical")]
            [19, 13, 9]
            >>> CovarianceForm("low_rank", True, 1, 0.0).parameter_count(2, 3)
            13
        """
        full = dim * (dim + 1) // 2
        rank = min(self.rank, dim)
        each = {
            "full": full,
            "low_rank": min(full, dim * (rank + 1) - rank * (rank - 1) // 2),
            "diag": dim,
            "spherical": 1,
        }[self.covariance_type]
        return (1 if self.tied else components) * each + components * dim + components - 1


def block_rows(components: int, dim: int) -> int:
    """Rows to read at a time."""
    return min(_MOST, max(_FEWEST, _BLOCK // (components + dim)))


def total_moments(pairs: Pairs, *, diagonal: bool) -> tuple[Tensor, Tensor]:
    """Mean ``(D,)`` and covariance ``(D, D)``, or variances ``(D,)``, of all rows, in float64.

    Raises:
        NonFiniteError: NaN or infinity in the rows, or squares beyond float64.
    """
    _, mean, covariance = _merged_moments(pairs, lambda x: x.new_ones(len(x), 1), block_rows(1, pairs.dim), diagonal)
    if not bool(torch.isfinite(covariance).all()):
        raise NonFiniteError("the variance of the embeddings is beyond what float64 can represent: scale them down")
    return mean[0], covariance[0]


def moments_of(pairs: Pairs, responsibilities: Responsibilities, about: Tensor, *, diagonal: bool) -> Moments:
    """Moments of each component's share of all rows, in float64.

    Args:
        pairs: The rows.
        responsibilities: Of a block ``(b, D)``, to ``(b, K)``.
        about: ``(K, D)`` points near the means: squares are taken about them, so that few digits cancel.
        diagonal: Only the diagonals of the second moments.

    Returns:
        ``(K,)`` shares of the rows, ``(K, D)`` and ``(K, D, D)`` or ``(K, D)``.

    Examples:
        >>> pairs = Pairs({"rows": [[0.0], [2.0], [9.0]]}, torch.float64)
        >>> mass, means, second = moments_of(
        ...     pairs, lambda x: torch.eye(2)[(x[:, 0] > 5).long()], torch.tensor([[0.0], [8.0]]), diagonal=False
        ... )
        >>> means.flatten().tolist(), second.flatten().tolist()
        ([1.0, 9.0], [1.0, 0.0])
    """
    size = block_rows(len(about), pairs.dim)
    if diagonal:
        return _merged_moments(pairs, responsibilities, size, diagonal=True)
    about = about.double()
    mass, first = torch.zeros_like(about[:, 0]), torch.zeros_like(about)
    second = about.new_zeros(*about.shape, pairs.dim)
    for block in pairs.blocks(size):
        x, share = block.double(), responsibilities(block).double()
        mass += share.sum(dim=0)
        # One component at a time is faster here than a batched product, and needs no more than the rows again.
        for k, centre in enumerate(about):
            difference = x - centre
            weighted = difference * share[:, k : k + 1]
            first[k] += weighted.sum(dim=0)
            second[k].addmm_(weighted.T, difference)
    total = mass.clamp_min(torch.finfo(mass.dtype).tiny)
    shift = first / total[:, None]
    second = second / total[:, None, None] - shift[:, :, None] * shift[:, None, :]
    return mass / len(pairs), about + shift, second


def _merged_moments(pairs: Pairs, responsibilities: Responsibilities, size: int, diagonal: bool) -> Moments:
    moments: Moments | None = None
    seen = 0
    for block in pairs.blocks(size):
        part = batch_moments(block.double(), responsibilities(block).double(), diagonal=diagonal, centred=True)
        seen += len(block)
        moments = part if moments is None else merge_moments(moments, part, len(block) / seen)
    assert moments is not None  # pairs are never empty
    return moments


def expectation(
    mixture: GaussianMixture, pairs: Pairs, form: CovarianceForm, total: tuple[Tensor, Tensor]
) -> tuple[float, Moments]:
    """E-step over all rows.

    Args:
        mixture: The current one.
        pairs: The rows.
        form: Of the covariances.
        total: Mean and covariance of all rows, from :func:`total_moments`.

    Returns:
        Mean log-density of the rows in nats, and the moments of the components. Where one full covariance is tied,
        the second moments are the pooled one, ``(1, D, D)``: that of all rows less that of the means.
    """
    scorer = mixture.to(pairs.dtype)
    log_density = torch.zeros((), dtype=torch.float64, device=pairs.device)

    def responsibilities(x: Tensor) -> Tensor:
        joint = scorer.component_log_prob(x)
        evidence = joint.logsumexp(dim=1, keepdim=True)
        log_density.add_(evidence.double().sum())
        return joint.sub_(evidence).exp_()

    pooled = form.tied and not form.diagonal
    mass, means, second = moments_of(pairs, responsibilities, mixture.means, diagonal=form.diagonal or pooled)
    if pooled:
        spread = means - total[0]
        second = (total[1] - (mass.unsqueeze(1) * spread).T @ spread).unsqueeze(0)
    value = float(log_density) / len(pairs)
    if not math.isfinite(value):
        raise NonFiniteError(
            f"the mean log-density became {value}: the embeddings' scale is beyond what {pairs.dtype} can represent"
        )
    return value, (mass, means, second)


def maximization(moments: Moments, form: CovarianceForm, previous: Covariance | None = None) -> GaussianMixture:
    r"""M-step: the mixture with these moments, :math:`\Sigma_k = C_k + \epsilon I`.

    A component without mass gets the pooled covariance and stays without weight. ``low_rank`` covariances are the
    maximum-likelihood factor analysis of :math:`\Sigma_k`, by the fixed point of
    :func:`~gmje_core.densities.covariance.low_rank.factor_analysis` from the previous one.

    Args:
        moments: ``(K,)``, ``(K, D)`` and second moments ``(K or 1, D, D)``, or ``(K, D)`` for diagonal forms.
        form: Of the covariances.
        previous: Where ``low_rank`` starts; ``None`` to fit it to the second moments from nothing.

    Raises:
        NotPositiveDefiniteError: a covariance that is singular, with too small a ``reg_covar``.
        NonFiniteError: moments beyond float64.
        ConfigError: a rank above ``D``.

    Examples:
        >>> moments = batch_moments(torch.tensor([[0.0], [2.0], [9.0], [9.0]]), torch.eye(2)[[0, 0, 1, 1]])
        >>> mixture = maximization(moments, CovarianceForm("full", False, 1, 0.25))
        >>> mixture.weights, mixture.means.flatten(), mixture.covariance.dense().flatten()
        (tensor([0.5000, 0.5000]), tensor([1., 9.]), tensor([1.2500, 0.2500]))
    """
    mass, means, second = moments
    shape = (-1, *[1] * (second.ndim - 1))
    if len(second) == len(mass) and len(mass) > 1:
        pooled = (mass.view(shape) * second).sum(dim=0, keepdim=True) / mass.sum()
        second = pooled if form.tied else torch.where(mass.view(shape) > 0, second, pooled)
    if form.diagonal:
        variance = second.clamp_min(0) + form.reg_covar
        diagonal = form.covariance_type == "diag"
        covariance: Covariance = (
            DiagonalCovariance(variance) if diagonal else SphericalCovariance(variance.mean(dim=-1), means.shape[-1])
        )
    else:
        dense = second + form.reg_covar * torch.eye(second.shape[-1]).to(second)
        _require_variance(dense)
        covariance = (
            FullCovariance(safe_cholesky(dense), validate=False)
            if form.covariance_type == "full"
            else _factor_analysis(dense, form, previous)
        )
    return GaussianMixture(mass.log(), means, covariance)


def _require_variance(dense: Tensor) -> None:
    bad = (dense.diagonal(dim1=-2, dim2=-1) <= 0).nonzero()
    if len(bad):
        component, dimension = (int(index) for index in bad[0])
        raise NotPositiveDefiniteError(
            f"component {component} has no variance in dimension {dimension}: raise reg_covar, or drop what is constant"
        )


def _factor_analysis(dense: Tensor, form: CovarianceForm, previous: Covariance | None) -> LowRankCovariance:
    if form.rank > dense.shape[-1]:
        raise ConfigError(f"rank must lie between 1 and D = {dense.shape[-1]}, got {form.rank!r}")
    if not isinstance(previous, LowRankCovariance):
        return LowRankCovariance.from_second_moments(dense, rank=form.rank)
    total = dense.diagonal(dim1=-2, dim2=-1)
    floor = (1e-6 * total).clamp_min(form.reg_covar)
    variance = previous.diagonal_variance.to(dense)
    for _ in range(_FACTOR_ROUNDS):
        scale = variance.sqrt()
        values, vectors = torch.linalg.eigh(dense / (scale.unsqueeze(-1) * scale.unsqueeze(-2)))
        strength = (values[..., -form.rank :] - 1).clamp_min(0).sqrt()
        factor = scale.unsqueeze(-1) * vectors[..., -form.rank :] * strength.unsqueeze(-2)
        before, variance = variance, (total - factor.square().sum(dim=-1)).maximum(floor)
        if bool(((variance - before).abs() <= _FACTOR_TOLERANCE * before).all()):
            break
    return LowRankCovariance(factor, variance)
