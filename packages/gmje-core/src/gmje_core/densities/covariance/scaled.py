"""Covariances that share factors and differ by scales, so that many components cost little more than their factors."""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import Self

from torch import Tensor

from gmje_core.densities.covariance.base import Conditional
from gmje_core.densities.covariance.full import FullCovariance
from gmje_core.densities.covariance.shared import SharedCovariance
from gmje_core.densities.covariance.values import require_positive
from gmje_core.errors import ShapeError
from gmje_core.linalg import LOG_2PI, require_finite

__all__ = ["ScaledCovariance"]


@dataclass(frozen=True, eq=False, repr=False)
class ScaledCovariance(SharedCovariance):
    r"""Several scales of each of ``F`` full covariances, :math:`\Sigma_{fs} = \sigma_s L_f L_f^\top`.

    Component ``f * S + s`` has factor ``f`` and scale ``s``. It is made for mixtures of heavy tails, in which the ``S``
    components of one factor also share one mean: distances are computed once a factor.

    Args:
        scale_tril: ``(F, D, D)`` lower-triangular factors with positive diagonals.
        scales: ``(S,)`` positive scales :math:`\sigma_s` of the covariance (not of the deviations).
        validate: Check the values.

    Raises:
        ShapeError, NonFiniteError, NotPositiveDefiniteError: they are no factors or scales.

    Examples:
        >>> import torch
        >>> covariance = ScaledCovariance(torch.eye(2).expand(3, 2, 2), torch.tensor([1.0, 4.0]))
        >>> covariance.shape, covariance.diagonal()[:2].tolist()
        (torch.Size([6]), [[1.0, 1.0], [4.0, 4.0]])
    """

    scale_tril: Tensor
    scales: Tensor
    validate: InitVar[bool] = True

    def __post_init__(self, validate: bool) -> None:
        if self.scale_tril.ndim != 3 or self.scales.ndim != 1:
            raise ShapeError(
                "scale_tril and scales must have shapes (F, D, D) and (S,), but have "
                f"{tuple(self.scale_tril.shape)} and {tuple(self.scales.shape)}"
            )
        if validate:
            FullCovariance(self.scale_tril)
            require_finite("scales", self.scales)
            require_positive("scales", self.scales[None])

    @property
    def factors(self) -> FullCovariance:
        """The covariances at scale one, ``(F,)``."""
        return FullCovariance(self.scale_tril, validate=False)

    @property
    def shared(self) -> int:
        """Number ``S`` of scales."""
        return len(self.scales)

    @classmethod
    def from_full(cls, full: FullCovariance) -> Self:
        """The same covariances at the only scale 1."""
        return cls(full.scale_tril, full.scale_tril.new_ones(1), validate=False)

    @classmethod
    def from_parameters(cls, parameters: Sequence[Tensor], dim: int) -> Self:
        """Covariance of the tensors that :attr:`parameters` gave, checked; see :meth:`Covariance.from_parameters`."""
        scale_tril, scales = parameters
        return cls(scale_tril, scales)

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The factors and the scales."""
        return self.scale_tril, self.scales

    def dense(self) -> Tensor:
        """The matrices, ``(F * S, D, D)``."""
        return (self.factors.dense()[:, None] * self.scales[:, None, None]).flatten(0, 1)

    def diagonal(self) -> Tensor:
        """The variances, ``(F * S, D)``."""
        return (self.factors.diagonal()[:, None] * self.scales[:, None]).flatten(0, 1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        r""":math:`\sum_{fs} w_{fs} \Sigma_{fs}`, ``(..., D, D)``, from weights ``(..., F * S)``."""
        scale = (self.by_matrix(weights, -1) * self.scales).sum(dim=-1)
        return (scale @ self.factors.dense().flatten(1)).view(*weights.shape[:-1], self.dim, self.dim)

    def half_log_det(self) -> Tensor:
        """Half the log-determinants in nats, ``(F * S,)``."""
        return (self.factors.half_log_det()[:, None] + 0.5 * self.dim * self.scales.log()).flatten()

    def log_densities(self, distances: Tensor) -> Tensor:
        """Log-densities of Gaussians at every scale, from squared distances at scale one.

        Args:
            distances: ``(..., F)``, those of :attr:`factors`.

        Returns:
            ``(..., F, S)``, nats.
        """
        constant = self.factors.half_log_det()[:, None] + 0.5 * self.dim * (LOG_2PI + self.scales.log())
        return -0.5 * distances.unsqueeze(-1) / self.scales - constant

    def marginal(self, indices: Sequence[int]) -> "ScaledCovariance":
        """Covariance of the chosen dimensions, in the order given."""
        return ScaledCovariance(self.factors.marginal(indices).scale_tril, self.scales, validate=False)

    def conditional(self, given: Sequence[int], free: Sequence[int]) -> Conditional:
        """Covariance and gain of the dimensions ``free`` given the others."""
        shared = self.factors.conditional(given, free)
        assert isinstance(shared.covariance, FullCovariance)
        assert shared.encode is not None
        covariance = ScaledCovariance(shared.covariance.scale_tril, self.scales, validate=False)
        return Conditional(covariance, encode=shared.encode.repeat_interleave(len(self.scales), dim=0))

    def add_diagonal(self, variance: Tensor) -> FullCovariance:
        """Covariance of the sum with independent noise, one factor for every component."""
        roots = (self.scale_tril[:, None] * self.scales.sqrt()[:, None, None]).flatten(0, 1)
        return FullCovariance(roots, validate=False).add_diagonal(variance)

    def rebuild(self, *parameters: Tensor) -> Self:
        """Covariance of the same form with other parameters, unchecked."""
        scale_tril, scales = parameters
        return type(self)(scale_tril, scales, validate=False)

    def squared_mahalanobis(self, x: Tensor, means: Tensor) -> Tensor:
        r""":math:`(x - \mu_{fs})^\top \Sigma_{fs}^{-1} (x - \mu_{fs})` for every component.

        Args:
            x: ``(..., D)``, broadcasting with the batch shape of ``means``.
            means: ``(..., F * S, D)``, equal for the components of one factor.

        Returns:
            ``(..., F * S)``.
        """
        distances = self.factors.squared_mahalanobis(x, means[..., :: len(self.scales), :])
        return (distances.unsqueeze(-1) / self.scales).flatten(-2)

    def _distances(self, x: Tensor, means: Tensor) -> Tensor:
        return self.squared_mahalanobis(x, means)

    def _norms(self, difference: Tensor) -> Tensor:
        norms = self.factors._norms(difference[..., :: len(self.scales), :])
        return (norms.unsqueeze(-1) / self.scales).flatten(-2)

    def draw(self, index: Tensor) -> Tensor:
        """Centred noise of the component that is chosen at each place."""
        count = len(self.scales)
        return self.factors.draw(index // count) * self.scales[index % count].sqrt().unsqueeze(-1)
