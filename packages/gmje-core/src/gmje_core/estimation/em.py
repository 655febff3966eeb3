r"""Expectation-maximisation of Gaussian mixtures: functions from a mixture to moments, and from moments to a mixture.

Statistics are in float64, and centred unless products of whitened rows keep their digits. Rows are read block by block,
so that no tensor of rows x components x dimensions is stored.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gmje_core.densities.covariance import Covariance, CovarianceType, covariance_class
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import NonFiniteError, NotPositiveDefiniteError
from gmje_core.estimation.factors import FactorMoments, FactorSums
from gmje_core.estimation.moments import Moments, MomentSums, batch_moments, merge_moments, pooled_covariance
from gmje_core.estimation.pairs import Pairs
from gmje_core.estimation.products import product_round
from gmje_core.estimation.shrinkage import CovariancePrior, shrink_covariances
from gmje_core.exponentials import exp_

__all__ = ["CovarianceForm", "block_rows", "expectation", "maximization", "moments_of", "total_moments"]

# A block has about so many elements, rows x (components + dimensions), within a range of rows that runs fast.
_BLOCK_ELEMENTS, _FEWEST_ROWS, _MOST_ROWS = 2**20, 256, 8192
# Up to this dimension, the second moments of a low-rank component are kept whole, and each M-step runs to its end.
_WHOLE_MOMENTS = 64
#: Function from a block of rows ``(b, D)`` to their responsibilities ``(b, K)``.
Responsibilities = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CovarianceForm:
    """The form of a mixture's covariances.

    Attributes:
        covariance_type: ``"full"``, ``"low_rank"``, ``"diag"`` or ``"spherical"``.
        tied: Whether all components share one covariance.
        rank: Columns of the factor of ``"low_rank"``.
        reg_covar: Number added to every variance, in squared units of the embeddings.
    """

    covariance_type: CovarianceType
    tied: bool
    rank: int
    reg_covar: float

    @property
    def diagonal(self) -> bool:
        """Whether the diagonals of the second moments are enough."""
        return covariance_class(self.covariance_type).diagonal_moments

    def factored(self, dim: int) -> bool:
        """Whether EM keeps the second moments of rows in ``dim`` dimensions only as those of rows and factors.

        That is so where each of many dimensions' components has a low-rank covariance of its own. A round is then one
        step of factor analysis, at :math:`K D r` operations and numbers a row in place of :math:`K D^2`.

        Examples:
            >>> [CovarianceForm("low_rank", False, 8, 0.0).factored(dim) for dim in (16, 256)]
            [False, True]
        """
        return self.covariance_type == "low_rank" and not self.tied and dim > max(_WHOLE_MOMENTS, 4 * self.rank)

    def parameter_count(self, components: int, dim: int) -> int:
        """Number of free parameters of a mixture, for information criteria: covariances, means and weights.

        Args:
            components: Number of components ``K``.
            dim: Dimension ``D`` of a row.

        Examples:
            >>> [CovarianceForm(kind, False, 1, 0.0).parameter_count(2, 3) for kind in ("full", "diag", "spherical")]
            [19, 13, 9]
            >>> CovarianceForm("low_rank", True, 1, 0.0).parameter_count(2, 3)
            13
        """
        each = covariance_class(self.covariance_type).parameter_count(dim, self.rank)
        return (1 if self.tied else components) * each + components * dim + components - 1


def block_rows(components: int, dim: int) -> int:
    """Number of rows to read at a time for a mixture of ``components`` in ``dim`` dimensions."""
    return min(_MOST_ROWS, max(_FEWEST_ROWS, _BLOCK_ELEMENTS // (components + dim)))


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
        responsibilities: Function that gives the responsibilities ``(b, K)`` of a block ``(b, D)``.
        about: Points ``(K, D)`` near the means. Squares are taken about them, so that few digits cancel.
        diagonal: Whether to compute only the diagonals of the second moments.

    Returns:
        Shares of the rows ``(K,)``, means ``(K, D)`` and covariances ``(K, D, D)`` or ``(K, D)``.

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
    sums = MomentSums(about)
    for block in pairs.blocks(size):
        sums.add(block, responsibilities(block))
    return sums.moments()


def _merged_moments(pairs: Pairs, responsibilities: Responsibilities, size: int, diagonal: bool) -> Moments:
    """Moments of all rows, merged from those of blocks of ``size`` rows."""
    moments: Moments | None = None
    seen = 0
    for block in pairs.blocks(size):
        part = batch_moments(block.double(), responsibilities(block).double(), diagonal=diagonal, centred=True)
        seen += len(block)
        moments = part if moments is None else merge_moments(moments, part, len(block) / seen)
    assert moments is not None  # pairs are never empty
    return moments


def expectation(
    mixture: GaussianMixture,
    pairs: Pairs,
    form: CovarianceForm,
    total: tuple[Tensor, Tensor],
    prior: CovariancePrior | None = None,
) -> tuple[float, Moments | FactorMoments]:
    """E-step: score all rows and take the moments of each component's share of them.

    Args:
        mixture: The current mixture.
        pairs: The rows.
        form: Form of the covariances.
        total: Mean and covariance of all rows, from :func:`total_moments`, or variances where the form needs no more;
            with their covariance, a round of full covariances is faster.
        prior: Prior of the covariances, if they have one.

    Returns:
        Mean log-density of the rows in nats, with the log-density of the prior where there is one, and the moments of
        the components. Where one full covariance is shared, the second moments are a single pooled one, ``(1, D, D)``:
        the covariance of all rows less that of the means. Where the form is :meth:`CovarianceForm.factored`, they are
        those of rows and factors.

    Raises:
        NonFiniteError: a log-density is beyond what the dtype of the rows can represent.
    """
    by_products = _by_products(mixture, pairs, form, total)
    log_density, moments = by_products or _by_components(mixture, pairs, form, total)
    value = log_density / len(pairs)
    if not math.isfinite(value):
        raise NonFiniteError(
            f"the mean log-density became {value}: the embeddings' scale is beyond what {pairs.dtype} can represent"
        )
    return value if prior is None else value + float(prior.log_density(mixture.covariance)), moments


def _by_products(
    mixture: GaussianMixture, pairs: Pairs, form: CovarianceForm, total: tuple[Tensor, Tensor]
) -> tuple[float, Moments] | None:
    """Sum of the log-densities and moments, where a form allows for a round of products."""
    if form.diagonal:
        variances = total[1] if total[1].ndim == 1 else total[1].diagonal()
        return product_round(mixture, pairs, (total[0], variances), diagonal=True)
    if form.covariance_type != "full" or form.tied or total[1].ndim == 1:
        return None
    return product_round(mixture, pairs, total, diagonal=False)


def _by_components(
    mixture: GaussianMixture, pairs: Pairs, form: CovarianceForm, total: tuple[Tensor, Tensor]
) -> tuple[float, Moments | FactorMoments]:
    """Sum of the log-densities and moments, exact however narrow and far from each other the components are."""
    scorer = mixture.to(pairs.dtype)
    log_density = torch.zeros((), dtype=torch.float64, device=pairs.device)

    def responsibilities(x: Tensor) -> Tensor:
        shares = scorer.component_log_prob(x)
        top = shares.amax(dim=1, keepdim=True)
        norm = exp_(shares.sub_(top)).sum(dim=1, keepdim=True)
        log_density.add_((top.double() + norm.double().log()).sum())
        return shares.div_(norm)

    moments = _moments_of_form(mixture, pairs, responsibilities, form, total)
    return float(log_density), moments


def _moments_of_form(
    mixture: GaussianMixture,
    pairs: Pairs,
    responsibilities: Responsibilities,
    form: CovarianceForm,
    total: tuple[Tensor, Tensor],
) -> Moments | FactorMoments:
    """The moments that the M-step of a form needs."""
    if form.factored(pairs.dim):
        sums = FactorSums(mixture)
        for block in pairs.blocks(block_rows(mixture.components * form.rank, pairs.dim)):
            sums.add(block, responsibilities(block))
        return sums.moments()
    pooled = form.tied and not form.diagonal
    mass, means, second = moments_of(pairs, responsibilities, mixture.means, diagonal=form.diagonal or pooled)
    if pooled:
        spread = means - total[0]
        second = (total[1] - (mass.unsqueeze(1) * spread).T @ spread).unsqueeze(0)
    return mass, means, second


def maximization(
    moments: Moments | FactorMoments,
    form: CovarianceForm,
    previous: Covariance | None = None,
    prior: CovariancePrior | None = None,
) -> GaussianMixture:
    r"""M-step: the mixture with these moments, :math:`\Sigma_k = \hat C_k + \epsilon I`.

    :math:`\epsilon` is ``reg_covar``. :math:`\hat C_k` is the second moment :math:`C_k`, or with a prior the mode of
    its posterior, :math:`(n_k C_k + \nu T) / (n_k + \nu)`; see
    :func:`~gmje_core.estimation.shrinkage.shrink_covariances`.

    A component without mass gets the target of the prior, without one the pooled covariance, and stays without weight.
    ``low_rank`` covariances are the maximum-likelihood factor analysis of :math:`\Sigma_k`, by the rounds of
    :func:`~gmje_core.densities.covariance.low_rank.factor_analysis` from the previous one. From
    :class:`~gmje_core.estimation.factors.FactorMoments` they take one such step (generalised EM: the likelihood never
    falls), and a component without mass keeps its covariance.

    Args:
        moments: Masses ``(K,)``, means ``(K, D)`` and second moments ``(K or 1, D, D)``, or ``(K, D)`` for diagonal
            forms.
        form: Form of the covariances.
        previous: Covariance from which ``low_rank`` starts; ``None`` to fit it to the second moments alone.
        prior: Prior of the covariances, if they have one.

    Raises:
        NotPositiveDefiniteError: a covariance is singular, because ``reg_covar`` is too small.
        NonFiniteError: the moments are beyond float64.
        ConfigError: the rank is above ``D``.

    Examples:
        >>> moments = batch_moments(torch.tensor([[0.0], [2.0], [9.0], [9.0]]), torch.eye(2)[[0, 0, 1, 1]])
        >>> mixture = maximization(moments, CovarianceForm("full", False, 1, 0.25))
        >>> mixture.weights, mixture.means.flatten(), mixture.covariance.dense().flatten()
        (tensor([0.5000, 0.5000]), tensor([1., 9.]), tensor([1.2500, 0.2500]))
    """
    if isinstance(moments, FactorMoments):
        moments = moments if prior is None else moments.shrunk(prior)
        _require_variance(torch.where(moments.mass.unsqueeze(1) > 0, moments.variances + form.reg_covar, 1.0))
        covariance: Covariance = moments.covariance(form.reg_covar)
        return GaussianMixture(moments.mass.log(), moments.means, covariance)
    mass, means, second = moments
    if len(second) == len(mass) and len(mass) > 1:
        pooled = pooled_covariance(mass, second).unsqueeze(0)
        has_rows = (mass > 0).view(-1, *[1] * (second.ndim - 1))
        second = pooled if form.tied else torch.where(has_rows, second, pooled)
    if prior is not None:
        counts = mass if len(second) == len(mass) else mass.sum().unsqueeze(0)
        second = shrink_covariances(second, counts, prior.target, prior.mass)
    return GaussianMixture(mass.log(), means, _covariance(second, form, previous))


def _covariance(second: Tensor, form: CovarianceForm, previous: Covariance | None) -> Covariance:
    """Covariance of a form with second moments ``(K or 1, D, D)``, or ``(K or 1, D)`` for diagonal forms."""
    kind = covariance_class(form.covariance_type)
    if form.diagonal:
        return kind.from_second_moments(second.clamp_min(0) + form.reg_covar)
    dense = second + form.reg_covar * torch.eye(second.shape[-1]).to(second)
    _require_variance(dense.diagonal(dim1=-2, dim2=-1))
    return kind.from_second_moments(dense, rank=form.rank, previous=previous, floor=form.reg_covar)


def _require_variance(variances: Tensor) -> None:
    """Raise an error that names the component and the dimension without variance ``(K, D)``, if there is one."""
    bad = (variances <= 0).nonzero()
    if len(bad):
        component, dimension = (int(index) for index in bad[0])
        raise NotPositiveDefiniteError(
            f"component {component} has no variance in dimension {dimension}: raise reg_covar, or drop what is constant"
        )
