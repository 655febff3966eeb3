"""Spherical covariances: every direction has the same variance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from gmje_core.densities.blockwise import has_graph
from gmje_core.densities.covariance.base import Conditional, Covariance, CovarianceType
from gmje_core.densities.covariance.diagonal import DiagonalCovariance
from gmje_core.densities.covariance.values import require_positive, standard_deviations, variances_of
from gmje_core.densities.distances import as_distances, for_products, squared_distances
from gmje_core.errors import ShapeError
from gmje_core.linalg import require_finite

__all__ = ["SphericalCovariance"]


@dataclass(frozen=True, eq=False, repr=False, init=False)
class SphericalCovariance(Covariance):
    r"""The same variance in every direction, :math:`\Sigma_k = v_k I`.

    Args:
        variance: ``(..., K)``, positive.
        dim: ``D``.
        validate: Check the values.

    Raises:
        ShapeError, NonFiniteError, NotPositiveDefiniteError: ``variance`` does not hold positive variances.

    Examples:
        >>> SphericalCovariance(torch.tensor([4.0]), 3).diagonal()
        tensor([[4., 4., 4.]])
    """

    covariance_type: ClassVar[CovarianceType] = "spherical"
    axis_aligned: ClassVar[bool] = True
    diagonal_moments: ClassVar[bool] = True
    _event_axes: ClassVar[int] = 0

    variance: Tensor
    _dim: int

    def __init__(self, variance: Tensor, dim: int, validate: bool = True) -> None:
        if variance.ndim < 1 or dim < 1:
            raise ShapeError(
                f"variance must have shape (..., K) and dim be at least 1, but got {tuple(variance.shape)} and {dim}"
            )
        if validate:
            require_finite("variance", variance.unsqueeze(-1))
            require_positive("variance", variance.unsqueeze(-1))
        object.__setattr__(self, "variance", variance)
        object.__setattr__(self, "_dim", dim)

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
        """Covariance with the means of these diagonals; see :meth:`Covariance.from_second_moments`.

        Examples:
            >>> SphericalCovariance.from_second_moments(torch.tensor([[[4.0, 2.0], [2.0, 5.0]]])).variance
            tensor([4.5000])
        """
        return cls(variances_of(second).mean(dim=-1), second.shape[-1], validate)

    @classmethod
    def unconstrained_sizes(cls, dim: int, rank: int | None = None) -> dict[str, int]:
        """How many unconstrained numbers one matrix takes; see :meth:`Covariance.unconstrained_sizes`.

        Examples:
            >>> SphericalCovariance.unconstrained_sizes(3)
            {'deviations': 1}
        """
        return {"deviations": 1}

    @classmethod
    def from_unconstrained(cls, values: Mapping[str, Tensor], dim: int, *, scale: Tensor | float, floor: float) -> Self:
        """Covariance of any real numbers; see :meth:`Covariance.from_unconstrained`.

        Examples:
            >>> values = {"deviations": torch.zeros(2, 1)}
            >>> SphericalCovariance.from_unconstrained(values, 3, scale=1.0, floor=0.0).variance.sqrt()
            tensor([0.6931, 0.6931])
        """
        deviations = standard_deviations(values["deviations"], scale, floor)
        return cls(deviations.square().squeeze(-1), dim, validate=False)

    @classmethod
    def parameter_count(cls, dim: int, rank: int | None = None) -> int:
        """Number of free parameters of one matrix.

        Examples:
            >>> SphericalCovariance.parameter_count(3)
            1
        """
        return 1

    @classmethod
    def from_parameters(cls, parameters: Sequence[Tensor], dim: int) -> Self:
        """Covariance of the tensors that :attr:`parameters` gave, checked; see :meth:`Covariance.from_parameters`."""
        (variance,) = parameters
        return cls(variance, dim)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The variances."""
        return (self.variance,)

    @property
    def dim(self) -> int:
        """Number of dimensions ``D``."""
        return self._dim

    def dense(self) -> Tensor:
        """The matrices, ``(..., K, D, D)``."""
        return torch.diag_embed(self.diagonal())

    def diagonal(self) -> Tensor:
        """The variances, ``(..., K, D)``."""
        return self.variance.unsqueeze(-1).expand(*self.variance.shape, self._dim)

    def half_log_det(self) -> Tensor:
        """Half the log-determinants in nats, ``(..., K)``."""
        return 0.5 * self._dim * self.variance.log()

    def marginal(self, indices: Sequence[int]) -> "SphericalCovariance":
        """Covariance of the chosen dimensions, in the order given."""
        return SphericalCovariance(self.variance, len(indices), validate=False)

    def conditional(self, given: Sequence[int], free: Sequence[int]) -> Conditional:
        """Covariance of the dimensions ``free`` given the others; their means do not depend on these."""
        return Conditional(self.marginal(free))

    def add_diagonal(self, variance: Tensor) -> Covariance:
        """Covariance of the sum with independent noise.

        Args:
            variance: One variance for every dimension, of shape ``()`` or ``(1,)``, or a vector ``(D,)``. One variance
                is added without reading its value. The entries of a vector are compared, which waits for a GPU.

        Returns:
            A spherical covariance where all dimensions get the same noise, and a diagonal one elsewhere.

        Examples:
            >>> SphericalCovariance(torch.tensor([4.0]), 2).add_diagonal(torch.tensor(1.0)).variance
            tensor([5.])
            >>> SphericalCovariance(torch.tensor([4.0]), 2).add_diagonal(torch.tensor([1.0, 2.0])).diagonal()
            tensor([[5., 6.]])
        """
        if variance.numel() == 1 or bool((variance == variance[0]).all()):
            return SphericalCovariance(self.variance + variance.flatten()[0], self.dim, validate=False)
        return DiagonalCovariance(self.diagonal() + variance, validate=False)

    def rebuild(self, *parameters: Tensor) -> Self:
        """Covariance of the same form with other parameters, unchecked."""
        (variance,) = parameters
        return type(self)(variance, self._dim, validate=False)

    def _distances(self, x: Tensor, means: Tensor) -> Tensor:
        rows, centres = for_products(x, means, 1 / self.variance.unsqueeze(-1))
        distances = as_distances(squared_distances(rows, centres), x.dtype)
        return distances / self.variance if has_graph(distances, self.variance) else distances.div_(self.variance)

    def _norms(self, difference: Tensor) -> Tensor:
        return difference.square().sum(dim=-1) / self.variance

    def draw(self, index: Tensor) -> Tensor:
        """Centred noise of the component that is chosen at each place."""
        return self._noise(index, self._dim).mul_(self._gather(self.variance.sqrt(), index).unsqueeze(-1))
