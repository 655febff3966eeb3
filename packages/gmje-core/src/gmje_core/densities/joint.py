r"""Joint densities of a context and a target embedding: what they share, and the one that is a mixture of both."""

from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor

from gmje_core.densities.covariance import Covariance, CovarianceType, FullCovariance
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.densities.parameters import check_same_rows, log_of_weights
from gmje_core.errors import ConfigError
from gmje_core.exponentials import logsumexp
from gmje_core.linalg import promote

__all__ = ["JointDensity", "JointGaussianMixture"]


class JointDensity(Protocol):
    """What any joint density can be asked; the density of every criterion is one."""

    @property
    def context_dim(self) -> int:
        """Size of the context embedding, ``d_c``."""

    @property
    def target_dim(self) -> int:
        """Size of the target embedding, ``d_t``."""

    @property
    def components(self) -> int:
        """Components of the conditional."""

    @property
    def context(self) -> GaussianMixture:
        """Marginal of the context."""

    def log_prob(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        """``(B,)`` joint log-density, nats."""

    def condition(self, z_context: Tensor) -> GaussianMixture:
        """Mixture of the target given the context, of batch shape ``(B,)``."""

    def sample(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Draw pairs."""


class JointGaussianMixture:
    r"""Joint density of a context and a target embedding, :math:`q(z_c, z_t)`, a mixture of ``K`` Gaussians.

    It is the central object of the method (arXiv 2603.26799): both conditionals, both marginals and the dependence of
    the views have a closed form. It holds one :class:`GaussianMixture` over ``[z_c ; z_t]``, as :attr:`joint`.

    Args:
        log_weights: ``(..., K)`` log-weights or logits.
        means: ``(..., K, D)`` with ``D = d_c + d_t``, context first.
        covariance: Covariance whose leading shape broadcasts with ``(..., K)``.
        context_dim: ``d_c``, between 1 and ``D - 1``.
        validate_args: Check values here and in every call, as in :class:`GaussianMixture`; with ``False`` no value is
            read.

    Raises:
        ConfigError: ``context_dim`` is out of range.
        ShapeError, NonFiniteError: as in :class:`GaussianMixture`.

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
        self._context_dim = check_context_dim(context_dim, self._joint.dim)

    @classmethod
    def from_mixture(cls, joint: GaussianMixture, context_dim: int) -> Self:
        """Joint density that is this mixture over ``[z_c ; z_t]``."""
        density = cls.__new__(cls)
        density._joint = joint
        density._context_dim = check_context_dim(context_dim, joint.dim)
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

        Arguments and errors are those of :meth:`GaussianMixture.from_moments`, with ``context_dim`` in addition.
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
            scale_tril: ``(..., K, D, D)``, with a ``K`` axis of size 1 for a tied covariance.
            context_dim: ``d_c``.
            validate_args: As in the constructor.
        """
        weights, means, scale_tril = promote(weights, means, scale_tril)
        validate = validate_args is not False
        covariance = FullCovariance(scale_tril, validate)
        return cls(log_of_weights(weights, validate=validate), means, covariance, context_dim, validate_args)

    @property
    def joint(self) -> GaussianMixture:
        """The mixture over ``[z_c ; z_t]``."""
        return self._joint

    @property
    def context_dim(self) -> int:
        """Size of the context embedding, ``d_c``."""
        return self._context_dim

    @property
    def target_dim(self) -> int:
        """Size of the target embedding, ``d_t``."""
        return self._joint.dim - self._context_dim

    @property
    def batch_shape(self) -> torch.Size:
        """Batch shape of the parameters, which is empty for one density."""
        return self._joint.batch_shape

    @property
    def components(self) -> int:
        """Number of components ``K``."""
        return self._joint.components

    @property
    def log_weights(self) -> Tensor:
        """Logarithms of the weights in nats, ``(K,)``, normalised."""
        return self._joint.log_weights

    @property
    def weights(self) -> Tensor:
        """Weights of the components, ``(K,)``, which sum to one."""
        return self._joint.weights

    @property
    def means(self) -> Tensor:
        """Means of the components, ``(K, D)``, context first."""
        return self._joint.means

    @property
    def covariance(self) -> Covariance:
        """Covariances of the components, context first."""
        return self._joint.covariance

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters, float32 or float64."""
        return self._joint.dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
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
        return logsumexp(self.component_log_prob(z_context, z_target), dim=-1)

    def component_log_prob(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        r""":math:`\log w_k + \log N(z_c, z_t; \mu_k, \Sigma_k)`, ``(B, K)``."""
        joint, pair = self._joint._promote(self._stack(z_context, z_target))
        return joint._component_log_prob(pair)

    def log_responsibilities(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        r""":math:`\log p(k \mid z_c, z_t)`, ``(B, K)``."""
        return self.component_log_prob(z_context, z_target).log_softmax(dim=-1)

    def condition(self, z_context: Tensor) -> GaussianMixture:
        r"""Mixture of the target given the context, :math:`q(z_t \mid z_c)`; see :meth:`GaussianMixture.condition`.

        Args:
            z_context: ``(B, d_c)``.

        Returns:
            Mixture of batch shape ``(B,)`` whose covariances are shared by the batch.

        Raises:
            ShapeError, NonFiniteError: ``z_context`` does not fit the density.
        """
        self._check("z_context", z_context)
        joint, values = self._joint._promote(z_context)
        return joint._condition(list(range(self._context_dim)), values)

    def condition_on_target(self, z_target: Tensor) -> GaussianMixture:
        r"""Mixture of the context given the target, :math:`q(z_c \mid z_t)`.

        Args:
            z_target: ``(B, d_t)``.

        Returns:
            Mixture of batch shape ``(B,)`` whose covariances are shared by the batch.

        Raises:
            ShapeError, NonFiniteError: ``z_target`` does not fit the density.

        Examples:
            >>> joint = JointGaussianMixture.from_moments(
            ...     torch.ones(1), torch.zeros(1, 2), torch.tensor([[[1.0, 0.5], [0.5, 1.0]]]), context_dim=1
            ... )
            >>> joint.condition_on_target(torch.tensor([[2.0]])).mean
            tensor([[1.]])
        """
        self._check("z_target", z_target)
        joint, values = self._joint._promote(z_target)
        return joint._condition(list(range(self._context_dim, joint.dim)), values)

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
        return logsumexp(joint, dim=-1) - logsumexp(context, dim=-1) - logsumexp(target, dim=-1)

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
        joint, pair = self._joint._promote(self._stack(z_context, z_target))
        size = self._context_dim
        context = joint.marginal(range(size))._component_log_prob(pair[..., :size])
        target = joint.marginal(range(size, joint.dim))._component_log_prob(pair[..., size:])
        if self.covariance.axis_aligned:
            return context, target, context + target - joint.log_weights
        return context, target, joint._component_log_prob(pair)

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
        """Pairs ``(..., D)`` of the views, which are checked one by one so that errors name them."""
        self._check("z_context", z_context)
        self._check("z_target", z_target)
        check_same_rows(z_context, z_target)
        return torch.cat(promote(z_context, z_target), dim=-1)

    def _check(self, name: str, z: Tensor) -> None:
        self._joint._check_value(name, z, self._context_dim if name == "z_context" else self.target_dim)

    def __repr__(self) -> str:
        tied = ", tied" if self.covariance.tied else ""
        return (
            f"{type(self).__name__}({self.covariance.covariance_type}{tied}, components={self.components}, "
            f"context_dim={self.context_dim}, target_dim={self.target_dim})"
        )


def check_context_dim(context_dim: int, dim: int) -> int:
    """The size ``d_c`` of a context; a :class:`ConfigError` where it leaves no dimension for one of the views."""
    if not 1 <= context_dim < dim:
        raise ConfigError(f"context_dim must lie between 1 and D - 1 = {dim - 1}, got {context_dim!r}")
    return context_dim
