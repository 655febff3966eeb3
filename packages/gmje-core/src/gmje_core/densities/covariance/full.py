"""Covariances without structure, held as lower-triangular factors."""

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from gmje_core.densities.blockwise import apply_matrices, drawn_rows, over_blocks, squared_norms
from gmje_core.densities.covariance.base import Conditional, Covariance, CovarianceType
from gmje_core.densities.covariance.values import require_positive, standard_deviations
from gmje_core.densities.distances import as_distances, common_origin, squared_distances
from gmje_core.densities.quadratic import accurate_forms, quadratic_forms
from gmje_core.errors import NotPositiveDefiniteError, ShapeError
from gmje_core.linalg import (
    accumulation_dtype,
    cholesky_or_nan,
    half_log_det,
    reorder_factor,
    require_finite,
    safe_cholesky,
    triangular_inverse,
)

__all__ = ["FullCovariance"]

# Number of rows of an inverse factor that are multiplied at a time.
_BAND = 32


@dataclass(frozen=True, eq=False, repr=False)
class FullCovariance(Covariance):
    r"""Any positive-definite matrix, :math:`\Sigma_k = L_k L_k^\top`.

    Args:
        scale_tril: ``(..., K, D, D)`` lower-triangular factors with positive diagonals.
        validate: Check the values.

    Raises:
        ShapeError, NonFiniteError, NotPositiveDefiniteError: ``scale_tril`` is no such factor.

    Examples:
        >>> FullCovariance(torch.eye(3).expand(5, 3, 3))
        FullCovariance(shape=(5,), dim=3, dtype=torch.float32)
    """

    covariance_type: ClassVar[CovarianceType] = "full"
    axis_aligned: ClassVar[bool] = False
    diagonal_moments: ClassVar[bool] = False
    _event_axes: ClassVar[int] = 2

    scale_tril: Tensor
    validate: InitVar[bool] = True

    def __post_init__(self, validate: bool) -> None:
        factor = self.scale_tril
        if factor.ndim < 3 or factor.shape[-1] != factor.shape[-2]:
            raise ShapeError(f"scale_tril must have shape (..., K, D, D), but has {tuple(factor.shape)}")
        if validate:
            require_finite("scale_tril", factor)
            if not torch.equal(factor, factor.tril()):
                raise NotPositiveDefiniteError(
                    "scale_tril must be lower triangular, but holds values above its diagonal"
                )
            require_positive("diagonal of scale_tril", factor.diagonal(dim1=-2, dim2=-1))

    @classmethod
    def from_second_moments(
        cls,
        second: Tensor,
        *,
        rank: int | None = None,
        previous: Covariance | None = None,
        floor: float = 0.0,
        validate: bool = True,
    ) -> Self:
        """Covariance with these matrices; see :meth:`Covariance.from_second_moments`.

        They are factored by :func:`gmje_core.linalg.safe_cholesky`, or by :func:`gmje_core.linalg.cholesky_or_nan`
        where they are not to be checked.

        Examples:
            >>> FullCovariance.from_second_moments(torch.tensor([[[4.0, 2.0], [2.0, 5.0]]])).scale_tril
            tensor([[[2., 0.],
                     [1., 2.]]])
        """
        return cls(safe_cholesky(second) if validate else cholesky_or_nan(second), validate=False)

    @classmethod
    def unconstrained_sizes(cls, dim: int, rank: int | None = None) -> dict[str, int]:
        """How many unconstrained numbers one matrix takes; see :meth:`Covariance.unconstrained_sizes`.

        Examples:
            >>> FullCovariance.unconstrained_sizes(3)
            {'deviations': 3, 'off_diagonal': 3}
        """
        return {"deviations": dim, "off_diagonal": dim * (dim - 1) // 2}

    @classmethod
    def from_unconstrained(cls, values: Mapping[str, Tensor], dim: int, *, scale: Tensor | float, floor: float) -> Self:
        """Covariance of any real numbers; see :meth:`Covariance.from_unconstrained`.

        The deviations become the diagonal of the factor.

        Examples:
            >>> values = {"deviations": torch.zeros(1, 2), "off_diagonal": torch.tensor([[3.0]])}
            >>> FullCovariance.from_unconstrained(values, 2, scale=1.0, floor=0.0).scale_tril
            tensor([[[0.6931, 0.0000],
                     [3.0000, 0.6931]]])
        """
        deviations = standard_deviations(values["deviations"], scale, floor)
        rows, columns = torch.tril_indices(dim, dim, offset=-1, device=deviations.device)
        lower = deviations.new_zeros(*deviations.shape, dim)
        lower[..., rows, columns] = scale * values["off_diagonal"]
        return cls(lower + torch.diag_embed(deviations), validate=False)

    @classmethod
    def parameter_count(cls, dim: int, rank: int | None = None) -> int:
        """Number of free parameters of one matrix.

        Examples:
            >>> FullCovariance.parameter_count(3)
            6
        """
        return dim * (dim + 1) // 2

    @classmethod
    def from_parameters(cls, parameters: Sequence[Tensor], dim: int) -> Self:
        """Covariance of the tensors that :attr:`parameters` gave, checked; see :meth:`Covariance.from_parameters`."""
        (scale_tril,) = parameters
        return cls(scale_tril)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The factors."""
        return (self.scale_tril,)

    def dense(self) -> Tensor:
        """The matrices, ``(..., K, D, D)``."""
        return self.scale_tril @ self.scale_tril.mT

    def diagonal(self) -> Tensor:
        """The variances, ``(..., K, D)``."""
        return self.scale_tril.square().sum(dim=-1)

    def half_log_det(self) -> Tensor:
        """Half the log-determinants in nats, ``(..., K)``."""
        return half_log_det(self.scale_tril)

    def marginal(self, indices: Sequence[int]) -> "FullCovariance":
        """Covariance of the chosen dimensions, in the order given."""
        return FullCovariance(reorder_factor(self.scale_tril, indices), validate=False)

    def conditional(self, given: Sequence[int], free: Sequence[int]) -> Conditional:
        """Covariance and gain of the dimensions ``free`` given the others."""
        size = len(given)
        factor = reorder_factor(self.scale_tril, [*given, *free])
        precise = factor.to(accumulation_dtype(factor))
        # G = L_fg L_gg^-1 and S = L_ff L_ff^T: nothing is subtracted.
        gain = torch.linalg.solve_triangular(
            precise[..., :size, :size], precise[..., size:, :size], upper=False, left=False
        )
        free_factor = FullCovariance(factor[..., size:, size:], validate=False)
        return Conditional(free_factor, encode=gain.to(factor.dtype))

    def add_diagonal(self, variance: Tensor) -> "FullCovariance":
        """Covariance of the sum with independent noise of variances ``(D,)``, or of one variance.

        A member that is singular in its precision, and stays so behind the noise, becomes NaN.
        """
        noise = torch.diag(variance.expand(self.dim))
        return FullCovariance(cholesky_or_nan(self.dense() + noise), validate=False)

    def rebuild(self, *parameters: Tensor) -> Self:
        """Covariance of the same form with other parameters, unchecked."""
        (scale_tril,) = parameters
        return type(self)(scale_tril, validate=False)

    def _distances(self, x: Tensor, means: Tensor) -> Tensor:
        inverse = triangular_inverse(self.scale_tril)
        if self.tied:
            precise = accumulation_dtype(x)
            rows, centres = common_origin(x, means, precise)
            whitening = inverse[0].mT.to(precise)
            return as_distances(squared_distances(rows @ whitening, centres @ whitening), x.dtype)
        x, means = common_origin(x, means)
        precision = accurate_forms(x, means, inverse)
        if precision is not None:
            linear = (precision @ means.unsqueeze(-1)).squeeze(-1)
            rest = torch.addmm((linear * means).sum(dim=-1), x, linear.T, alpha=-2)
            return as_distances(rest.add_(quadratic_forms(x, precision)), x.dtype)
        offset = (inverse @ means.unsqueeze(-1)).squeeze(-1)

        def distances(x: Tensor, inverse: Tensor, offset: Tensor) -> Tensor:
            # The inverse is lower triangular: a band of its rows needs no columns beyond the band.
            total = x.new_zeros(())
            for start in range(0, self.dim, _BAND):
                rows, width = slice(start, start + _BAND), min(start + _BAND, self.dim)
                band = offset[:, rows]
                whitened = torch.addmm(-band.flatten(), x[:, :width], inverse[:, rows, :width].flatten(0, 1).T)
                total = total + squared_norms(whitened.view(len(x), *band.shape))
            return total

        return over_blocks(distances, x, (inverse, offset), self.dim)

    def _norms(self, difference: Tensor) -> Tensor:
        return apply_matrices(self.scale_tril, difference, solve=True).square().sum(dim=-1)

    def draw(self, index: Tensor) -> Tensor:
        """Centred noise of the component that is chosen at each place."""
        return self.draw_about(self.scale_tril.new_zeros(1, self.dim), index)

    def draw_about(self, means: Tensor, index: Tensor) -> Tensor:
        """Draws of the component that is chosen at each place: its mean and noise."""
        return drawn_rows(self.scale_tril, means, index)
