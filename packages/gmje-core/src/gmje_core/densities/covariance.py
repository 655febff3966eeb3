r"""Covariances of ``K`` components in four forms with one face: full, low-rank plus diagonal, diagonal, spherical.

Each knows its log-determinant, its Mahalanobis distances, its marginals, its conditionals and how to draw noise,
in the cheapest way its structure allows; none of them caches anything, so none can go stale.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor

from gmje_core.densities.chunking import (
    apply_matrices,
    gather_components,
    gathered_product,
    has_graph,
    over_blocks,
    over_components,
    squared_norms,
)
from gmje_core.errors import ConfigError, NotPositiveDefiniteError, ShapeError, unknown_name
from gmje_core.linalg import (
    accumulation_dtype,
    broadcast_shapes,
    half_log_det,
    reorder_factor,
    require_finite,
    safe_cholesky,
    triangular_inverse,
)

__all__ = [
    "Conditional",
    "Covariance",
    "CovarianceType",
    "DiagonalCovariance",
    "FullCovariance",
    "LowRankCovariance",
    "SphericalCovariance",
    "covariance_from_dense",
]

CovarianceType = Literal["full", "low_rank", "diag", "spherical"]

# Rounds of the fixed point that fits a low-rank form to a dense covariance.
_FACTOR_ROUNDS = 100


class Covariance(ABC):
    r"""``K`` positive-definite matrices ``D x D`` in some parametrisation; immutable, without state.

    The leading shape is ``(..., K)``; a last leading axis of size 1 is a covariance *tied* over components, and
    leading axes broadcast against those of the means they are used with.
    """

    #: One of ``full``, ``low_rank``, ``diag``, ``spherical``.
    covariance_type: ClassVar[CovarianceType]
    #: Whether every matrix is diagonal, so that any two dimensions are independent within a component.
    axis_aligned: ClassVar[bool]

    #: Axes of the last parameter that are not leading ones.
    _event_axes: ClassVar[int] = 1

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
        """``D``."""
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
        r""":math:`\tfrac12 \log |\Sigma_k|`, ``(..., K)``."""

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
        """Same form with other :attr:`parameters`, which are not checked."""

    @abstractmethod
    def add_diagonal(self, variance: Tensor) -> "Covariance":
        """Covariance of the sum with independent noise of the given variances ``(D,)``."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Same form with a function applied to every parameter, leading axes included."""
        return self.rebuild(*[function(tensor) for tensor in self.parameters])

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        """Parameters on another device or in another dtype."""
        return self.map(lambda tensor: tensor.to(target))

    def detach(self) -> Self:
        """Parameters cut from any graph."""
        return self.map(Tensor.detach)

    @property
    def tied(self) -> bool:
        """Whether one matrix serves all components."""
        return self.shape[-1] == 1

    def squared_mahalanobis(self, x: Tensor, means: Tensor) -> Tensor:
        r""":math:`(x - \mu_k)^\top \Sigma_k^{-1} (x - \mu_k)` for every component.

        With means and covariances that are not batched it is a matrix product in chunks of components, after
        centring: no ``B x K x D`` tensor is stored, not even for the backward pass.

        Args:
            x: ``(..., D)``, broadcasting with the batch shape of ``means``.
            means: ``(..., K, D)``.

        Returns:
            ``(..., K)``.
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
        """Squared distances ``(B, K)`` of rows ``(B, D)`` to means ``(K, D)``, leading shape ``(K,)``."""

    @abstractmethod
    def _norms(self, difference: Tensor) -> Tensor:
        """Squared norms ``(..., k)`` of differences ``(..., k, D)`` that broadcast with the leading shape."""

    @abstractmethod
    def draw(self, components: Tensor) -> Tensor:
        """Centred noise of one component each.

        Args:
            components: ``(*sample_shape, *batch_shape)`` indices in ``[0, K)``.

        Returns:
            ``(*sample_shape, *batch_shape, D)``.
        """

    def _gather(self, tensor: Tensor, components: Tensor) -> Tensor:
        """Parameters ``(*components.shape, ...)`` of the component chosen for each place."""
        return gather_components(tensor, components, len(self.shape))

    def _noise(self, components: Tensor, size: int) -> Tensor:
        return torch.randn(*components.shape, size, dtype=self.dtype, device=self.device)

    def __repr__(self) -> str:
        kind = "tied, " if self.tied else ""
        return f"{type(self).__name__}({kind}shape={tuple(self.shape)}, dim={self.dim}, dtype={self.dtype})"


@dataclass(frozen=True, eq=False)
class Conditional:
    r"""A conditional's covariance and gain, which do not depend on the values conditioned on.

    The means are :math:`\mu_f + G (z_g - \mu_g)` with :math:`G` = ``decode @ encode``.

    Attributes:
        covariance: Of the free dimensions.
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
        shift = apply_matrices(self.encode, values.unsqueeze(-2) - given_means)
        if self.decode is not None:
            shift = apply_matrices(self.decode, shift)
        return free_means + shift


