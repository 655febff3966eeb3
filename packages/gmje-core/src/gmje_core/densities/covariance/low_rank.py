"""Covariances of low rank plus diagonal, and the factor analysis that fits them to second moments."""

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from gmje_core.densities.blockwise import apply_matrices, drawn_rows, over_blocks, squared_norms
from gmje_core.densities.covariance.base import Conditional, Covariance, CovarianceType
from gmje_core.densities.covariance.values import require_positive, standard_deviations
from gmje_core.densities.distances import (
    as_distances,
    for_products,
    squared_distances,
    weighted_squared_distances,
)
from gmje_core.errors import ConfigError, ShapeError
from gmje_core.linalg import (
    accumulation_dtype,
    cholesky_or_nan,
    half_log_det,
    require_finite,
    safe_cholesky,
    slice_or_list,
)

__all__ = ["LowRankCovariance", "factor_analysis", "factor_step"]

# Rounds of a factor analysis from nothing, and the most rounds of one that starts from a previous covariance.
FACTOR_ROUNDS, LATER_ROUNDS = 300, 30
# Relative change of the variances in one round that ends a factor analysis which starts from a previous covariance.
FACTOR_TOLERANCE = 1e-4
# Least diagonal variance, in units of the variance of the dimension.
RELATIVE_FLOOR = 1e-6
# Least squared length of a column at the start, in units of the noise: a column of zeros would stay zero.
_LEAST_STRENGTH = 0.1


