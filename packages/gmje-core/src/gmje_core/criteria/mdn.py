r"""GMJE-MDN: a mixture density network gives the target's distribution from the context, at any complexity.

As an objective for encoders it is a contrastive loss that compares pairs by a normalised conditional density; on fixed
embeddings it is a conditional density estimator. The criterion's critic learns the marginal of the context alone, which
:meth:`GMJEMDN.density` needs; the encoder's loss is taken under the network.
"""

import copy
from typing import Literal

import torch
from torch import Tensor
from torch.func import functional_call

from gmje_core.checks import check_choice, check_counts, check_positive, check_share
from gmje_core.criteria.base import Criterion
from gmje_core.criteria.channel import NoiseChannel
from gmje_core.densities.conditional import ConditionalJointMixture
from gmje_core.densities.covariance import CovarianceType
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.diagnostics import component_usage
from gmje_core.estimation.network import MixtureDensityNetwork
from gmje_core.estimation.online import OnlineMixture
from gmje_core.exponentials import logsumexp
from gmje_core.objectives import mean_conditional_pmi

__all__ = ["GMJEMDN", "ConditionalObjective"]

ConditionalObjective = Literal["pmi", "nll"]


class GMJEMDN(Criterion):
    r"""Gaussian Mixture Joint Embeddings with a mixture density network (arXiv 2603.26799).

    The network is trained on :math:`-\log q(z_t \mid z_c)` of detached embeddings. With ``objective="pmi"`` the
    encoder's loss is minus the mean of

    .. math::
        \log q(z_t^i \mid z_c^i) - \log \frac1B \sum_j q(z_t^i \mid z_c^j),

    behind a noise channel of variance ``temperature``: the marginal is the average of the batch's conditionals, so
    that no encoder gains by shrinking, and the value is at most ``log B``. With ``objective="nll"`` the loss is the
    mean conditional NLL itself, with gradient to the context and none to the target: for fixed embeddings, or for a
    target encoder that follows by moving average.

    The parameters of the network are the criterion's: add them to the optimiser.

    Args:
        dim: Embedding size of both views, or the pair ``(d_c, d_t)``.
        components: Number of components ``K`` of the conditional.
        covariance_type: ``"full"``, ``"low_rank"``, ``"diag"`` or ``"spherical"`` conditional covariances.
        rank: Number of columns of the factor of ``"low_rank"``.
        hidden: Width of the hidden layers.
        hidden_layers: Number of hidden layers.
        objective: ``"pmi"`` or ``"nll"``.
        temperature: Variance of the noise channel, in units of the mean squared norm of a view's embeddings.
        context_components: Number of components of the marginal of the context, which learns by online EM.
        step: Step of online EM and of the running energy, in ``(0, 1]``.
        variance_floor: Least variance of a component, in units of the variance of a target dimension.
        seed: Seed of the start of network and marginal; it must be the same on every rank.
        check_every: Steps between automatic collapse checks; 0 to make none.
        density_components: Components of the density that :meth:`consolidate` fits; 0 for 60, held only from then on.

    Raises:
        ConfigError: an argument is out of range.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> criterion = GMJEMDN(dim=1, components=2, hidden=32, objective="nll")
        >>> optimizer = torch.optim.Adam(criterion.parameters(), lr=0.01)
        >>> for _ in range(200):                       # two answers, +1 and -1, whatever the context
        ...     z_context = torch.randn(128, 1)
        ...     loss = criterion(z_context, torch.randn(128, 1).sign() + 0.1 * torch.randn(128, 1))
        ...     optimizer.zero_grad(); loss.backward(); optimizer.step()
        >>> posterior = criterion.condition(torch.zeros(1, 1))
        >>> sorted(round(mean) for mean in posterior.means.flatten().tolist())
        [-1, 1]
    """

    channel: NoiseChannel
    critic: OnlineMixture

    def __init__(
        self,
        dim: int | tuple[int, int],
        components: int = 8,
        *,
        covariance_type: CovarianceType = "diag",
        rank: int = 8,
        hidden: int = 256,
        hidden_layers: int = 2,
        objective: ConditionalObjective = "pmi",
        temperature: float = 0.05,
        context_components: int = 64,
        step: float = 0.05,
        variance_floor: float = 1e-4,
        seed: int = 0,
        check_every: int = 100,
        density_components: int = 0,
    ) -> None:
        super().__init__(dim, check_every=check_every, density_components=density_components)
        check_choice("covariance_type", covariance_type, CovarianceType)
        check_choice("objective", objective, ConditionalObjective)
        check_counts(components=components, rank=rank, hidden=hidden, hidden_layers=hidden_layers)
        check_counts(context_components=context_components)
        check_positive(temperature=temperature, variance_floor=variance_floor)
        check_share(step=step, least=False)
        self.components, self.objective = components, objective
        self.network = MixtureDensityNetwork(
            self.context_dim,
            self.target_dim,
            components,
            covariance_type=covariance_type,
            rank=rank,
            hidden=hidden,
            hidden_layers=hidden_layers,
            variance_floor=variance_floor,
            seed=seed,
        )
        self.critic = OnlineMixture(
            context_components,
            self.context_dim,
            covariance_type="diag",
            tied=False,
            weight_prior=1.0,
            covariance_prior=2.0,
            variance_floor=variance_floor,
            step=step,
            seed=seed,
        )
        self.channel = NoiseChannel(self.context_dim, self.target_dim, temperature)

    def condition(self, z_context: Tensor) -> GaussianMixture:
        """The mixture of the target given contexts ``(B, d_c)``, with gradient; batch shape ``(B,)``.

        Raises:
            NotFittedError: no batch has been seen.
            ShapeError, NonFiniteError: the contexts have another size, or hold NaN or infinity.
        """
        self._known()
        mixture: GaussianMixture = self.network(z_context)
        return mixture

    def critic_density(self) -> ConditionalJointMixture:
        """The joint density of the running marginal of the context and a copy of the network, without gradient."""
        context = self._known().detach()
        return ConditionalJointMixture(context, copy.deepcopy(self.network).requires_grad_(False))

    def _seen_by_critic(self, pairs: Tensor) -> Tensor:
        return pairs[:, : self.context_dim]

    def _start(self, seen: Tensor, pairs: Tensor) -> None:
        super()._start(seen, pairs)
        self.network.start(*pairs.split([self.context_dim, self.target_dim], dim=1))

    def _encoder_loss(self, critic: GaussianMixture | None, z_context: Tensor, z_target: Tensor) -> Tensor:
        if self.objective == "nll":
            return self._negative_log_likelihood(z_context, z_target.detach())
        frozen = {key: value.detach() for key, value in self.network.named_parameters()}
        posterior: GaussianMixture = functional_call(self.network, frozen, (z_context,), {"validate_args": False})
        noise = self.channel.variances()[1].to(posterior.dtype)
        return -mean_conditional_pmi(posterior, z_target, noise)

    def _fit(self, critic: GaussianMixture | None, z_context: Tensor, z_target: Tensor) -> Tensor | None:
        # The likelihood is the loss itself where the encoder is trained by it too.
        return None if self.objective == "nll" else self._negative_log_likelihood(z_context, z_target)

    def _negative_log_likelihood(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        posterior: GaussianMixture = self.network(z_context, validate_args=False)
        log_joint = posterior.component_log_prob(z_target)
        nll = -logsumexp(log_joint, dim=1).mean()
        with torch.no_grad():
            responsibilities = self._gauge(posterior.detach(), log_joint.detach())
            self._gauges |= {
                "component_usage": component_usage(responsibilities),
                "weight_entropy": posterior.weight_entropy.mean().detach(),
                "conditional_nll": nll.detach(),
            }
        return nll
