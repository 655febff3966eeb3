r"""GMJE: a mixture of Gaussian prototypes on the joint of context and target, which never scores what it was fitted on.

The critic follows the embeddings by online EM or by gradient; the encoder maximises the pointwise mutual
information of the pair under it.
"""

from typing import Literal

from torch import Tensor

from gmje_core.checks import check_at_least, check_choice, check_counts, check_positive, check_share
from gmje_core.criteria.base import Criterion
from gmje_core.criteria.batch import share_of_batch
from gmje_core.criteria.channel import NoiseChannel
from gmje_core.densities.covariance import CovarianceType
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.diagnostics import component_usage
from gmje_core.estimation.learned import LearnedMixture
from gmje_core.estimation.online import OnlineMixture
from gmje_core.objectives import mixture_pmi, semiparametric_pmi

__all__ = ["GMJE", "PrototypeCriterion", "Update"]

Update = Literal["em", "gradient"]


class PrototypeCriterion(Criterion):
    """Base of criteria whose critic is a mixture on the joint.

    The encoder maximises the pmi of the pairs under it and the batch's own pairs, which join it as components.
    """

    channel: NoiseChannel
    batch_share: float

    def _encoder_loss(self, critic: GaussianMixture | None, z_context: Tensor, z_target: Tensor) -> Tensor:
        density = None if critic is None else self._joint(critic).detach()
        if self.batch_share:
            learned = None
            if density is not None and self.batch_share < 1:
                learned = self.channel.log_densities(density, z_context, z_target)
            noise = self.channel.variances()
            return -semiparametric_pmi(z_context, z_target, noise, self.batch_share, learned).mean()
        assert density is not None
        scores = self.channel.view_log_probs(density, z_context, z_target)
        return -mixture_pmi(*scores, density.log_weights, weights="batch").mean()


class GMJE(PrototypeCriterion):
    r"""Gaussian Mixture Joint Embeddings with prototypes (arXiv 2603.26799).

    The encoder's loss is minus the mean pointwise mutual information of the pairs, under a density that is
    semi-parametric: the critic, with the weight :math:`1 - \lambda`, and the batch's own pairs, each scored by the
    others (:func:`gmje_core.objectives.semiparametric_pmi`). The critic knows which embeddings are alike over the whole
    run; the pairs of the batch give the marginal a gradient to every embedding and tell neighbours apart that share a
    prototype. Without them (``batch_share=0``) the loss is

    .. math::
        -\log \sum_k \frac{p(k \mid z_c)\, p(k \mid z_t)}{\bar w_k}\, e^{\mathrm{pmi}_k(z_c, z_t)},

    where :math:`\bar w_k` is the mean responsibility of the global batch over both views, with gradient, which
    keeps the components in use.

    The loss is taken behind an isotropic noise channel of variance ``temperature``: the information that embeddings
    carry is then bounded and their scale anchored; on unit-norm embeddings it is the temperature of a contrastive loss.
    The critic itself is fitted without that noise, on detached embeddings, after it has scored them.

    Embeddings need not be normalised, but unit norm is usual.

    Args:
        dim: Embedding size of both views, or the pair ``(d_c, d_t)``.
        components: Number of prototypes ``K``.
        covariance_type: ``"full"``, ``"low_rank"``, ``"diag"`` or ``"spherical"`` covariances of the joint.
        tied: Whether all components share one covariance.
        rank: Number of columns of the factor of ``"low_rank"``.
        update: ``"em"``: online EM, state in buffers, nothing to optimise. ``"gradient"``: weights, means and
            factors are parameters, trained on ``-log q(sg[z])`` (add them to the optimiser).
        temperature: Variance of the noise channel, in units of the mean squared norm of a view's
            embeddings.
        batch_share: Weight :math:`\lambda` in ``[0, 1]`` of the batch's own pairs in the density that scores encoders;
            ``None`` for 0.9, and 0 where the views differ in size.
        step: Step of online EM and of the running usage in ``(0, 1]``; ``None`` for ``(t + 2)^-0.6``, which
            converges where embeddings are fixed.
        weight_prior: Pseudo-observations of each component in the Dirichlet prior of the weights.
        covariance_prior: Pseudo-observations of each component in the inverse-Wishart prior of the covariances;
            ``None`` for 2, with low-rank covariances for ``2 + rank``, with full ones for ``D``.
        variance_floor: Least variance of a component, in units of the mean variance of an embedding dimension.
        seed: Seed of the k-means++ start and of re-seeding; it must be the same on every rank.
        check_every: Steps between automatic collapse checks; 0 to make none.
        density_components: Components of the density that :meth:`consolidate` fits; 0 for 60, held only from then on.

    Raises:
        ConfigError: an argument is out of range.

    Examples:
        >>> import math, torch
        >>> _ = torch.manual_seed(0)
        >>> criterion = GMJE(dim=2, components=4, temperature=0.02, batch_share=0)
        >>> centers = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])[torch.arange(256) % 4]
        >>> for _ in range(10):
        ...     loss = criterion(*(centers + 0.05 * torch.randn(2, 256, 2)))
        >>> bool((loss + math.log(4)).abs() < 0.05)   # the views share log 4 nats: which of the centers
        True
        >>> criterion.density().condition(centers[:1]).mean.round(decimals=1)
        tensor([[1., 0.]])
    """

    def __init__(
        self,
        dim: int | tuple[int, int],
        components: int = 512,
        *,
        covariance_type: CovarianceType = "spherical",
        tied: bool = False,
        rank: int = 8,
        update: Update = "em",
        temperature: float = 0.1,
        batch_share: float | None = None,
        step: float | None = 0.05,
        weight_prior: float = 1.0,
        covariance_prior: float | None = None,
        variance_floor: float = 1e-4,
        seed: int = 0,
        check_every: int = 100,
        density_components: int = 0,
    ) -> None:
        super().__init__(dim, check_every=check_every, density_components=density_components)
        check_choice("covariance_type", covariance_type, CovarianceType)
        check_choice("update", update, Update)
        check_counts(components=components, rank=rank)
        check_positive(temperature=temperature, variance_floor=variance_floor, weight_prior=weight_prior)
        if step is not None:
            check_share(step=step, least=False)
        if covariance_prior is not None:
            check_at_least(0, covariance_prior=covariance_prior)
        self.components = components
        self.batch_share = share_of_batch(self.context_dim, self.target_dim, batch_share)
        self.critic: OnlineMixture | LearnedMixture
        if update == "em":
            self.critic = OnlineMixture(
                components,
                self.dim,
                covariance_type=covariance_type,
                tied=tied,
                weight_prior=weight_prior,
                covariance_prior=covariance_prior,
                variance_floor=variance_floor,
                step=step,
                rank=rank,
                seed=seed,
            )
        else:
            self.critic = LearnedMixture(
                components,
                self.dim,
                covariance_type=covariance_type,
                tied=tied,
                rank=rank,
                variance_floor=variance_floor,
                step=step,
                seed=seed,
            )
        self.channel = NoiseChannel(self.context_dim, self.target_dim, temperature)

    def _more_gauges(self, responsibilities: Tensor | None) -> dict[str, Tensor | float]:
        mass = self.critic.mass
        return {"component_usage": component_usage(mass / mass.sum()), "reseeded": self.critic.reseeded.clone()}