@dataclass(frozen=True, eq=False, repr=False)
class FullCovariance(Covariance):
    r"""Any positive-definite matrix, :math:`\Sigma_k = L_k L_k^\top`.

    Args:
        scale_tril: ``(..., K, D, D)`` lower-triangular factors with positive diagonals.
        validate: Check the values.

    Raises:
        ShapeError, NonFiniteError, NotPositiveDefiniteError: the factor is not one.

    Examples:
        >>> FullCovariance(torch.eye(3).expand(5, 3, 3))
        FullCovariance(shape=(5,), dim=3, dtype=torch.float32)
    """

    covariance_type: ClassVar[CovarianceType] = "full"
    axis_aligned: ClassVar[bool] = False
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
            _require_positive("diagonal of scale_tril", factor.diagonal(dim1=-2, dim2=-1))

    @classmethod
    def from_dense(cls, covariances: Tensor) -> Self:
        """Factor dense matrices ``(..., K, D, D)``; see :func:`gmje_core.linalg.safe_cholesky`."""
        return cls(safe_cholesky(covariances), validate=False)

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
        """Covariance of the sum with independent noise of the given variances ``(D,)``."""
        return FullCovariance(safe_cholesky(self.dense() + torch.diag(variance)), validate=False)

    def rebuild(self, *parameters: Tensor) -> Self:
        """Same form with other parameters, unchecked."""
        (scale_tril,) = parameters
        return type(self)(scale_tril, validate=False)

    def _distances(self, x: Tensor, means: Tensor) -> Tensor:
        inverse = triangular_inverse(self.scale_tril)
        if self.tied:
            precise = accumulation_dtype(x)
            rows, centres = _centre(x, means, precise)
            whitening = inverse[0].mT.to(precise)
            return _round(_squared_distances(rows @ whitening, centres @ whitening), x.dtype)
        x, means = _centre(x, means)
        offset = (inverse @ means.unsqueeze(-1)).squeeze(-1)

        def distances(x: Tensor, inverse: Tensor, offset: Tensor) -> Tensor:
            whitened = torch.addmm(-offset.flatten(), x, inverse.flatten(0, 1).T)
            return squared_norms(whitened.view(len(x), *offset.shape))

        return over_blocks(distances, x, (inverse, offset), self.dim)

    def _norms(self, difference: Tensor) -> Tensor:
        return apply_matrices(self.scale_tril, difference, solve=True).square().sum(dim=-1)

    def draw(self, components: Tensor) -> Tensor:
        """Centred noise of the component chosen at each place."""
        return gathered_product(self.scale_tril, components, self._noise(components, self.dim))


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
            _require_positive("diagonal_variance", self.diagonal_variance)

    @classmethod
    @torch.no_grad()
    def from_dense(cls, covariances: Tensor, rank: int) -> Self:
        r"""Fit the form to dense matrices by maximum-likelihood factor analysis; carries no gradient.

        A fixed number of rounds of Jöreskog's iteration: given :math:`v`, the factor is
        :math:`v^{1/2} U_r (\Theta_r - I)^{1/2}` from the eigenvectors of
        :math:`v^{-1/2} \Sigma v^{-1/2}`; given the factor, :math:`v = \mathrm{diag}(\Sigma - W W^\top)`.
        The variances are kept; matrices of the form are
        recovered to about 1e-3 nats of divergence (convergence is linear).

        Args:
            covariances: ``(..., K, D, D)``.
            rank: ``r``, between 1 and ``D``.
        """
        if not 1 <= rank <= covariances.shape[-1]:
            raise ConfigError(f"rank must lie between 1 and D = {covariances.shape[-1]}, got {rank!r}")
        safe_cholesky(covariances)  # the typed error on matrices that are no covariances
        dense = covariances.to(accumulation_dtype(covariances))
        total = dense.diagonal(dim1=-2, dim2=-1)
        floor = 1e-6 * total
        variance = 0.5 * total
        for _ in range(_FACTOR_ROUNDS):
            scale = variance.sqrt()
            values, vectors = torch.linalg.eigh(dense / (scale.unsqueeze(-1) * scale.unsqueeze(-2)))
            strength = (values[..., -rank:] - 1).clamp_min(0).sqrt()
            factor = scale.unsqueeze(-1) * vectors[..., -rank:] * strength.unsqueeze(-2)
            variance = (total - factor.square().sum(dim=-1)).maximum(floor)
        return cls(factor.to(covariances.dtype), variance.to(covariances.dtype), validate=False)

    @property
    def rank(self) -> int:
        """``r``."""
        return self.factor.shape[-1]

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
        chosen = _as_index(indices)
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
        """Covariance of the sum with independent noise of the given variances ``(D,)``."""
        return LowRankCovariance(self.factor, self.diagonal_variance + variance, validate=False)

    def rebuild(self, *parameters: Tensor) -> Self:
        """Same form with other parameters, unchecked."""
        factor, diagonal_variance = parameters
        return type(self)(factor, diagonal_variance, validate=False)

    def _precise(self) -> Self:
        # Woodbury's formula subtracts: in float32 it loses the digits of factor over diagonal.
        return self.to(accumulation_dtype(self.factor))

    def _capacitance_tril(self) -> Tensor:
        scaled = self.factor / self.diagonal_variance.unsqueeze(-1)
        eye = torch.eye(self.rank, dtype=self.dtype, device=self.device)
        return safe_cholesky(eye + self.factor.mT @ scaled, name="capacitance matrix I + W^T diag(v)^-1 W")

    def _latent_projection(self, capacitance_tril: Tensor) -> Tensor:
        """``(..., K, r, D)``: :math:`C^{-1} W^T v^{-1}` with :math:`C C^T = M`."""
        scaled = self.factor / self.diagonal_variance.unsqueeze(-1)
        projection: Tensor = torch.linalg.solve_triangular(capacitance_tril, scaled.mT, upper=False)
        return projection

    def _distances(self, x: Tensor, means: Tensor) -> Tensor:
        precise = self._precise()
        projection = precise._latent_projection(precise._capacitance_tril())
        rows, centres = _centre(x, means, precise.dtype)
        offset = (projection @ centres.unsqueeze(-1)).squeeze(-1)

        def explained(rows: Tensor, projection: Tensor, offset: Tensor) -> Tensor:
            latent = torch.addmm(-offset.flatten(), rows, projection.flatten(0, 1).T)
            return squared_norms(latent.view(len(rows), *offset.shape))

        total = _weighted_squared_distances(rows, centres, 1 / precise.diagonal_variance)
        if self.tied:
            known = _squared_distances(rows @ projection[0].mT, offset)
        else:
            known = over_blocks(explained, rows, (projection, offset), self.rank)
        return _round(total.sub_(known), x.dtype)

    def _norms(self, difference: Tensor) -> Tensor:
        precise = self._precise()
        wide = difference.to(precise.dtype)
        latent = apply_matrices(precise._latent_projection(precise._capacitance_tril()), wide)
        total = (wide.square() / precise.diagonal_variance).sum(dim=-1)
        return (total - latent.square().sum(dim=-1)).clamp_min(0).to(difference.dtype)

    def draw(self, components: Tensor) -> Tensor:
        """Centred noise of the component chosen at each place."""
        spread = gathered_product(self.factor, components, self._noise(components, self.rank))
        return spread + self._noise(components, self.dim) * self._gather(self.diagonal_variance, components).sqrt()


