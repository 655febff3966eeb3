"""Diagonal covariances: the dimensions are independent within a component."""

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from gmje_core.densities.covariance.base import Conditional, Covariance, CovarianceType
from gmje_core.densities.covariance.values import require_positive, standard_deviations, variances_of
from gmje_core.densities.distances import as_distances, for_products, weighted_squared_distances
from gmje_core.errors import ShapeError
from gmje_core.linalg import require_finite, slice_or_list

__all__ = ["DiagonalCovariance"]


@dataclass(frozen=True, eq=False, repr=False)
class DiagonalCovariance(Covariance):
    r"""Independent dimensions, :math:`\Sigma_k = \mathrm{diag}(v_k)`.

    Args:
        variance: ``(..., K, D)``, positive; variances, not standard deviations.
        validate: Check the values.

    Raises:
        ShapeError, NonFiniteError, NotPositiveDefiniteError: ``variance`` does not hold positive variances.

    Examples:
        >>> DiagonalCovariance(torch.full((1, 2), 4.0)).squared_mahalanobis(torch.tensor([2.0, 2.0]), torch.zeros(1, 2))
        tensor([2.])
    """

    covariance_type: ClassVar[CovarianceType] = "diag"
    axis_aligned: ClassVar[bool] = True
    diagonal_moments: ClassVar[bool] = True

    variance: Tensor
    validate: InitVar[bool] = True

    def __post_init__(self, validate: bool) -> None:
        if self.variance.ndim < 2:
            raise ShapeError(f"variance must have shape (..., K, D), but has {tuple(self.variance.shape)}")
        if validate:
            require_finite("variance", self.variance)
            require_positive("variance", self.variance)

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
        """Covariance with these diagonals; see :meth:`Covariance.from_second_moments`.

        Examples:
            >>> DiagonalCovariance.from_second_moments(torch.tensor([[[4.0, 2.0], [2.0, 5.0]]])).variance
            tensor([[4., 5.]])
        """
        return cls(variances_of(second), validate)

    @classmethod
    def unconstrained_sizes(cls, dim: int, rank: int | None = None) -> dict[str, int]:
        """How many unconstrained numbers one matrix takes; see :meth:`Covariance.unconstrained_sizes`.

        Examples:
            >>> DiagonalCovariance.unconstrained_sizes(3)
            {'deviations': 3}
        """
        return {"deviations": dim}

    @classmethod
    def from_unconstrained(cls, values: Mapping[str, Tensor], dim: int, *, scale: Tensor | float, floor: float) -> Self:
        """Covariance of any real numbers; see :meth:`Covariance.from_unconstrained`.

        Examples:
            >>> values = {"deviations": torch.tensor([[0.0, -100.0]])}
            >>> DiagonalCovariance.from_unconstrained(values, 2, scale=1.0, floor=0.5).diagonal().sqrt()
            tensor([[1.1931, 0.5000]])
        """
        return cls(standard_deviations(values["deviations"], scale, floor).square(), validate=False)

    @classmethod
    def parameter_count(cls, dim: int, rank: int | None = None) -> int:
        """Number of free parameters of one matrix.

        Examples:
            >>> DiagonalCovariance.parameter_count(3)
            3
        """
        return dim

    @classmethod
    def from_parameters(cls, parameters: Sequence[Tensor], dim: int) -> Self:
        """Covariance of the tensors that :attr:`parameters` gave, checked; see :meth:`Covariance.from_parameters`."""
        (variance,) = parameters
        return cls(variance)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The variances."""
        return (self.variance,)

    def dense(self) -> Tensor:
        """The matrices, ``(..., K, D, D)``."""
        return torch.diag_embed(self.variance)

    def diagonal(self) -> Tensor:
        """The variances, ``(..., K, D)``."""
        return self.variance

    def half_log_det(self) -> Tensor:
        """Half the log-determinants in nats, ``(..., K)``."""
        return 0.5 * self.variance.log().sum(dim=-1)

    def marginal(self, indices: Sequence[int]) -> "DiagonalCovariance":
        """Covariance of the chosen dimensions, in the order given."""
        return DiagonalCovariance(self.variance[..., slice_or_list(indices)], validate=False)

    def conditional(self, given: Sequence[int], free: Sequence[int]) -> Conditional:
        """Covariance of the dimensions ``free`` given the others; their means do not depend on these."""
        return Conditional(self.marginal(free))

    def add_diagonal(self, variance: Tensor) -> "DiagonalCovariance":
        """Covariance of the sum with independent noise of variances ``(D,)``, or of one variance."""
        return DiagonalCovariance(self.variance + variance, validate=False)

    def rebuild(self, *parameters: Tensor) -> Self:
        """Covariance of the same form with other parameters, unchecked."""
        (variance,) = parameters
        return type(self)(variance, validate=False)

    def _distances(self, x: Tensor, means: Tensor) -> Tensor:
        rows, centres = for_products(x, means, 1 / self.variance)
        return as_distances(weighted_squared_distances(rows, centres, 1 / self.variance.to(rows.dtype)), x.dtype)

    def _norms(self, difference: Tensor) -> Tensor:
        return (difference.square() / self.variance).sum(dim=-1)

    def draw(self, index: Tensor) -> Tensor:
        """Centred noise of the component that is chosen at each place."""
        return self._noise(index, self.dim).mul_(self._gather(self.variance.sqrt(), index))
