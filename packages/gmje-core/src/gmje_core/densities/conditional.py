r"""A joint density made of a marginal of the context and a network that gives the conditional of the target."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from gmje_core.densities.covariance import CovarianceType
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.densities.parameters import check_same_rows
from gmje_core.errors import ShapeError

__all__ = ["ConditionalJointMixture", "ConditionalNetwork"]


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

    The conditional of the target has a closed form. That of the context has none, because the network maps one way
    only: train another network with the views exchanged, or use another joint density.

    Args:
        context: Marginal of the context, of batch shape ``()``.
        network: Network that gives the mixture of the target; it is used as it is, without gradient.

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
        """Size of the context embedding, ``d_c``."""
        return self._network.context_dim

    @property
    def target_dim(self) -> int:
        """Size of the target embedding, ``d_t``."""
        return self._network.target_dim

    @property
    def components(self) -> int:
        """Number of components ``K`` of the conditional."""
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
        check_same_rows(z_context, z_target)
        return self._context.log_prob(z_context) + self.condition(z_context).log_prob(z_target)

    @torch.no_grad()
    def condition(self, z_context: Tensor) -> GaussianMixture:
        r"""Mixture of the target given the context, :math:`q(z_t \mid z_c)`.

        Args:
            z_context: ``(B, d_c)``.

        Returns:
            Mixture of batch shape ``(B,)``.

        Raises:
            ShapeError, NonFiniteError: ``z_context`` does not fit the network.
        """
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
