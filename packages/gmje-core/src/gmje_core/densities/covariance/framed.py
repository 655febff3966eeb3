"""Covariances that are diagonal in frames which many components share, so that each of these costs a vector only."""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import Self

import torch
from torch import Tensor

from gmje_core.densities.blockwise import gather_components, gathered_product, over_blocks, over_components
from gmje_core.densities.covariance.base import Conditional
from gmje_core.densities.covariance.full import FullCovariance
from gmje_core.densities.covariance.shared import SharedCovariance
from gmje_core.densities.covariance.values import require_positive
from gmje_core.densities.distances import as_distances, common_origin
from gmje_core.errors import NotPositiveDefiniteError, ShapeError
from gmje_core.linalg import accumulation_dtype, broadcast_shapes, require_finite, triangular_factor

__all__ = ["FramedCovariance"]


@dataclass(frozen=True, eq=False, repr=False)
class FramedCovariance(SharedCovariance):
    r"""Covariances that are diagonal in shared frames, :math:`\Sigma_{fs} = B_f\, \mathrm{diag}(v_{fs})\, B_f^\top`.

    Component ``f * S + s`` has frame ``f``, whose columns need not be orthogonal, and its own variances along them.
    Distances, densities, means and draws make no matrix for a component. What keeps a part of the dimensions only,
    or adds noise to them, leaves the frame: it gives a :class:`FullCovariance` with a factor for each component.

    Args:
        frame: ``(F, D, D)`` invertible :math:`B_f`.
        variances: ``(F, S, D)`` positive :math:`v_{fs}`.
        validate: Check the values.

    Raises:
        ShapeError, NonFiniteError, NotPositiveDefiniteError: the frames cannot be inverted or the variances are none.

    Examples:
        >>> frame = torch.tensor([[[1.0, 1.0], [0.0, 1.0]]])
        >>> covariance = FramedCovariance(frame, torch.tensor([[[1.0, 1.0], [1.0, 3.0]]]))
        >>> covariance.shape, covariance.dense().tolist()
        (torch.Size([2]), [[[2.0, 1.0], [1.0, 1.0]], [[4.0, 3.0], [3.0, 3.0]]])
    """

    frame: Tensor
    variances: Tensor
    validate: InitVar[bool] = True

    def __post_init__(self, validate: bool) -> None:
        shapes = tuple(self.frame.shape), tuple(self.variances.shape)
        dim = self.frame.shape[-1] if self.frame.ndim else 0
        if len(shapes[1]) != 3 or shapes[0] != (shapes[1][0], dim, dim) or shapes[1][2] != dim:
            raise ShapeError(
                f"frame and variances must have shapes (F, D, D) and (F, S, D), but have {shapes[0]} and {shapes[1]}"
            )
        if validate:
            require_finite("frame", self.frame)
            require_finite("variances", self.variances)
            require_positive("variances", self.variances)
            _require_invertible(self.frame)

    @property
    def shared(self) -> int:
        """Number ``S`` of components of each frame."""
        return self.variances.shape[1]

    @classmethod
    def from_full(cls, full: FullCovariance) -> Self:
        """The same covariances, with their triangular factors as frames and variances of 1."""
        return cls(full.scale_tril, torch.ones_like(full.scale_tril[:, :1]), validate=False)

    @classmethod
    def from_parameters(cls, parameters: Sequence[Tensor], dim: int) -> Self:
        """Covariance of the tensors that :attr:`parameters` gave, checked; see :meth:`Covariance.from_parameters`."""
        frame, variances = parameters
        return cls(frame, variances)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The frames and the variances."""
        return self.frame, self.variances

    def rebuild(self, *parameters: Tensor) -> Self:
        """Covariance of the same form with other parameters, unchecked."""
        frame, variances = parameters
        return type(self)(frame, variances, validate=False)

    def dense(self) -> Tensor:
        """The matrices, ``(F * S, D, D)``."""
        stretched = self.frame.unsqueeze(1) * self.variances.unsqueeze(2)
        return (stretched.flatten(1, 2) @ self.frame.mT).view(-1, self.dim, self.dim)

    def diagonal(self) -> Tensor:
        """The variances of the dimensions, ``(F * S, D)``."""
        return (self.variances @ self.frame.square().mT).flatten(0, 1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        r""":math:`\sum_{fs} w_{fs} \Sigma_{fs}`, ``(..., D, D)``, from weights ``(..., F * S)``; none is formed."""
        groups = self.by_matrix(weights, -1)
        variances = self.variances.expand(-1, groups.shape[-1], -1)
        mean = torch.einsum("...fs,fsd->...fd", groups, variances)
        # All frames side by side are one matrix, so that the sum over them is one product.
        wide = self.frame.movedim(0, 1).flatten(1)
        total: Tensor = (wide * mean.flatten(-2).unsqueeze(-2)) @ wide.T
        return total

    def half_log_det(self) -> Tensor:
        """Half the log-determinants in nats, ``(F * S,)``."""
        precise = accumulation_dtype(self.frame)
        volume = torch.linalg.slogdet(self.frame.to(precise)).logabsdet
        half: Tensor = volume.unsqueeze(1) + 0.5 * self.variances.to(precise).log().sum(dim=-1)
        return half.flatten().to(self.dtype)

    def marginal(self, indices: Sequence[int]) -> FullCovariance:
        """Covariance of the chosen dimensions, in the order given, with a factor for each component."""
        roots = self.frame[:, list(indices)].unsqueeze(1) * self.variances.sqrt().unsqueeze(2)
        return FullCovariance(triangular_factor(roots.flatten(0, 1)), validate=False)

    def conditional(self, given: Sequence[int], free: Sequence[int]) -> Conditional:
        """Covariance and gain of the dimensions ``free`` given the others, with a factor for each component."""
        return self.marginal(range(self.dim)).conditional(given, free)

    def add_diagonal(self, variance: Tensor) -> FullCovariance:
        """Covariance of the sum with independent noise, with a factor for each component."""
        return self.marginal(range(self.dim)).add_diagonal(variance)

    def squared_mahalanobis(self, x: Tensor, means: Tensor) -> Tensor:
        r""":math:`(x - \mu_{fs})^\top \Sigma_{fs}^{-1} (x - \mu_{fs})` for every component.

        Rows are brought to the coordinates of each frame once, where the means are not batched.

        Args:
            x: ``(..., D)``, broadcasting with the batch shape of ``means``.
            means: ``(..., F * S, D)``.

        Returns:
            ``(..., F * S)``.
        """
        if means.ndim == 2:
            return self._distances(x.reshape(-1, self.dim), means).reshape(*x.shape[:-1], len(means))
        lead = broadcast_shapes(x.shape[:-1], means.shape[:-2])
        groups = self.by_matrix(means, -2)

        def distances(x: Tensor, groups: Tensor, frame: Tensor, variances: Tensor) -> Tensor:
            difference = x[..., None, None, :] - groups
            return self.rebuild(frame, variances)._norms(difference.flatten(-3, -2))

        elements = lead.numel() * groups.shape[-2] * self.dim
        return over_components(distances, x, (groups, *self.parameters), (groups.ndim - 3, 0, 0), elements)

    def _distances(self, x: Tensor, means: Tensor) -> Tensor:
        precise = accumulation_dtype(x)
        rows, centres = common_origin(x, means, precise)
        inverse, groups = self._inverse(precise), self.by_matrix(centres, 0)
        offset = (inverse @ groups[:, 0].unsqueeze(-1)).squeeze(-1)
        # What is left of the means in the coordinates of their frame is zero where its components share their mean.
        rest = (groups - groups[:, :1]) @ inverse.mT
        precision = 1 / self.variances.to(precise)
        # |y - r|^2 is one product of [y^2, y] with [p, -2 r p] and a constant.
        weights = torch.cat([precision.expand_as(rest), -2 * rest * precision], dim=-1)
        constant = (rest.square() * precision).sum(dim=-1)

        def distances(rows: Tensor, inverse: Tensor, offset: Tensor, weights: Tensor, constant: Tensor) -> Tensor:
            moved = torch.addmm(-offset.flatten(), rows, inverse.flatten(0, 1).T).view(len(rows), *offset.shape)
            products = torch.cat([moved.square(), moved], dim=-1).transpose(0, 1) @ weights.mT  # (f, b, S)
            return as_distances((products.transpose(0, 1) + constant).flatten(1), x.dtype)

        width = 4 * self.dim + 2 * groups.shape[1]
        return over_blocks(distances, rows, (inverse, offset, weights, constant), width)

    def _norms(self, difference: Tensor) -> Tensor:
        moved = torch.einsum("fij,...fsj->...fsi", self._inverse(self.dtype), self.by_matrix(difference, -2))
        norms: Tensor = (moved.square() / self.variances).sum(dim=-1)
        return norms.flatten(-2)

    def _inverse(self, dtype: torch.dtype) -> Tensor:
        """Inverses ``(F, D, D)`` of the frames, which are not checked."""
        inverse: Tensor = torch.linalg.inv_ex(self.frame.to(accumulation_dtype(self.frame))).inverse
        return inverse.to(dtype)

    def draw(self, index: Tensor) -> Tensor:
        """Centred noise of the component that is chosen at each place."""
        deviations = gather_components(self.variances.flatten(0, 1), index, 1).sqrt()
        return gathered_product(self.frame, index // self.shared, deviations * self._noise(index, self.dim))


def _require_invertible(frame: Tensor) -> None:
    """Check that the frames ``(F, D, D)`` can be inverted in the precision in which they are."""
    precise = frame.detach().to(accumulation_dtype(frame))
    inverse, info = torch.linalg.inv_ex(precise)
    condition = torch.linalg.matrix_norm(precise, 1) * torch.linalg.matrix_norm(inverse, 1)
    bad = (info != 0) | ~(condition * torch.finfo(precise.dtype).eps < 1)
    if bad.any():
        raise NotPositiveDefiniteError(
            f"frame must be invertible, but its component {int(bad.nonzero()[0])} is singular, so that a covariance "
            "would be too"
        )
