"""The interface that the four forms of covariance share, and what conditioning a covariance gives."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from gmje_core.densities.blockwise import add_components, apply_matrices, gather_components, over_components
from gmje_core.linalg import broadcast_shapes

__all__ = [
    "Conditional",
    "Covariance",
    "CovarianceType",
]

CovarianceType = Literal["full", "low_rank", "diag", "spherical"]


class Covariance(ABC):
    r"""``K`` positive-definite matrices ``D x D`` in some parametrisation; immutable, without caches.

    The leading shape is ``(..., K)``. A last leading axis of size 1 means that one covariance is *tied* over all
    components. Leading axes broadcast against those of the means that the covariance is used with.

    A form checks the values of its parameters where it is constructed with ``validate=True``, the default. With
    ``validate=False`` it reads none, and neither does any method that scores, marginalises, conditions or draws, so
    that a GPU is not waited for. The exceptions say so: :meth:`add_diagonal` of a spherical form with a vector, and
    the factor analysis in :meth:`from_second_moments`. A choice of dimensions that do not follow each other is copied
    to the device, which also waits.
    """

    #: Name of the form: ``full``, ``low_rank``, ``diag`` or ``spherical``.
    covariance_type: ClassVar[CovarianceType]
    #: Whether every matrix is diagonal, so that any two dimensions are independent within a component.
    axis_aligned: ClassVar[bool]
    #: Whether the diagonals of second moments are all that :meth:`from_second_moments` needs.
    diagonal_moments: ClassVar[bool]

    # Number of axes of the last parameter that are not leading ones.
    _event_axes: ClassVar[int] = 1

    @classmethod
    @abstractmethod
    def from_second_moments(
        cls,
        second: Tensor,
        *,
        rank: int | None = None,
        previous: "Covariance | None" = None,
        floor: float = 0.0,
        validate: bool = True,
    ) -> Self:
        r"""Maximum-likelihood covariance of this form for Gaussians with these second moments.

        ``full`` keeps the matrices, ``diag`` keeps their diagonals and ``spherical`` the means of these;
        ``low_rank`` is a factor analysis, which carries no gradient.

        Args:
            second: Central second moments of shape ``(..., K, D, D)``. Where :attr:`diagonal_moments` is true, their
                diagonals ``(K, D)`` will do.
            rank: Number of columns of the factor of ``low_rank``, which needs it; other forms ignore it.
            previous: Where the factor analysis of ``low_rank`` starts; it then ends as soon as the variances settle.
                Other forms ignore it.
            floor: Least diagonal variance of a factor analysis that starts from ``previous``.
            validate: Check that the moments are those of a covariance.

        Returns:
            A covariance of leading shape ``(..., K)``.

        Raises:
            ConfigError: ``rank`` is missing or does not lie between 1 and ``D``.
            ShapeError: ``second`` has another shape.
            NonFiniteError, NotPositiveDefiniteError: ``second`` holds no covariances.
        """

    @classmethod
    @abstractmethod
    def unconstrained_sizes(cls, dim: int, rank: int | None = None) -> dict[str, int]:
        """How many unconstrained numbers :meth:`from_unconstrained` takes for one matrix, by name.

        Args:
            dim: ``D``.
            rank: Number of columns of the factor of ``low_rank``, which needs it.

        Returns:
            ``deviations``: ``D``, or 1 for ``spherical``. ``full`` has also ``off_diagonal``: ``D (D - 1) / 2``.
            ``low_rank`` has also ``factor``: ``D r``.

        Raises:
            ConfigError: ``low_rank`` without a rank.
        """

    @classmethod
    @abstractmethod
    def from_unconstrained(cls, values: Mapping[str, Tensor], dim: int, *, scale: Tensor | float, floor: float) -> Self:
        r"""Covariance of any real numbers, for networks and optimisers; nothing is checked.

        Standard deviations are :math:`\text{scale} \cdot (\operatorname{softplus}(\rho) + \text{floor})`. Entries off
        the diagonal and factors are multiplied by ``scale``.

        Args:
            values: For each name of :meth:`unconstrained_sizes`, a tensor of shape ``(..., K, size)``.
                ``off_diagonal`` holds the strictly lower triangle in the order of
                ``torch.tril_indices(D, D, offset=-1)``; ``factor`` holds the rows of the factor one after the other.
            dim: ``D``.
            scale: Unit of length, a scalar.
            floor: Least standard deviation, in units of ``scale``.

        Returns:
            A covariance of leading shape ``(..., K)``.
        """

    @classmethod
    @abstractmethod
    def parameter_count(cls, dim: int, rank: int | None = None) -> int:
        """Number of free parameters of one matrix, for information criteria.

        Args:
            dim: ``D``.
            rank: Number of columns of the factor of ``low_rank``, which needs it.

        Raises:
            ConfigError: ``low_rank`` without a rank.
        """

    @classmethod
    @abstractmethod
    def from_parameters(cls, parameters: Sequence[Tensor], dim: int) -> Self:
        """Covariance of the tensors that :attr:`parameters` gave, checked.

        Args:
            parameters: As many tensors as the form has.
            dim: ``D``.

        Raises:
            ValueError: another number of tensors.
            ShapeError, NonFiniteError, NotPositiveDefiniteError: tensors that are no such covariance.
        """

    @property
    @abstractmethod
    def parameters(self) -> tuple[Tensor, ...]:
        """The tensors that define the matrices."""

    @property
    def shape(self) -> torch.Size:
        """Leading shape ``(..., K)``, with ``K = 1`` where tied."""
        last = self.parameters[-1]
        return last.shape[: last.ndim - self._event_axes]

    @property
    def dim(self) -> int:
        """Number of dimensions ``D``."""
        return self.parameters[-1].shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters."""
        return self.parameters[0].dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.parameters[0].device

    @property
    def requires_grad(self) -> bool:
        """Whether any parameter requires grad."""
        return any(tensor.requires_grad for tensor in self.parameters)

    @abstractmethod
    def dense(self) -> Tensor:
        """The matrices, ``(..., K, D, D)``."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """The variances, ``(..., K, D)``."""

    @abstractmethod
    def half_log_det(self) -> Tensor:
        r""":math:`\tfrac12 \log |\Sigma_k|` in nats, ``(..., K)``."""

    @abstractmethod
    def marginal(self, indices: Sequence[int]) -> "Covariance":
        """Covariance of the chosen dimensions, in the order given."""

    @abstractmethod
    def conditional(self, given: Sequence[int], free: Sequence[int]) -> "Conditional":
        """Covariance of the dimensions ``free`` given the others, and how their means follow these.

        Args:
            given: Dimensions conditioned on.
            free: The remaining dimensions, in the order wanted.
        """

    @abstractmethod
    def rebuild(self, *parameters: Tensor) -> Self:
        """Covariance of the same form with other :attr:`parameters`, which are not checked."""

    @abstractmethod
    def add_diagonal(self, variance: Tensor) -> "Covariance":
        """Covariance of the sum with independent noise.

        Args:
            variance: Variances of the noise, ``(D,)``, or one variance for every dimension, of shape ``()`` or
                ``(1,)``. A spherical covariance stays spherical under one variance, and under a vector of equal ones;
                only for a vector does it have to read the values.
        """

    def weighted_sum(self, weights: Tensor) -> Tensor:
        r""":math:`\sum_k w_k \Sigma_k`.

        Args:
            weights: ``(..., K)``; where the covariance is tied, they sum to one.

        Returns:
            ``(..., D, D)``.
        """
        dense = self.dense()
        if dense.shape[-3] == 1:
            return dense.squeeze(-3).expand(*weights.shape[:-1], -1, -1).clone()
        if dense.ndim == 3:  # shared by the whole batch: one product, no copy per member
            return (weights @ dense.flatten(1)).view(*weights.shape[:-1], self.dim, self.dim)
        return (weights.unsqueeze(-2) @ dense.flatten(-2)).squeeze(-2).view(*weights.shape[:-1], self.dim, self.dim)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Covariance of the same form with a function applied to every parameter, leading axes included."""
        return self.rebuild(*[function(tensor) for tensor in self.parameters])

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        """The covariance on another device or in another dtype."""
        return self.map(lambda tensor: tensor.to(target))

    def detach(self) -> Self:
        """The covariance cut from any graph."""
        return self.map(Tensor.detach)

    @property
    def tied(self) -> bool:
        """Whether one matrix serves all components."""
        return self.shape[-1] == 1

    def squared_mahalanobis(self, x: Tensor, means: Tensor) -> Tensor:
        r""":math:`(x - \mu_k)^\top \Sigma_k^{-1} (x - \mu_k)` for every component.

        Where neither means nor covariances are batched, it is a matrix product in chunks of components, after
        centring: no ``B x K x D`` tensor is stored, not even for the backward pass.

        Args:
            x: ``(..., D)``, broadcasting with the batch shape of ``means``.
            means: ``(..., K, D)``.

        Returns:
            ``(..., K)``, a tensor that shares no memory with another.
        """
        if means.ndim == 2 and len(self.shape) == 1:
            rows = x.reshape(-1, self.dim)
            return self._distances(rows, means).reshape(*x.shape[:-1], means.shape[0])
        batch = broadcast_shapes(means.shape[:-2], self.shape[:-1])
        lead = broadcast_shapes(x.shape[:-1], batch)

        def distances(x: Tensor, means: Tensor, *parameters: Tensor) -> Tensor:
            difference = (x.unsqueeze(-2) - means).expand(*lead, -1, -1)
            return self.rebuild(*parameters)._norms(difference)

        axes = [means.ndim - 2, *[len(self.shape) - 1] * len(self.parameters)]
        return over_components(distances, x, (means, *self.parameters), axes, lead.numel() * self.dim)

    @abstractmethod
    def _distances(self, x: Tensor, means: Tensor) -> Tensor:
        """Squared distances ``(B, K)`` of rows ``(B, D)`` to means ``(K, D)``, for a leading shape ``(K,)``."""

    @abstractmethod
    def _norms(self, difference: Tensor) -> Tensor:
        """Squared norms ``(..., k)`` of differences ``(..., k, D)`` that broadcast with the leading shape."""

    @abstractmethod
    def draw(self, index: Tensor) -> Tensor:
        """Centred noise of the component that is chosen at each place.

        Args:
            index: Component numbers in ``[0, K)``, of shape ``(*sample_shape, *batch_shape)``.

        Returns:
            ``(*sample_shape, *batch_shape, D)``.
        """

    def draw_about(self, means: Tensor, index: Tensor) -> Tensor:
        """Draws of the component that is chosen at each place: its mean and noise.

        Args:
            means: ``(..., K, D)``; the leading axes broadcast with the batch shape.
            index: Component numbers in ``[0, K)``, of shape ``(*sample_shape, *batch_shape)``.

        Returns:
            ``(*sample_shape, *batch_shape, D)``.
        """
        return add_components(self.draw(index), means, index)

    def _gather(self, tensor: Tensor, index: Tensor) -> Tensor:
        """Entries ``(*index.shape, ...)`` of a parameter for the component that is chosen at each place."""
        return gather_components(tensor, index, len(self.shape))

    def _noise(self, index: Tensor, size: int) -> Tensor:
        """Standard normal numbers ``(*index.shape, size)``."""
        return torch.randn(*index.shape, size, dtype=self.dtype, device=self.device)

    def __repr__(self) -> str:
        kind = "tied, " if self.tied else ""
        return f"{type(self).__name__}({kind}shape={tuple(self.shape)}, dim={self.dim}, dtype={self.dtype})"


