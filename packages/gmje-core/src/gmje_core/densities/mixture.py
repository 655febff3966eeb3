r"""Gaussian mixtures as a fast, batched distribution of PyTorch.

Marginals and conditionals of a mixture are mixtures again, in closed form, so inference is a method call.
"""

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from gmje_core.densities.covariance import Covariance, CovarianceType
from gmje_core.densities.parameters import (
    check_dimensions,
    check_parameter_shapes,
    check_parameter_values,
    check_value_shape,
    covariance_beside_means,
    log_of_weights,
    normalised_log_weights,
)
from gmje_core.errors import ConfigError
from gmje_core.exponentials import logsumexp
from gmje_core.linalg import LOG_2PI, broadcast_shapes, in_full_precision, promote, require_finite, slice_or_list

__all__ = ["GaussianMixture"]


class GaussianMixture(Distribution):
    r"""Mixture of ``K`` Gaussians, :math:`q(x) = \sum_k w_k\, N(x; \mu_k, \Sigma_k)`, as a torch distribution.

    Half-precision parameters and inputs are promoted to float32, and autocast is off inside. Everything is
    differentiable in parameters and inputs, save samples.

    Args:
        log_weights: ``(..., K)``, log-weights or any logits; normalised here. ``-inf`` removes a component; it is
            kept as a finite number, so that its gradients are finite.
        means: ``(..., K, D)``.
        covariance: Covariance whose leading shape broadcasts with ``(..., K)``; it is never expanded.
        validate_args: Check values here and in every call; by default as :class:`torch.distributions.Distribution`
            does. With ``False`` only shapes are checked, and no call but :meth:`sample` reads a value, so that a GPU
            is never waited for.

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
        check_parameter_shapes(log_weights, means, covariance)
        log_weights, means = promote(log_weights, means, torch.empty(0, dtype=covariance.dtype))[:2]
        covariance = covariance.to(means.dtype)
        batch_shape = broadcast_shapes(log_weights.shape[:-1], means.shape[:-2], covariance.shape[:-1])
        validate = Distribution._validate_args if validate_args is None else validate_args
        if validate:
            check_parameter_values(log_weights, means)
        log_weights = normalised_log_weights(log_weights)
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
            covariances: ``(..., K, D, D)``, which ``tied`` pools, or ``(..., D, D)`` with ``tied``. They are always
                checked, because the form is fitted to them.
            covariance_type: Form to reduce them to; see :func:`~gmje_core.densities.covariance.covariance_from_dense`.
            tied: One covariance for all components.
            rank: Number of columns of the factor of ``low_rank``, which needs it.
            validate_args: Check weights and means, as in the constructor.

        Raises:
            ShapeError, NonFiniteError, NotPositiveDefiniteError, ConfigError: the arguments define no mixture.

        Examples:
            >>> GaussianMixture.from_moments(torch.ones(2), torch.zeros(2, 3), torch.eye(3), "diag", tied=True)
            GaussianMixture(diag, tied, components=2, batch_shape=(), event_shape=(3,))
        """
        weights, means, covariances = promote(weights, means, covariances)
        return cls(
            log_of_weights(weights, validate=validate_args is not False),
            means,
            covariance_beside_means(weights, means, covariances, covariance_type, tied, rank),
            validate_args=validate_args,
        )

    @property
    def log_weights(self) -> Tensor:
        """Logarithms of the weights in nats, ``(*batch_shape, K)``, normalised."""
        return self._log_weights

    @property
    def weights(self) -> Tensor:
        """Weights of the components, ``(*batch_shape, K)``, which sum to one."""
        return self._log_weights.exp()

    @property
    def means(self) -> Tensor:
        """Means of the components, ``(*batch_shape, K, D)``."""
        return self._means

    @property
    def covariance(self) -> Covariance:
        """Covariances of the components; their leading shape broadcasts with ``(*batch_shape, K)``."""
        return self._covariance

    @property
    def components(self) -> int:
        """Number of components ``K``."""
        return self._means.shape[-2]

    @property
    def dim(self) -> int:
        """Number of dimensions ``D``."""
        return self._means.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters, float32 or float64."""
        return self._means.dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self._means.device

    @property
    @in_full_precision
    def mean(self) -> Tensor:
        """Mean of the mixture, ``(*batch_shape, D)``."""
        return (self.weights.unsqueeze(-2) @ self._means).squeeze(-2)

    @property
    @in_full_precision
    def variance(self) -> Tensor:
        """Diagonal of :attr:`covariance_matrix`, ``(*batch_shape, D)``; the matrix is not formed."""
        spread = (self._means - self.mean.unsqueeze(-2)).square()
        return (self.weights.unsqueeze(-2) @ (self._covariance.diagonal() + spread)).squeeze(-2)

    @property
    @in_full_precision
    def covariance_within(self) -> Tensor:
        r""":math:`\sum_k w_k \Sigma_k`, ``(*batch_shape, D, D)``: the spread inside a mode."""
        return self._covariance.weighted_sum(self.weights)

    @property
    @in_full_precision
    def covariance_between(self) -> Tensor:
        r""":math:`\sum_k w_k (\mu_k - \mu)(\mu_k - \mu)^\top`, ``(*batch_shape, D, D)``: ambiguity between modes."""
        spread = self._means - self.mean.unsqueeze(-2)
        return (self.weights.unsqueeze(-1) * spread).mT @ spread

    @property
    def covariance_matrix(self) -> Tensor:
        """Covariance of the mixture, ``(*batch_shape, D, D)``: within plus between, the law of total covariance."""
        return self.covariance_within + self.covariance_between

    @property
    def weight_entropy(self) -> Tensor:
        """Entropy of the weights in nats, ``(*batch_shape)``: 0 for one mode, ``log K`` for uniform."""
        return -(self.weights * self._log_weights).sum(dim=-1)

    def component_log_prob(self, value: Tensor) -> Tensor:
        r""":math:`\log w_k + \log N(x; \mu_k, \Sigma_k)` for every component.

        Args:
            value: ``(..., D)``, its leading axes broadcasting with ``batch_shape``.

        Returns:
            ``(..., K)``, nats.

        Raises:
            ShapeError: the last axis has another size, or the leading axes do not broadcast.
            NonFiniteError: NaN or infinity in the value.
        """
        self._check_value("value", value, self.dim)
        mixture, value = self._promote(value)
        return mixture._component_log_prob(value)

    @in_full_precision
    def _component_log_prob(self, value: Tensor) -> Tensor:
        """The same of a value that has been checked and is of the mixture's dtype."""
        distances = self._covariance.squared_mahalanobis(value, self._means)
        constant = self._log_weights - self._covariance.half_log_det() - 0.5 * self.dim * LOG_2PI
        # `distances` was allocated for this call, so it may be changed in place.
        return distances.mul_(-0.5).add_(constant)

    def log_prob(self, value: Tensor) -> Tensor:
        r""":math:`\log q(x)`, nats.

        Args:
            value: ``(..., D)``, its leading axes broadcasting with ``batch_shape``.

        Returns:
            ``(...)``.

        Raises:
            ShapeError, NonFiniteError: as in :meth:`component_log_prob`.

        Examples:
            >>> standard = GaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
            >>> standard.log_prob(torch.zeros(2))
            tensor(-1.8379)
        """
        return logsumexp(self.component_log_prob(value), dim=-1)

    def log_responsibilities(self, value: Tensor) -> Tensor:
        r""":math:`\log p(k \mid x)`, ``(..., K)``."""
        return self.component_log_prob(value).log_softmax(dim=-1)

    def responsibilities(self, value: Tensor) -> Tensor:
        r""":math:`p(k \mid x) = w_k N(x; \mu_k, \Sigma_k) / q(x)`, ``(..., K)``."""
        return self.component_log_prob(value).softmax(dim=-1)

    @torch.no_grad()
    @in_full_precision
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw a component first, and then from it.

        Args:
            sample_shape: Leading shape of the draws.

        Returns:
            ``(*sample_shape, *batch_shape, D)``; carries no gradient.
        """
        index = self._draw_index(torch.Size(sample_shape))
        return self._covariance.draw_about(self._means, index)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> "GaussianMixture":
        """The same mixture with a larger batch shape; views, no copies."""
        shape = torch.Size(batch_shape)
        return GaussianMixture._trusted(
            self._log_weights.expand(*shape, -1),
            self._means.expand(*shape, -1, -1),
            self._covariance,
            self._validate_args,
        )

    @in_full_precision
    def marginal(self, indices: Sequence[int]) -> "GaussianMixture":
        """Mixture of the chosen dimensions, in the order given.

        Args:
            indices: Distinct dimensions; negative ones count from the end.

        Raises:
            ConfigError: there are no indices, or one is repeated or out of range.

        Examples:
            >>> mixture = GaussianMixture.from_moments(torch.ones(1), torch.tensor([[1.0, 2.0]]), torch.eye(2)[None])
            >>> mixture.marginal([1]).mean
            tensor([2.])
        """
        chosen = check_dimensions(indices, self.dim)
        means = self._means[..., slice_or_list(chosen)]
        return GaussianMixture._trusted(
            self._log_weights, means, self._covariance.marginal(chosen), self._validate_args
        )

    def condition(self, indices: Sequence[int], values: Tensor) -> "GaussianMixture":
        r"""Mixture of the other dimensions, in increasing order, given the values of the dimensions ``indices``.

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
            ConfigError: there are no indices or all of them, or one is repeated or out of range.
            ShapeError, NonFiniteError: the values do not fit.

        Examples:
            >>> covariance = torch.tensor([[[1.0, 0.5], [0.5, 1.0]]])
            >>> mixture = GaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), covariance)
            >>> posterior = mixture.condition([0], torch.tensor([2.0]))
            >>> posterior.mean, posterior.variance
            (tensor([1.]), tensor([0.7500]))
        """
        given = check_dimensions(indices, self.dim)
        if len(given) == self.dim:
            raise ConfigError(f"at least one of the {self.dim} dimensions must stay free, but all are given")
        self._check_value("values", values, len(given))
        order = sorted(range(len(given)), key=given.__getitem__)
        mixture, values = self._promote(values[..., slice_or_list(order)])
        return mixture._condition([given[i] for i in order], values)

    @in_full_precision
    def _condition(self, given: list[int], values: Tensor) -> "GaussianMixture":
        """The same for increasing indices, and values that have been checked and are of the mixture's dtype."""
        free = sorted(set(range(self.dim)) - set(given))
        known = self.marginal(given)
        conditional = self._covariance.conditional(given, free)
        return GaussianMixture._trusted(
            known._component_log_prob(values).log_softmax(dim=-1),
            conditional.means(values, known.means, self._means[..., slice_or_list(free)]),
            conditional.covariance,
            self._validate_args,
        )

    def to(self, target: torch.device | torch.dtype | str) -> "GaussianMixture":
        """The mixture on another device or in another dtype (float32 at least)."""
        log_weights, means = self._log_weights.to(target), self._means.to(target)
        covariance = self._covariance.to(target)
        if means.dtype == self.dtype:  # Weights that are normalised again may change in their last digit.
            return GaussianMixture._trusted(log_weights, means, covariance, self._validate_args)
        return GaussianMixture(log_weights, means, covariance, self._validate_args)

    def detach(self) -> "GaussianMixture":
        """The mixture cut from any graph."""
        return GaussianMixture._trusted(
            self._log_weights.detach(), self._means.detach(), self._covariance.detach(), self._validate_args
        )

    @classmethod
    def _trusted(
        cls, log_weights: Tensor, means: Tensor, covariance: Covariance, validate_args: bool
    ) -> "GaussianMixture":
        """A mixture whose parameters are known to be normalised, of one dtype and expanded to one batch shape."""
        mixture = GaussianMixture.__new__(GaussianMixture)
        mixture._log_weights, mixture._means, mixture._covariance = log_weights, means, covariance
        Distribution.__init__(mixture, means.shape[:-2], means.shape[-1:], validate_args=False)
        mixture._validate_args = validate_args
        return mixture

    def _check_value(self, name: str, value: Tensor, size: int) -> None:
        check_value_shape(name, value, size, self.batch_shape)
        if self._validate_args:
            require_finite(name, value)

    def _promote(self, value: Tensor) -> tuple["GaussianMixture", Tensor]:
        """The mixture and a value in the wider one of their dtypes."""
        dtype = torch.promote_types(value.dtype, self.dtype)
        return (self if dtype == self.dtype else self.to(dtype)), value.to(dtype)

    def _draw_index(self, sample_shape: torch.Size) -> Tensor:
        """Component numbers ``(*sample_shape, *batch_shape)``, drawn by the weights."""
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
