"""What covariances have in common whose components share matrices: they are made as full covariances are."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

from gmje_core.densities.covariance.base import Covariance, CovarianceType
from gmje_core.densities.covariance.full import FullCovariance

__all__ = ["SharedCovariance"]


class SharedCovariance(Covariance):
    r"""``F`` matrices ``D x D``, each for ``S`` components; ``f * S + s`` is component ``s`` of matrix ``f``.

    The first of :attr:`parameters` holds the matrices, ``(F, D, D)``. The components of one matrix often share their
    mean too, but only a subclass that says so may rely on it.
    """

    covariance_type: ClassVar[CovarianceType] = "full"
    axis_aligned: ClassVar[bool] = False
    diagonal_moments: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def from_full(cls, full: FullCovariance) -> Self:
        """The same covariances in this form, one component for each matrix.

        Args:
            full: Covariances of leading shape ``(F,)``.
        """

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
        """Covariances with these matrices, one component for each; see :meth:`Covariance.from_second_moments`."""
        return cls.from_full(FullCovariance.from_second_moments(second, validate=validate))

    @classmethod
    def unconstrained_sizes(cls, dim: int, rank: int | None = None) -> dict[str, int]:
        """Those of full covariances; see :meth:`Covariance.unconstrained_sizes`."""
        return FullCovariance.unconstrained_sizes(dim, rank)

    @classmethod
    def from_unconstrained(cls, values: Mapping[str, Tensor], dim: int, *, scale: Tensor | float, floor: float) -> Self:
        """Full covariances, one component for each; see :meth:`Covariance.from_unconstrained`."""
        return cls.from_full(FullCovariance.from_unconstrained(values, dim, scale=scale, floor=floor))

    @classmethod
    def parameter_count(cls, dim: int, rank: int | None = None) -> int:
        """Number of free parameters of one matrix, which is that of a full covariance."""
        return FullCovariance.parameter_count(dim, rank)

    @property
    @abstractmethod
    def shared(self) -> int:
        """Number ``S`` of components that each matrix serves."""

    @property
    def shape(self) -> torch.Size:
        """Leading shape ``(F * S,)``."""
        return torch.Size([len(self.parameters[0]) * self.shared])

    @property
    def dim(self) -> int:
        """Number of dimensions ``D``."""
        return self.parameters[0].shape[-1]

    def by_matrix(self, tensor: Tensor, axis: int) -> Tensor:
        """A tensor whose axis of ``F * S`` components is split into matrices and those that each of them serves."""
        count = len(self.parameters[0])
        split: Tensor = tensor.unflatten(axis, (count, tensor.shape[axis] // count))
        return split