@dataclass(frozen=True, eq=False, repr=False)
class LowRankCovariance(Covariance):
    r"""Low rank plus diagonal, :math:`\Sigma_k = W_k W_k^\top + \mathrm{diag}(v_k)`; no ``D x D`` matrix is built.

    Args:
        factor: ``(..., K, D, r)``.
        diagonal_variance: ``(..., K, D)``, positive.
        validate: Check the values.

    Raises:
        ShapeError, NonFiniteError, NotPositiveDefiniteError: the parameters are not of that form.

    Examples:
        >>> LowRankCovariance(torch.ones(1, 20_000, 2), torch.ones(1, 20_000)).half_log_det()
        tensor([5.2983])
    """

    covariance_type: ClassVar[CovarianceType] = "low_rank"
    axis_aligned: ClassVar[bool] = False
    diagonal_moments: ClassVar[bool] = False

    factor: Tensor
    diagonal_variance: Tensor
    validate: InitVar[bool] = True

    def __post_init__(self, validate: bool) -> None:
        if self.factor.ndim < 3 or self.factor.shape[:-1] != self.diagonal_variance.shape:
            raise ShapeError(
                "factor and diagonal_variance must have shapes (..., K, D, r) and (..., K, D), but have "
                f"{tuple(self.factor.shape)} and {tuple(self.diagonal_variance.shape)}"
            )
        if validate:
            require_finite("factor", self.factor)
            require_finite("diagonal_variance", self.diagonal_variance)
            require_positive("diagonal_variance", self.diagonal_variance)

    @classmethod
    @torch.no_grad()
    def from_second_moments(
        cls,
        second: Tensor,
        *,
        rank: int | None = None,
        previous: Covariance | None = None,
        floor: float = 0.0,
        validate: bool = True,
    ) -> Self:
        """Factor analysis of these matrices, without gradient; see :meth:`Covariance.from_second_moments`.

        From nothing, it takes a fixed number of rounds: matrices of the form are recovered to about 1e-3 nats of
        divergence. From a ``previous`` covariance of this form, it ends when no variance changes by more than a
        ten-thousandth, which it finds out by reading a value in every round.

        Examples:
            >>> source = LowRankCovariance(torch.ones(1, 4, 1), torch.ones(1, 4))
            >>> LowRankCovariance.from_second_moments(source.dense(), rank=1).diagonal_variance.round(decimals=3)
            tensor([[1., 1., 1., 1.]])
        """
        dim = second.shape[-1]
        if not 1 <= _required(rank) <= dim:
            raise ConfigError(f"rank must lie between 1 and D = {dim}, got {rank!r}")
        dense = second.to(accumulation_dtype(second))
        if isinstance(previous, LowRankCovariance) and previous.rank == rank:
            factor, variance = factor_analysis(
                dense, _required(rank), start=previous.to(dense.dtype), floor=floor, tolerance=FACTOR_TOLERANCE
            )
            return cls(factor.to(second.dtype), variance.to(second.dtype), validate)
        if validate:
            safe_cholesky(second)  # It raises the typed error on matrices that are no covariances.
        factor, variance = factor_analysis(dense, _required(rank))
        return cls(factor.to(second.dtype), variance.to(second.dtype), validate=False)

    @classmethod
    def unconstrained_sizes(cls, dim: int, rank: int | None = None) -> dict[str, int]:
        """How many unconstrained numbers one matrix takes; see :meth:`Covariance.unconstrained_sizes`.

        Examples:
            >>> LowRankCovariance.unconstrained_sizes(3, rank=2)
            {'deviations': 3, 'factor': 6}
        """
        return {"deviations": dim, "factor": dim * _required(rank)}

    @classmethod
    def from_unconstrained(cls, values: Mapping[str, Tensor], dim: int, *, scale: Tensor | float, floor: float) -> Self:
        """Covariance of any real numbers; see :meth:`Covariance.from_unconstrained`.

        The deviations are those of the diagonal part. The rank follows from the size of ``factor``.

        Examples:
            >>> values = {"deviations": torch.zeros(1, 2), "factor": torch.ones(1, 4)}
            >>> LowRankCovariance.from_unconstrained(values, 2, scale=2.0, floor=0.0).factor
            tensor([[[2., 2.],
                     [2., 2.]]])
        """
        deviations = standard_deviations(values["deviations"], scale, floor)
        factor = scale * values["factor"].unflatten(-1, (dim, -1))
        return cls(factor, deviations.square(), validate=False)

    @classmethod
    def parameter_count(cls, dim: int, rank: int | None = None) -> int:
        """Number of free parameters of one matrix.

        Rotations of the factor change nothing and do not count, and there are never more than those of ``full``.

        Examples:
            >>> LowRankCovariance.parameter_count(5, rank=2), LowRankCovariance.parameter_count(5, rank=5)
            (14, 15)
        """
        columns = min(_required(rank), dim)
        return min(dim * (dim + 1) // 2, dim * (columns + 1) - columns * (columns - 1) // 2)

    @property
    def rank(self) -> int:
        """Number of columns ``r`` of the factor."""
        return self.factor.shape[-1]

    @classmethod
    def from_parameters(cls, parameters: Sequence[Tensor], dim: int) -> Self:
        """Covariance of the tensors that :attr:`parameters` gave, checked; see :meth:`Covariance.from_parameters`."""
        factor, diagonal_variance = parameters
        return cls(factor, diagonal_variance)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The factors and the diagonal variances."""
        return self.factor, self.diagonal_variance

    def dense(self) -> Tensor:
        """The matrices, ``(..., K, D, D)``."""
        return self.factor @ self.factor.mT + torch.diag_embed(self.diagonal_variance)

    def diagonal(self) -> Tensor:
        """The variances, ``(..., K, D)``."""
        return self.factor.square().sum(dim=-1) + self.diagonal_variance

    def half_log_det(self) -> Tensor:
        """Half the log-determinants in nats, ``(..., K)``."""
        # Matrix determinant lemma: |W W^T + diag(v)| = |I + W^T diag(v)^-1 W| prod v.
        capacitance = half_log_det(self._precise()._capacitance_tril())
        return capacitance.to(self.dtype) + 0.5 * self.diagonal_variance.log().sum(dim=-1)

    def marginal(self, indices: Sequence[int]) -> "LowRankCovariance":
        """Covariance of the chosen dimensions, in the order given."""
        chosen = slice_or_list(indices)
        return LowRankCovariance(self.factor[..., chosen, :], self.diagonal_variance[..., chosen], validate=False)

    def conditional(self, given: Sequence[int], free: Sequence[int]) -> Conditional:
        """Covariance and gain of the dimensions ``free`` given the others."""
        # Through the latent: M = I + W_g^T v_g^-1 W_g, S = W_f M^-1 W_f^T + v_f, gain = W_f M^-1 W_g^T v_g^-1.
        known, rest = self.marginal(given)._precise(), self.marginal(free)
        tril = known._capacitance_tril()
        decode = torch.linalg.solve_triangular(tril, rest.factor.to(tril.dtype).mT, upper=False).mT
        decode = decode.to(self.dtype)
        return Conditional(
            LowRankCovariance(decode, rest.diagonal_variance, validate=False),
            encode=known._latent_projection(tril).to(self.dtype),
            decode=decode,
        )

    def add_diagonal(self, variance: Tensor) -> "LowRankCovariance":
        """Covariance of the sum with independent noise of variances ``(D,)``, or of one variance."""
        return LowRankCovariance(self.factor, self.diagonal_variance + variance, validate=False)

    def rebuild(self, *parameters: Tensor) -> Self:
        """Covariance of the same form with other parameters, unchecked."""
        factor, diagonal_variance = parameters
        return type(self)(factor, diagonal_variance, validate=False)

    def latent_posterior(self) -> tuple[Tensor, Tensor]:
        r"""Posterior of the ``r`` factors of a row, :math:`u \mid x \sim N(\beta_k (x - \mu_k), M_k^{-1})`.

        With :math:`M_k = I + W_k^\top v_k^{-1} W_k`, the gain is :math:`\beta_k = M_k^{-1} W_k^\top v_k^{-1}`.

        Returns:
            Gains ``(..., K, r, D)`` and posterior covariances ``(..., K, r, r)``.

        Examples:
            >>> LowRankCovariance(torch.ones(1, 3, 1), torch.ones(1, 3)).latent_posterior()
            (tensor([[[0.2500, 0.2500, 0.2500]]]), tensor([[[0.2500]]]))
        """
        precise = self._precise()
        tril = precise._capacitance_tril()
        gain = torch.linalg.solve_triangular(tril.mT, precise._latent_projection(tril), upper=True)
        eye = torch.eye(self.rank, dtype=tril.dtype, device=tril.device).expand_as(tril)
        return gain.to(self.dtype), torch.cholesky_solve(eye, tril).to(self.dtype)

    def _precise(self) -> Self:
        # Woodbury's formula subtracts: in float32 it loses the digits of factor over diagonal.
        return self.to(accumulation_dtype(self.factor))

    def _capacitance_tril(self) -> Tensor:
        """``(..., K, r, r)``: the factor :math:`C` of :math:`M = I + W^T v^{-1} W`, whose eigenvalues are above 1."""
        scaled = self.factor / self.diagonal_variance.unsqueeze(-1)
        eye = torch.eye(self.rank, dtype=self.dtype, device=self.device)
        return cholesky_or_nan(eye + self.factor.mT @ scaled)

    def _latent_projection(self, capacitance_tril: Tensor) -> Tensor:
        """``(..., K, r, D)``: :math:`C^{-1} W^T v^{-1}` with :math:`C C^T = M`."""
        scaled = self.factor / self.diagonal_variance.unsqueeze(-1)
        projection: Tensor = torch.linalg.solve_triangular(capacitance_tril, scaled.mT, upper=False)
        return projection

    def _distances(self, x: Tensor, means: Tensor) -> Tensor:
        precise = self._precise()
        projection = precise._latent_projection(precise._capacitance_tril())
        rows, centres = for_products(x, means, 1 / self.diagonal_variance)
        projection = projection.to(rows.dtype)
        offset = (projection @ centres.unsqueeze(-1)).squeeze(-1)

        def explained(rows: Tensor, projection: Tensor, offset: Tensor) -> Tensor:
            latent = torch.addmm(-offset.flatten(), rows, projection.flatten(0, 1).T)
            return squared_norms(latent.view(len(rows), *offset.shape))

        total = weighted_squared_distances(rows, centres, 1 / self.diagonal_variance.to(rows.dtype))
        if self.tied:
            known = squared_distances(rows @ projection[0].mT, offset)
        else:
            known = over_blocks(explained, rows, (projection, offset), self.rank)
        return as_distances(total.sub_(known), x.dtype)

    def _norms(self, difference: Tensor) -> Tensor:
        precise = self._precise()
        wide = difference.to(precise.dtype)
        latent = apply_matrices(precise._latent_projection(precise._capacitance_tril()), wide)
        total = (wide.square() / precise.diagonal_variance).sum(dim=-1)
        return (total - latent.square().sum(dim=-1)).clamp_min(0).to(difference.dtype)

    def draw(self, index: Tensor) -> Tensor:
        """Centred noise of the component that is chosen at each place."""
        spread = drawn_rows(self.factor, self.factor.new_zeros(1, self.dim), index)
        return spread + self._noise(index, self.dim) * self._gather(self.diagonal_variance, index).sqrt()


def factor_step(cross: Tensor, latent: Tensor, variances: Tensor, least: Tensor | float) -> tuple[Tensor, Tensor]:
    r"""M-step of EM for factor analysis: factor and diagonal variances of the second moments of rows and factors.

    With the posterior :math:`(\beta, M^{-1})` of :meth:`LowRankCovariance.latent_posterior` and the second moments
    :math:`S` of the rows, the E-step gives :math:`V = S \beta^\top` and :math:`A = M^{-1} + \beta S \beta^\top`. The
    regression of rows on factors, :math:`V A^{-1}`, is the step of Rubin and Thayer (1982) and of Ghahramani and
    Hinton (1996). This one also lets the factors' covariance :math:`A = R R^\top` be free and takes it into the factor
    (parameter-expanded EM; Liu, Rubin and Wu, 1998), which converges in far fewer rounds:

    .. math::
        W' = V R^{-\top}, \qquad v' = \mathrm{diag}(S - W' W'^\top).

    Neither form lowers the likelihood, and both have the same fixed points. The variances of :math:`S` are kept. No
    ``D x D`` matrix is needed, only :math:`V`, :math:`A` and the diagonal of :math:`S`.

    Args:
        cross: :math:`V`, ``(..., K, D, r)``.
        latent: :math:`A`, ``(..., K, r, r)``.
        variances: Diagonal of :math:`S`, ``(..., K, D)``.
        least: Least diagonal variance, broadcasting with ``variances``.

    Returns:
        Factor ``(..., K, D, r)`` and diagonal variances ``(..., K, D)``; a singular ``latent`` gives NaN.

    Examples:
        >>> factor_step(torch.tensor([[[2.0], [0.0]]]), torch.tensor([[[4.0]]]), torch.tensor([[3.0, 1.0]]), 1e-6)
        (tensor([[[1.],
                 [0.]]]), tensor([[2., 1.]]))
    """
    tril = cholesky_or_nan(latent)
    factor: Tensor = torch.linalg.solve_triangular(tril, cross.mT, upper=False).mT
    return factor, torch.maximum(variances - factor.square().sum(dim=-1), torch.as_tensor(least).to(variances))


def factor_analysis(
    dense: Tensor,
    rank: int,
    *,
    start: LowRankCovariance | None = None,
    floor: float = 0.0,
    tolerance: float | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Maximum-likelihood factor and diagonal variances of covariances, by rounds of :func:`factor_step`.

    A round costs :math:`D^2 r` operations for each matrix. The likelihood never falls, unless the floor rises.
    Convergence is linear, and the optimum may be a local one.

    Args:
        dense: ``(..., K, D, D)``, in the precision to work in.
        rank: Number of columns ``r``, between 1 and ``D``.
        start: Covariance to start from; principal axes of the correlations, with half of each variance, where it is
            ``None``. A column of zeros stays zero.
        floor: Least diagonal variance. It is also at least a millionth of the variance of its dimension.
        tolerance: Relative change of all diagonal variances that ends the rounds. Where it is ``None``, all rounds are
            taken.

    Returns:
        Factor ``(..., K, D, r)`` and diagonal variances ``(..., K, D)``.

    Examples:
        >>> factor, variance = factor_analysis(torch.ones(1, 3, 3).double() + torch.eye(3).double(), rank=1)
        >>> factor.abs().round(decimals=3).flatten().tolist(), variance.round(decimals=3).flatten().tolist()
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    """
    total = dense.diagonal(dim1=-2, dim2=-1)
    least = (RELATIVE_FLOOR * total).clamp_min(floor)
    fitted = _principal_axes(dense, rank) if start is None else start
    factor, variance = fitted.factor, fitted.diagonal_variance
    eye = torch.eye(rank, dtype=dense.dtype, device=dense.device)
    for _ in range(FACTOR_ROUNDS if start is None else LATER_ROUNDS):
        # This is `latent_posterior` with fewer operations: small matrices are read as fast as they are launched.
        scaled = factor / variance.unsqueeze(-1)
        noise = torch.cholesky_inverse(cholesky_or_nan(eye + factor.mT @ scaled))
        cross = dense @ (scaled @ noise)
        before = variance
        factor, variance = factor_step(cross, noise + noise @ (scaled.mT @ cross), total, least)
        if tolerance is not None and bool(((variance - before).abs() <= tolerance * before).all()):
            break
    return factor, variance


def _principal_axes(dense: Tensor, rank: int) -> LowRankCovariance:
    """Covariance of principal axes of the correlations, where half of each variance is noise."""
    variance = 0.5 * dense.diagonal(dim1=-2, dim2=-1)
    scale = variance.sqrt()
    values, vectors = torch.linalg.eigh(dense / (scale.unsqueeze(-1) * scale.unsqueeze(-2)))
    strength = (values[..., -rank:] - 1).clamp_min(_LEAST_STRENGTH).sqrt()
    factor = scale.unsqueeze(-1) * vectors[..., -rank:] * strength.unsqueeze(-2)
    return LowRankCovariance(factor, variance, validate=False)


def _required(rank: int | None) -> int:
    if rank is None:
        raise ConfigError("covariance_type 'low_rank' needs a rank, got None")
    return rank