@dataclass(frozen=True, eq=False, repr=False)
class DiagonalCovariance(Covariance):
    r"""Independent dimensions, :math:`\Sigma_k = \mathrm{diag}(v_k)`.

    Args:
        variance: ``(..., K, D)``, positive; variances, not standard deviations.
        validate: Check the values.

    Raises:
        ShapeError, NonFiniteError, NotPositiveDefiniteError: not positive variances.

    Examples:
        >>> DiagonalCovariance(torch.full((1, 2), 4.0)).squared_mahalanobis(torch.tensor([2.0, 2.0]), torch.zeros(1, 2))
        tensor([2.])
    """

    covariance_type: ClassVar[CovarianceType] = "diag"
    axis_aligned: ClassVar[bool] = True

    variance: Tensor
    validate: InitVar[bool] = True

    def __post_init__(self, validate: bool) -> None:
        if self.variance.ndim < 2:
            raise ShapeError(f"variance must have shape (..., K, D), but has {tuple(self.variance.shape)}")
        if validate:
            require_finite("variance", self.variance)
            _require_positive("variance", self.variance)

    @classmethod
    def from_dense(cls, covariances: Tensor) -> Self:
        """Diagonals of dense matrices ``(..., K, D, D)``."""
        return cls(covariances.diagonal(dim1=-2, dim2=-1))

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
        return DiagonalCovariance(self.variance[..., _as_index(indices)], validate=False)

    def conditional(self, given: Sequence[int], free: Sequence[int]) -> Conditional:
        """Covariance and gain of the dimensions ``free`` given the others."""
        return Conditional(self.marginal(free))

    def add_diagonal(self, variance: Tensor) -> "DiagonalCovariance":
        """Covariance of the sum with independent noise of the given variances ``(D,)``."""
        return DiagonalCovariance(self.variance + variance, validate=False)

    def rebuild(self, *parameters: Tensor) -> Self:
        """Same form with other parameters, unchecked."""
        (variance,) = parameters
        return type(self)(variance, validate=False)

    def _distances(self, x: Tensor, means: Tensor) -> Tensor:
        precise = accumulation_dtype(x)
        rows, centres = _centre(x, means, precise)
        return _round(_weighted_squared_distances(rows, centres, 1 / self.variance.to(precise)), x.dtype)

    def _norms(self, difference: Tensor) -> Tensor:
        return (difference.square() / self.variance).sum(dim=-1)

    def draw(self, components: Tensor) -> Tensor:
        """Centred noise of the component chosen at each place."""
        return self._noise(components, self.dim) * self._gather(self.variance, components).sqrt()


