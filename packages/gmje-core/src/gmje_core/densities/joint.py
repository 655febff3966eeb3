r"""Joint densities of a context and a target embedding: what they share, and the two kinds there are."""

from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from gmje_core.densities.covariance import Covariance, CovarianceType, FullCovariance
from gmje_core.densities.mixture import GaussianMixture, _log_of_weights
from gmje_core.errors import ConfigError, ShapeError
from gmje_core.linalg import promote, require_finite

__all__ = ["ConditionalJointMixture", "JointDensity", "JointGaussianMixture"]


class JointDensity(Protocol):
    """What every criterion's density can be asked."""

    @property
    def context_dim(self) -> int:
        """``d_c``."""

    @property
    def target_dim(self) -> int:
        """``d_t``."""

    @property
    def components(self) -> int:
        """Components of the conditional."""

    @property
    def context(self) -> GaussianMixture:
        """Marginal of the context."""

    def log_prob(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        """``(B,)`` joint log-density, nats."""

    def condition(self, z_context: Tensor | None = None, *, z_target: Tensor | None = None) -> GaussianMixture:
        """Mixture of one view given the other."""

    def sample(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Draw pairs."""


class JointGaussianMixture:
    r"""Joint density of a context and a target embedding, :math:`q(z_c, z_t)`, a mixture of ``K`` Gaussians.

    The method's central object (arXiv 2603.26799): conditionals both ways, marginals and the dependence of the
    views are closed-form. It holds one :class:`GaussianMixture` over ``[z_c ; z_t]``, as :attr:`joint`.

    Args:
        log_weights: ``(..., K)`` log-weights or logits.
        means: ``(..., K, D)`` with ``D = d_c + d_t``, context first.
        covariance: Leading shape broadcasting with ``(..., K)``.
        context_dim: ``d_c``, between 1 and ``D - 1``.
        validate_args: As of :class:`GaussianMixture`.

    Raises:
        ConfigError: ``context_dim`` out of range.
        ShapeError, NonFiniteError: as :class:`GaussianMixture`.

    Examples:
        >>> joint = JointGaussianMixture.from_moments(
        ...     weights=torch.tensor([0.5, 0.5]),
        ...     means=torch.tensor([[0.0, -1.0], [0.0, 1.0]]),      # two targets for the same context
        ...     covariances=0.01 * torch.eye(2).expand(2, 2, 2),
        ...     context_dim=1,
        ... )
        >>> posterior = joint.condition(torch.zeros(3, 1))
        >>> posterior.batch_shape, posterior.means[0].flatten().tolist()
        (torch.Size([3]), [-1.0, 1.0])
        >>> z_context, z_target = joint.sample((4,))
        >>> joint.log_prob(z_context, z_target).shape
        torch.Size([4])
    """

    def __init__(
        self,
        log_weights: Tensor,
        means: Tensor,
        covariance: Covariance,
        context_dim: int,
        validate_args: bool | None = None,
    ) -> None:
        self._joint = GaussianMixture(log_weights, means, covariance, validate_args)
        self._context_dim = _check_context_dim(context_dim, self._joint.dim)

    @classmethod
    def from_mixture(cls, joint: GaussianMixture, context_dim: int) -> Self:
        """The joint density that a mixture over ``[z_c ; z_t]`` is."""
        density = cls.__new__(cls)
        density._joint = joint
        density._context_dim = _check_context_dim(context_dim, joint.dim)
        return density

    @classmethod
    def from_moments(
        cls,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
        context_dim: int,
        covariance_type: CovarianceType = "full",
        tied: bool = False,
        rank: int | None = None,
        validate_args: bool | None = None,
    ) -> Self:
        """Density with these weights ``(K,)``, means ``(K, D)`` and dense covariances ``(K, D, D)``.

        Arguments and errors are those of :meth:`GaussianMixture.from_moments`, and ``context_dim``.
        """
        joint = GaussianMixture.from_moments(weights, means, covariances, covariance_type, tied, rank, validate_args)
        return cls.from_mixture(joint, context_dim)

    @classmethod
    def from_scale_tril(
        cls,
        weights: Tensor,
        means: Tensor,
        scale_tril: Tensor,
        context_dim: int,
        validate_args: bool | None = None,
    ) -> Self:
        r"""Density with context-first factors :math:`L_k = [[L_{cc}, 0], [L_{tc}, L_{tt}]]`.

        Args:
            weights: ``(..., K)``, not negative.
            means: ``(..., K, D)``.
            scale_tril: ``(..., K, D, D)``, or a ``K`` axis of size 1 for a tied covariance.
            context_dim: ``d_c``.
            validate_args: As of the constructor.
        """
        weights, means, scale_tril = promote(weights, means, scale_tril)
        return cls(_log_of_weights(weights), means, FullCovariance(scale_tril), context_dim, validate_args)

    @property
    def joint(self) -> GaussianMixture:
        """The mixture over ``[z_c ; z_t]``."""
        return self._joint

    @property
    def context_dim(self) -> int:
        """``d_c``."""
        return self._context_dim

    @property
    def target_dim(self) -> int:
        """``d_t``."""
        return self._joint.dim - self._context_dim

    @property
    def batch_shape(self) -> torch.Size:
        """Empty, unless the parameters are batched."""
        return self._joint.batch_shape

    @property
    def components(self) -> int:
        """``K``."""
        return self._joint.components

    @property
    def log_weights(self) -> Tensor:
        """``(K,)``, normalised."""
        return self._joint.log_weights

    @property
    def weights(self) -> Tensor:
        """``(K,)``, summing to one."""
        return self._joint.weights

    @property
    def means(self) -> Tensor:
        """``(K, D)``, context first."""
        return self._joint.means

    @property
    def covariance(self) -> Covariance:
        """Covariances of the components, context first."""
        return self._joint.covariance

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        return self._joint.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self._joint.device

    @property
    def context(self) -> GaussianMixture:
        """Marginal of the context."""
        return self._joint.marginal(range(self._context_dim))

    @property
    def target(self) -> GaussianMixture:
        """Marginal of the target."""
        return self._joint.marginal(range(self._context_dim, self._joint.dim))

    def log_prob(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        r""":math:`\log q(z_c, z_t)`, nats.

        Args:
            z_context: ``(B, d_c)``.
            z_target: ``(B, d_t)``.

        Returns:
            ``(B,)``.

        Raises:
            ShapeError, NonFiniteError: views that do not fit the density or each other.
        """
        return self.component_log_prob(z_context, z_target).logsumexp(dim=-1)

    def component_log_prob(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        r""":math:`\log w_k + \log N(z_c, z_t; \mu_k, \Sigma_k)`, ``(B, K)``."""
        return self._joint.component_log_prob(self._stack(z_context, z_target))

    def log_responsibilities(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        r""":math:`\log p(k \mid z_c, z_t)`, ``(B, K)``."""
        return self.component_log_prob(z_context, z_target).log_softmax(dim=-1)

    def condition(self, z_context: Tensor | None = None, *, z_target: Tensor | None = None) -> GaussianMixture:
        """Mixture of one view given the other; see :meth:`GaussianMixture.condition`.

        Args:
            z_context: ``(B, d_c)``, for the mixture of the target; or
            z_target: ``(B, d_t)``, for the mixture of the context.

        Returns:
            Mixture of batch shape ``(B,)`` whose covariances are shared by the batch.

        Raises:
            ConfigError: both views given, or none.
            ShapeError, NonFiniteError: a view that does not fit.
        """
        if z_context is not None and z_target is None:
            return self._joint.condition(range(self._context_dim), self._check("z_context", z_context))
        if z_target is not None and z_context is None:
            given = range(self._context_dim, self._joint.dim)
            return self._joint.condition(given, self._check("z_target", z_target))
        count = "both" if z_context is not None else "none"
        raise ConfigError(f"condition takes one view, z_context or z_target=..., got {count}")

    def pmi(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        r"""Pointwise mutual information :math:`\log q(z_c, z_t) - \log q(z_c) - \log q(z_t)`, nats.

        Args:
            z_context: ``(B, d_c)``.
            z_target: ``(B, d_t)``.

        Returns:
            ``(B,)``.

        Raises:
            ShapeError, NonFiniteError: views that do not fit the density or each other.
        """
        context, target, joint = self.view_log_probs(z_context, z_target)
        return joint.logsumexp(dim=-1) - context.logsumexp(dim=-1) - target.logsumexp(dim=-1)

    def component_pmi(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        r"""PMI inside each component, :math:`\log N_k(z_c, z_t) - \log N_k(z_c) - \log N_k(z_t)`, ``(B, K)``.

        Exactly zero where the covariance has no cross block by its form (``diag``, ``spherical``).
        """
        context, target, joint = self.view_log_probs(z_context, z_target)
        return joint - context - target + self.log_weights

    def view_log_probs(self, z_context: Tensor, z_target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Component log-probabilities of the context, of the target and of the pair, each with :math:`\log w_k`.

        Args:
            z_context: ``(B, d_c)``.
            z_target: ``(B, d_t)``.

        Returns:
            Three tensors ``(B, K)``, nats.
        """
        pair = self._stack(z_context, z_target)
        context = self.context.component_log_prob(pair[..., : self._context_dim])
        target = self.target.component_log_prob(pair[..., self._context_dim :])
        if self.covariance.axis_aligned:
            return context, target, context + target - self.log_weights
        return context, target, self._joint.component_log_prob(pair)

    def sample(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Draw pairs.

        Args:
            sample_shape: Leading shape of the draws.

        Returns:
            ``(*sample_shape, d_c)`` and ``(*sample_shape, d_t)``; they carry no gradient.
        """
        pair = self._joint.sample(sample_shape)
        return pair[..., : self._context_dim], pair[..., self._context_dim :]

    def to(self, target: torch.device | torch.dtype | str) -> "JointGaussianMixture":
        """The density on another device or in another dtype (float32 at least)."""
        return JointGaussianMixture.from_mixture(self._joint.to(target), self._context_dim)

    def detach(self) -> "JointGaussianMixture":
        """The density cut from any graph."""
        return JointGaussianMixture.from_mixture(self._joint.detach(), self._context_dim)

    def _stack(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        """Pairs ``(..., D)`` of the views, checked one by one so that errors name them."""
        z_context, z_target = self._check("z_context", z_context), self._check("z_target", z_target)
        if z_context.shape[:-1] != z_target.shape[:-1]:
            raise ShapeError(
                "z_context and z_target must hold the same rows, but have shapes "
                f"{tuple(z_context.shape)} and {tuple(z_target.shape)}"
            )
        return torch.cat(promote(z_context, z_target), dim=-1)

    def _check(self, name: str, z: Tensor) -> Tensor:
        size = self._context_dim if name == "z_context" else self.target_dim
        if z.ndim < 1 or z.shape[-1] != size:
            raise ShapeError(f"{name} must have shape (..., {size}), but has {tuple(z.shape)}")
        if self._joint._validate_args:
            require_finite(name, z)
        return z

    def __repr__(self) -> str:
        tied = ", tied" if self.covariance.tied else ""
        return (
            f"{type(self).__name__}({self.covariance.covariance_type}{tied}, components={self.components}, "
            f"context_dim={self.context_dim}, target_dim={self.target_dim})"
        )


class ConditionalNetwork(Protocol):
    """A network that maps contexts ``(B, d_c)`` to a mixture of the target, of batch shape ``(B,)``."""

    covariance_type: CovarianceType
    components: int
    context_dim: int
    target_dim: int

    def __call__(self, z_context: Tensor) -> GaussianMixture:
        """The mixture of the target for each context."""


class ConditionalJointMixture:
    r"""Joint density :math:`q(z_c, z_t) = q(z_c)\, q(z_t \mid z_c)` of a marginal mixture and a conditional network.

    The conditional of the target is closed-form; the reverse one is not, because the network knows one way only.

    Args:
        context: Marginal of the context, of batch shape ``()``.
        network: Of the target given the context; it is used as it is, without gradient.

    Examples:
        >>> from gmje_core.estimation.network import MixtureDensityNetwork
        >>> context = GaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> joint = ConditionalJointMixture(context, MixtureDensityNetwork(2, 3))
        >>> z_context, z_target = joint.sample((7,))
        >>> torch.allclose(joint.log_prob(z_context, z_target),
        ...                context.log_prob(z_context) + joint.condition(z_context).log_prob(z_target))
        True
    """

    def __init__(self, context: GaussianMixture, network: ConditionalNetwork) -> None:
        if context.dim != network.context_dim:
            raise ShapeError(
                f"context must have event_shape ({network.context_dim},), but has {tuple(context.event_shape)}"
            )
        self._context, self._network = context, network

    @property
    def context(self) -> GaussianMixture:
        """Marginal of the context."""
        return self._context

    @property
    def context_dim(self) -> int:
        """``d_c``."""
        return self._network.context_dim

    @property
    def target_dim(self) -> int:
        """``d_t``."""
        return self._network.target_dim

    @property
    def components(self) -> int:
        """``K`` of the conditional."""
        return self._network.components

    @torch.no_grad()
    def log_prob(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        r""":math:`\log q(z_c) + \log q(z_t \mid z_c)`, nats.

        Args:
            z_context: ``(B, d_c)``.
            z_target: ``(B, d_t)``.

        Returns:
            ``(B,)``.

        Raises:
            ShapeError, NonFiniteError: views that do not fit the density or each other.
        """
        if z_context.shape[:-1] != z_target.shape[:-1]:
            raise ShapeError(
                "z_context and z_target must hold the same rows, but have shapes "
                f"{tuple(z_context.shape)} and {tuple(z_target.shape)}"
            )
        return self._context.log_prob(z_context) + self.condition(z_context).log_prob(z_target)

    @torch.no_grad()
    def condition(self, z_context: Tensor | None = None, *, z_target: Tensor | None = None) -> GaussianMixture:
        """Mixture of the target given the context.

        Args:
            z_context: ``(B, d_c)``.
            z_target: Must be left out.

        Returns:
            Mixture of batch shape ``(B,)``.

        Raises:
            ConfigError: the reverse conditional is asked for.
            ShapeError, NonFiniteError: a context that does not fit.
        """
        if z_context is None or z_target is not None:
            raise ConfigError(
                "a conditional network gives the target from the context only: pass z_context alone, or train "
                "another with the views exchanged, or use a joint mixture (GMJE), which conditions both ways"
            )
        mixture: GaussianMixture = self._network(z_context)
        return mixture

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Draw pairs.

        Args:
            sample_shape: Leading shape of the draws.

        Returns:
            ``(*sample_shape, d_c)`` and ``(*sample_shape, d_t)``.
        """
        z_context = self._context.sample(sample_shape)
        rows = z_context.reshape(-1, self.context_dim)
        z_target: Tensor = self._network(rows).sample() if len(rows) else rows.new_zeros(0, self.target_dim)
        return z_context, z_target.view(*sample_shape, self.target_dim)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self._network.covariance_type}, components={self.components}, "
            f"context_dim={self.context_dim}, target_dim={self.target_dim})"
        )


def _check_context_dim(context_dim: int, dim: int) -> int:
    if not 1 <= context_dim < dim:
        raise ConfigError(f"context_dim must lie between 1 and D - 1 = {dim - 1}, got {context_dim!r}")
    return context_dim