@dataclass(frozen=True, eq=False)
class Conditional:
    r"""A conditional's covariance and gain, neither of which depends on the values conditioned on.

    The means are :math:`\mu_f + G (z_g - \mu_g)` with :math:`G` = ``decode @ encode``.

    Attributes:
        covariance: Covariance of the free dimensions.
        encode: ``(..., K, e, g)``, or ``None`` where the gain is zero.
        decode: ``(..., K, f, e)``, or ``None`` for the identity.
    """

    covariance: Covariance
    encode: Tensor | None = None
    decode: Tensor | None = None

    def means(self, values: Tensor, given_means: Tensor, free_means: Tensor) -> Tensor:
        """Means of the free dimensions.

        Args:
            values: ``(..., g)``.
            given_means: ``(..., K, g)``.
            free_means: ``(..., K, f)``.

        Returns:
            ``(..., K, f)``; a view of ``free_means`` where the gain is zero.
        """
        lead = broadcast_shapes(values.shape[:-1], given_means.shape[:-2])
        if self.encode is None:
            return free_means.expand(*lead, *free_means.shape[-2:])
        if given_means.ndim == 2 and self.encode.ndim == 3 and self.decode is None:
            return self._shared_means(values, given_means, free_means)
        shift = apply_matrices(self.encode, values.unsqueeze(-2) - given_means)
        if self.decode is not None:
            shift = apply_matrices(self.decode, shift)
        return free_means + shift

    def _shared_means(self, values: Tensor, given_means: Tensor, free_means: Tensor) -> Tensor:
        """The same of one mixture: one product of all values with all gains, about an origin that keeps the digits."""
        assert self.encode is not None
        origin = given_means.detach().mean(dim=0)
        gain = self.encode.expand(len(given_means), -1, -1)
        constant = free_means - (gain @ (given_means - origin).unsqueeze(-1)).squeeze(-1)
        rows = (values - origin).reshape(-1, values.shape[-1])
        means = torch.addmm(constant.flatten(), rows, gain.flatten(0, 1).T)
        return means.view(*values.shape[:-1], *free_means.shape)