@dataclass(frozen=True, eq=False, repr=False, init=False)
class SphericalCovariance(Covariance):
    r"""The same variance in every direction, :math:`\Sigma_k = v_k I`.

    Args:
        variance: ``(..., K)``, positive.
        dim: ``D``.
        validate: Check the values.

    Raises:
        ShapeError, NonFiniteError, NotPositiveDefiniteError: not positive variances.

    Examples:
        >>> SphericalCovariance(torch.tensor([4.0]), 3).diagonal()
        tensor([[4., 4., 4.]])
    """

    covariance_type: ClassVar[CovarianceType] = "spherical"
    axis_aligned: ClassVar[bool] = True
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
            _require_positive("variance", variance.unsqueeze(-1))
        object.__setattr__(self, "variance", variance)
        object.__setattr__(self, "_dim", dim)

    @classmethod
    def from_dense(cls, covariances: Tensor) -> Self:
        """Mean variances of dense matrices ``(..., K, D, D)``."""
        return cls(covariances.diagonal(dim1=-2, dim2=-1).mean(dim=-1), covariances.shape[-1])

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The variances."""
        return (self.variance,)

    @property
    def dim(self) -> int:
        """``D``."""
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
        """Covariance and gain of the dimensions ``free`` given the others."""
        return Conditional(self.marginal(free))

    def add_diagonal(self, variance: Tensor) -> Covariance:
        """Covariance of the sum with independent noise ``(D,)``; spherical still where the noise is."""
        if bool((variance == variance[0]).all()):
            return SphericalCovariance(self.variance + variance[0], self.dim, validate=False)
        return DiagonalCovariance(self.diagonal() + variance, validate=False)

    def rebuild(self, *parameters: Tensor) -> Self:
        """Same form with other parameters, unchecked."""
        (variance,) = parameters
        return type(self)(variance, self._dim, validate=False)

    def _distances(self, x: Tensor, means: Tensor) -> Tensor:
        rows, centres = _centre(x, means, accumulation_dtype(x))
        return _round(_squared_distances(rows, centres), x.dtype) / self.variance

    def _norms(self, difference: Tensor) -> Tensor:
        return difference.square().sum(dim=-1) / self.variance

    def draw(self, components: Tensor) -> Tensor:
        """Centred noise of the component chosen at each place."""
        return self._noise(components, self._dim) * self._gather(self.variance, components).sqrt().unsqueeze(-1)


def covariance_from_dense(
    covariances: Tensor,
    covariance_type: CovarianceType = "full",
    *,
    tied: bool = False,
    rank: int | None = None,
    weights: Tensor | None = None,
) -> Covariance:
    r"""Covariance of a named form, from dense matrices.

    ``diag`` and ``spherical`` keep the diagonals and their means; ``low_rank`` is fitted (see
    :meth:`LowRankCovariance.from_dense`).

    Args:
        covariances: ``(..., K, D, D)``.
        covariance_type: ``full``, ``low_rank``, ``diag`` or ``spherical``.
        tied: Pool the components into one matrix, :math:`\sum_k w_k \Sigma_k`.
        rank: Of ``low_rank``; required there.
        weights: ``(..., K)``, of the pooling; uniform where omitted.

    Returns:
        The covariance, its ``K`` axis of size 1 where tied.

    Raises:
        ConfigError: unknown type, or a rank that is missing or out of range.
        ShapeError, NonFiniteError, NotPositiveDefiniteError: matrices that are no covariances.

    Examples:
        >>> covariance_from_dense(torch.diag_embed(torch.tensor([[1.0, 3.0], [5.0, 7.0]])), "spherical").variance
        tensor([2., 6.])
        >>> covariance_from_dense(torch.eye(2).expand(5, 2, 2), "full", tied=True)
        FullCovariance(tied, shape=(1,), dim=2, dtype=torch.float32)
    """
    if covariance_type not in get_args(CovarianceType):
        raise ConfigError(unknown_name("covariance_type", covariance_type, get_args(CovarianceType)))
    if covariances.ndim < 3 or covariances.shape[-1] != covariances.shape[-2]:
        raise ShapeError(f"covariances must have shape (..., K, D, D), but have {tuple(covariances.shape)}")
    require_finite("covariances", covariances)
    if tied and covariances.shape[-3] > 1:
        share = torch.ones(covariances.shape[:-2]).to(covariances) if weights is None else weights
        share = share / share.sum(dim=-1, keepdim=True)
        covariances = (share[..., None, None] * covariances).sum(dim=-3, keepdim=True)
    if covariance_type == "low_rank":
        if rank is None:
            raise ConfigError("covariance_type 'low_rank' needs a rank, got None")
        return LowRankCovariance.from_dense(covariances, rank)
    forms: dict[str, type[FullCovariance | DiagonalCovariance | SphericalCovariance]] = {
        "full": FullCovariance,
        "diag": DiagonalCovariance,
        "spherical": SphericalCovariance,
    }
    return forms[covariance_type].from_dense(covariances)


def _as_index(indices: Sequence[int]) -> slice | list[int]:
    """A slice where the indices are one, so that marginals are views."""
    start, count = indices[0], len(indices)
    return slice(start, start + count) if list(indices) == list(range(start, start + count)) else list(indices)


def _require_positive(name: str, values: Tensor) -> None:
    """Check rows ``(..., K, D)`` for values that are not positive."""
    bad = (values.detach() <= 0).any(dim=-1)
    if bad.any():
        index = tuple(int(i) for i in bad.nonzero()[0])
        raise NotPositiveDefiniteError(
            f"{name} must be positive, but is {float(values.detach().min()):.3g} at the least; "
            f"first bad component: {index[0] if len(index) == 1 else index}"
        )


def _centre(x: Tensor, means: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    # Distances do not depend on the origin, so it carries no gradient; digits do.
    origin = means.detach().to(dtype or means.dtype).mean(dim=0)
    return x - origin, means - origin


def _squared_distances(x: Tensor, means: Tensor) -> Tensor:
    """Euclidean ``(B, K)`` of float64 rows, through one product; rounding may leave it below zero."""
    distances = torch.addmm(means.square().sum(dim=-1), x, means.T, alpha=-2)
    return distances.add_(x.square().sum(dim=-1, keepdim=True))


def _weighted_squared_distances(x: Tensor, means: Tensor, precision: Tensor) -> Tensor:
    """Of float64 rows, for precisions ``(K or 1, D)``, through two products; rounding may leave it below zero."""
    scaled = means * precision
    distances = torch.addmm((scaled * means).sum(dim=-1), x, scaled.T, alpha=-2)
    if len(precision) == 1:
        return distances.add_(x.square() @ precision.T)
    return distances.addmm_(x.square(), precision.T)


def _round(distances: Tensor, dtype: torch.dtype) -> Tensor:
    """Squared distances, not negative, in the dtype of the density."""
    return (distances.clamp_min(0) if has_graph(distances) else distances.clamp_min_(0)).to(dtype)
