r"""Gaussian mixtures: a fast, batched distribution, and the joint density of context and target built on it.

Marginals and conditionals of a mixture are mixtures again, in closed form, so inference is a method call.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Concatenate, ParamSpec, Self, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from gmje_core.densities.chunking import gather_components
from gmje_core.densities.covariance import Covariance, CovarianceType, covariance_from_dense
from gmje_core.errors import ConfigError, ShapeError
from gmje_core.linalg import LOG_2PI, broadcast_shapes, full_precision, promote, require_finite

__all__ = ["GaussianMixture"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_Method = Callable[Concatenate["GaussianMixture", _P], _R]


def _in_full_precision(method: _Method[_P, _R]) -> _Method[_P, _R]:
    """Run a method with autocast off on the mixture's device."""

    @functools.wraps(method)
    def wrapper(self: "GaussianMixture", *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with full_precision(self.device.type):
            return method(self, *args, **kwargs)

    return wrapper  # type: ignore[return-value]


class GaussianMixture(Distribution):
    r"""Mixture of ``K`` Gaussians, :math:`q(x) = \sum_k w_k\, N(x; \mu_k, \Sigma_k)`, as a torch distribution.

    Half-precision parameters and inputs are promoted to float32, and autocast is off inside. Everything is
    differentiable in parameters and inputs, save samples.

    Args:
        log_weights: ``(..., K)``, log-weights or any logits; normalised here. ``-inf`` removes a component; it is
            kept as a finite number, so that its gradients are finite.
        means: ``(..., K, D)``.
        covariance: Leading shape broadcasting with ``(..., K)``; it is never expanded.
        validate_args: Check values here and in every call; the default of
            :class:`torch.distributions.Distribution`.

    Raises:
        ShapeError: shapes that do not fit each other.
        NonFiniteError: NaN or infinity in the parameters.

    Examples:
        >>> mixture = GaussianMixture.from_moments(
        ...     weights=torch.tensor([0.25, 0.75]),
        ...     means=torch.tensor([[0.0, 0.0], [4.0, 0.0]]),
        ...     covariances=torch.eye(2).expand(2, 2, 2),
        ... )
        >>> mixture.mean
        tensor([3.0000, 0.0000])
        >>> mixture.responsibilities(torch.tensor([0.0, 0.0]))
        tensor([0.9990, 0.0010])
        >>> mixture.condition([1], torch.zeros(5, 1)).batch_shape
        torch.Size([5])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "log_weights": constraints.real_vector,
        "means": constraints.independent(constraints.real, 2),
    }
    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self, log_weights: Tensor, means: Tensor, covariance: Covariance, validate_args: bool | None = None
    ) -> None:
        _check_parameter_shapes(log_weights, means, covariance)
        log_weights, means = promote(log_weights, means, torch.empty(0, dtype=covariance.dtype))[:2]
        covariance = covariance.to(means.dtype)
        batch_shape = broadcast_shapes(log_weights.shape[:-1], means.shape[:-2], covariance.shape[:-1])
        # A finite floor: log_softmax over -inf has NaN gradients. A quarter leaves room for sums.
        floor = torch.finfo(means.dtype).min / 4
        validate = Distribution._validate_args if validate_args is None else validate_args
        if validate:
            if (log_weights.detach() == -math.inf).all(dim=-1).any():
                raise ConfigError("log_weights must leave at least one component, but all of a row are -inf")
            require_finite("log_weights", log_weights.clamp_min(floor))
            require_finite("means", means)
        with full_precision(means.device.type):
            log_weights = log_weights.clamp_min(floor).log_softmax(dim=-1).clamp_min(floor)
        self._log_weights = log_weights.expand(*batch_shape, -1)
        self._means = means.expand(*batch_shape, -1, -1)
        self._covariance = covariance
        super().__init__(batch_shape, means.shape[-1:], validate_args=False)
        self._validate_args = validate

    @classmethod
    def from_moments(
        cls,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
        covariance_type: CovarianceType = "full",
        tied: bool = False,
        rank: int | None = None,
        validate_args: bool | None = None,
    ) -> Self:
        """Mixture with these weights, means and dense covariances.

        Args:
            weights: ``(..., K)``, not negative, normalised here.
            means: ``(..., K, D)``.
            covariances: ``(..., K, D, D)``; with ``tied`` also ``(..., D, D)``, else they are pooled.
            covariance_type: Form to reduce them to; see :func:`~gmje_core.densities.covariance.covariance_from_dense`.
            tied: One covariance for all components.
            rank: Of ``low_rank``.
            validate_args: As of the constructor.

        Raises:
            ShapeError, NonFiniteError, NotPositiveDefiniteError, ConfigError: arguments that are no mixture.

        Examples:
            >>> GaussianMixture.from_moments(torch.ones(2), torch.zeros(2, 3), torch.eye(3), "diag", tied=True)
            GaussianMixture(diag, tied, components=2, batch_shape=(), event_shape=(3,))
        """
        weights, means, covariances = promote(weights, means, covariances)
        return cls(
            _log_of_weights(weights),
            means,
            _dense_covariance(weights, means, covariances, covariance_type, tied, rank),
            validate_args=validate_args,
        )

    @property
    def log_weights(self) -> Tensor:
        """``(*batch_shape, K)``, normalised."""
        return self._log_weights

    @property
    def weights(self) -> Tensor:
        """``(*batch_shape, K)``, summing to one."""
        return self._log_weights.exp()

    @property
    def means(self) -> Tensor:
        """``(*batch_shape, K, D)``, of the components."""
        return self._means

    @property
    def covariance(self) -> Covariance:
        """Covariances of the components; their leading shape broadcasts with ``(*batch_shape, K)``."""
        return self._covariance

    @property
    def components(self) -> int:
        """``K``."""
        return self._means.shape[-2]

    @property
    def dim(self) -> int:
        """``D``."""
        return self._means.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        return self._means.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self._means.device

    @property
    @_in_full_precision
    def mean(self) -> Tensor:
        """``(*batch_shape, D)``."""
        return (self.weights.unsqueeze(-2) @ self._means).squeeze(-2)

    @property
    @_in_full_precision
    def variance(self) -> Tensor:
        """``(*batch_shape, D)``: the diagonal of :attr:`covariance_matrix`, without forming it."""
        spread = (self._means - self.mean.unsqueeze(-2)).square()
        return (self.weights.unsqueeze(-2) @ (self._covariance.diagonal() + spread)).squeeze(-2)

    @property
    @_in_full_precision
    def covariance_within(self) -> Tensor:
        r""":math:`\sum_k w_k \Sigma_k`, ``(*batch_shape, D, D)``: the spread inside a mode."""
        dense = self._covariance.dense()
        if dense.shape[-3] == 1:
            return dense.squeeze(-3).expand(*self.batch_shape, -1, -1).clone()
        if dense.ndim == 3:  # shared by the whole batch: one product, no copy per member
            return (self.weights @ dense.flatten(1)).view(*self.batch_shape, self.dim, self.dim)
        return (self.weights.unsqueeze(-2) @ dense.flatten(-2)).view(*self.batch_shape, self.dim, self.dim)

    @property
    @_in_full_precision
    def covariance_between(self) -> Tensor:
        r""":math:`\sum_k w_k (\mu_k - \mu)(\mu_k - \mu)^\top`, ``(*batch_shape, D, D)``: ambiguity between modes."""
        spread = self._means - self.mean.unsqueeze(-2)
        return (self.weights.unsqueeze(-1) * spread).mT @ spread

    @property
    def covariance_matrix(self) -> Tensor:
        """``(*batch_shape, D, D)``, by the law of total covariance: within plus between."""
        return self.covariance_within + self.covariance_between

    @property
    def weight_entropy(self) -> Tensor:
        """Entropy of the weights in nats, ``(*batch_shape)``: 0 for one mode, ``log K`` for uniform."""
        return -(self.weights * self._log_weights).sum(dim=-1)

    @_in_full_precision
    def component_log_prob(self, value: Tensor) -> Tensor:
        r""":math:`\log w_k + \log N(x; \mu_k, \Sigma_k)` for every component.

        Args:
            value: ``(..., D)``, its leading axes broadcasting with ``batch_shape``.

        Returns:
            ``(..., K)``, nats.

        Raises:
            ShapeError: of another size, or leading axes that do not broadcast.
            NonFiniteError: NaN or infinity in the value.
        """
        self, value = self._prepare("value", value, self.dim)
        squared = self._covariance.squared_mahalanobis(value, self._means)
        constant = self._log_weights - self._covariance.half_log_det() - 0.5 * self.dim * LOG_2PI
        return squared.mul_(-0.5).add_(constant)  # in place: the distances are nobody else's

    def log_prob(self, value: Tensor) -> Tensor:
        r""":math:`\log q(x)`, nats.

        Args:
            value: ``(..., D)``, its leading axes broadcasting with ``batch_shape``.

        Returns:
            ``(...)``.

        Raises:
            ShapeError, NonFiniteError: as :meth:`component_log_prob`.

        Examples:
            >>> standard = GaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
            >>> standard.log_prob(torch.zeros(2))
            tensor(-1.8379)
        """
        return self.component_log_prob(value).logsumexp(dim=-1)

    def log_responsibilities(self, value: Tensor) -> Tensor:
        r""":math:`\log p(k \mid x)`, ``(..., K)``."""
        return self.component_log_prob(value).log_softmax(dim=-1)

    def responsibilities(self, value: Tensor) -> Tensor:
        r""":math:`p(k \mid x) = w_k N(x; \mu_k, \Sigma_k) / q(x)`, ``(..., K)``."""
        return self.component_log_prob(value).softmax(dim=-1)

    @torch.no_grad()
    @_in_full_precision
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw the component first, then its noise.

        Args:
            sample_shape: Leading shape of the draws.

        Returns:
            ``(*sample_shape, *batch_shape, D)``; carries no gradient.
        """
        components = self._draw_components(torch.Size(sample_shape))
        lead = self._means.ndim - 1
        return gather_components(self._means, components, lead) + self._covariance.draw(components)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "GaussianMixture":
        """The same mixture with a larger batch shape; views, no copies."""
        shape = torch.Size(batch_shape)
        return GaussianMixture._trusted(
            self._log_weights.expand(*shape, -1),
            self._means.expand(*shape, -1, -1),
            self._covariance,
            self._validate_args,
        )

    @_in_full_precision
    def marginal(self, indices: Sequence[int]) -> "GaussianMixture":
        """Mixture of the chosen dimensions, in the order given.

        Args:
            indices: Distinct dimensions; negative ones count from the end.

        Raises:
            ConfigError: none, repeated or out of range.

        Examples:
            >>> mixture = GaussianMixture.from_moments(torch.ones(1), torch.tensor([[1.0, 2.0]]), torch.eye(2)[None])
            >>> mixture.marginal([1]).mean
            tensor([2.])
        """
        chosen = _check_indices(indices, self.dim)
        return GaussianMixture._trusted(
            self._log_weights, _take(self._means, chosen), self._covariance.marginal(chosen), self._validate_args
        )

    @_in_full_precision
    def condition(self, indices: Sequence[int], values: Tensor) -> "GaussianMixture":
        r"""Mixture of the other dimensions, in increasing order, given the values of these.

        .. math::
            q(x_f \mid x_g) = \sum_k p(k \mid x_g)\, N\big(x_f;\, \mu_k^f + G_k (x_g - \mu_k^g),\, \Sigma_k^{f|g}\big)

        Gains and conditional covariances are computed once for all values, from reordered factors, so that
        nothing is subtracted; the covariances are shared by the batch of the result.

        Args:
            indices: Distinct dimensions, in any order; negative ones count from the end.
            values: ``(..., len(indices))`` in the order of ``indices``, broadcasting with ``batch_shape``.

        Returns:
            Mixture whose batch shape is that of the values.

        Raises:
            ConfigError: indices that are none, all, repeated or out of range.
            ShapeError, NonFiniteError: values that do not fit.

        Examples:
            >>> covariance = torch.tensor([[[1.0, 0.5], [0.5, 1.0]]])
            >>> mixture = GaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), covariance)
            >>> posterior = mixture.condition([0], torch.tensor([2.0]))
            >>> posterior.mean, posterior.variance
            (tensor([1.]), tensor([0.7500]))
        """
        given = _check_indices(indices, self.dim)
        if len(given) == self.dim:
            raise ConfigError(f"at least one of the {self.dim} dimensions must stay free, but all are given")
        self, values = self._prepare("values", values, len(given))
        order = sorted(range(len(given)), key=given.__getitem__)
        given, values = [given[i] for i in order], _take(values, order)
        free = sorted(set(range(self.dim)) - set(given))
        known = self.marginal(given)
        conditional = self._covariance.conditional(given, free)
        return GaussianMixture._trusted(
            known.component_log_prob(values).log_softmax(dim=-1),
            conditional.means(values, known.means, _take(self._means, free)),
            conditional.covariance,
            self._validate_args,
        )

    def to(self, target: torch.device | torch.dtype | str) -> "GaussianMixture":
        """The mixture on another device or in another dtype (float32 at least)."""
        return GaussianMixture(
            self._log_weights.to(target), self._means.to(target), self._covariance.to(target), self._validate_args
        )

    def detach(self) -> "GaussianMixture":
        """The mixture cut from any graph."""
        return GaussianMixture._trusted(
            self._log_weights.detach(), self._means.detach(), self._covariance.detach(), self._validate_args
        )

    @classmethod
    def _trusted(
        cls, log_weights: Tensor, means: Tensor, covariance: Covariance, validate_args: bool
    ) -> "GaussianMixture":
        """A mixture of parameters that are known to be right: normalised, of one dtype, expanded."""
        mixture = GaussianMixture.__new__(GaussianMixture)
        mixture._log_weights, mixture._means, mixture._covariance = log_weights, means, covariance
        Distribution.__init__(mixture, means.shape[:-2], means.shape[-1:], validate_args=False)
        mixture._validate_args = validate_args
        return mixture

    def _prepare(self, name: str, value: Tensor, size: int) -> tuple["GaussianMixture", Tensor]:
        """Check a value and bring it and the mixture to one dtype."""
        if value.ndim < 1 or value.shape[-1] != size:
            raise ShapeError(
                f"{name} must have shape (..., {size}), but has {tuple(value.shape)} "
                f"(event_shape {tuple(self.event_shape)})"
            )
        try:
            broadcast_shapes(value.shape[:-1], self.batch_shape)
        except ShapeError as error:
            raise ShapeError(
                f"{name} of shape {tuple(value.shape)} must broadcast with batch_shape {tuple(self.batch_shape)} "
                f"followed by {size}"
            ) from error
        dtype = torch.promote_types(value.dtype, self.dtype)
        value = value.to(dtype)
        if self._validate_args:
            require_finite(name, value)
        return (self if dtype == self.dtype else self.to(dtype)), value

    def _draw_components(self, sample_shape: torch.Size) -> Tensor:
        shape = sample_shape + self.batch_shape
        if shape.numel() == 0:
            return torch.zeros(shape, dtype=torch.long, device=self.device)
        weights = self.weights.reshape(-1, self.components)
        return torch.multinomial(weights, sample_shape.numel(), replacement=True).T.reshape(shape)

    def __repr__(self) -> str:
        tied = ", tied" if self._covariance.tied else ""
        return (
            f"{type(self).__name__}({self._covariance.covariance_type}{tied}, components={self.components}, "
            f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"
        )


def _log_of_weights(weights: Tensor) -> Tensor:
    """Logarithm with finite gradients at zero weight, where it is -inf."""
    require_finite("weights", weights)
    if (weights.detach() < 0).any():
        raise ConfigError(f"weights must not be negative, but the least is {float(weights.detach().min())!r}")
    positive = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
    return torch.where(weights > 0, positive, torch.full_like(positive, -math.inf))


def _dense_covariance(
    weights: Tensor,
    means: Tensor,
    covariances: Tensor,
    covariance_type: CovarianceType,
    tied: bool,
    rank: int | None,
) -> Covariance:
    if tied and covariances.ndim == means.ndim:
        covariances = covariances.unsqueeze(-3)
    if covariances.ndim != means.ndim + 1:
        raise ShapeError(
            f"covariances must have shape (..., K, D, D), but have {tuple(covariances.shape)} beside means of shape "
            f"{tuple(means.shape)}"
        )
    return covariance_from_dense(covariances, covariance_type, tied=tied, rank=rank, weights=weights)


def _check_parameter_shapes(log_weights: Tensor, means: Tensor, covariance: Covariance) -> None:
    shapes = (
        f"log_weights {tuple(log_weights.shape)}, means {tuple(means.shape)} and covariance of leading shape "
        f"{tuple(covariance.shape)} and dim {covariance.dim}"
    )
    if log_weights.ndim < 1 or means.ndim < 2:
        raise ShapeError(f"log_weights must have shape (..., K) and means (..., K, D), but got {shapes}")
    components, dim = means.shape[-2:]
    if log_weights.shape[-1] != components or covariance.shape[-1] not in (1, components) or covariance.dim != dim:
        raise ShapeError(f"components and dimensions must agree, but got {shapes}")
    try:
        broadcast_shapes(log_weights.shape[:-1], means.shape[:-2], covariance.shape[:-1])
    except ShapeError as error:
        raise ShapeError(f"batch shapes must broadcast, but got {shapes}") from error


def _check_indices(indices: Sequence[int], dim: int) -> list[int]:
    """Non-negative indices, distinct and in range."""
    chosen = [int(i) for i in indices]
    if not chosen or any(not -dim <= i < dim for i in chosen):
        raise ConfigError(f"indices must name at least one of the dimensions 0 to {dim - 1}, got {chosen}")
    chosen = [i % dim for i in chosen]
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"indices must be distinct, got {chosen}")
    return chosen


def _take(tensor: Tensor, indices: Sequence[int]) -> Tensor:
    """Entries of the last axis; a view where the indices are a range."""
    start, count = indices[0], len(indices)
    if list(indices) == list(range(start, start + count)):
        return tensor[..., start : start + count]
    return tensor[..., list(indices)]
