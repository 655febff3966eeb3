r"""GMJE-SMC: the critic is a memory bank of weighted particles, kept representative by Sequential Monte Carlo.

Past pairs are the components. Each batch reweights them by importance and replaces the lightest; the bank is resampled
when few particles still count. With uniform weights and first-in-first-out replacement it is MoCo's queue, exactly.
"""

import torch
from torch import Tensor

from gmje_core.checks import check_choice, check_counts, check_positive, check_share
from gmje_core.criteria.batch import share_of_batch
from gmje_core.criteria.channel import NoiseChannel
from gmje_core.criteria.gmje import PrototypeCriterion
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.diagnostics import component_usage
from gmje_core.errors import ConfigError
from gmje_core.estimation.bank import ParticleBank, effective_sample_size
from gmje_core.estimation.online import MomentType
from gmje_core.objectives import Direction, bank_pmi

__all__ = ["GMJESMC"]


class GMJESMC(PrototypeCriterion):
    r"""Gaussian Mixture Joint Embeddings with a Sequential Monte Carlo memory bank (arXiv 2603.26799).

    The critic is a kernel mixture on past pairs, :math:`q(z) = \sum_m w_m N(z; x_m, H)`, whose bandwidth ``H`` follows
    batches that the bank does not yet hold. When a batch arrives it is scored; then

    1. weights move by the importance ratio of the batch to the bank,
       :math:`w_m \leftarrow w_m \big[1 - \eta + \tfrac{\eta}{B} \sum_i N(z_i; x_m, H) / q(z_i)\big]`, a step of
       online EM (the geometric step :math:`w_m \rho_m^\eta` would kill every particle that one batch misses);
    2. the lightest particles, the oldest among equals, make room for the batch; each new particle has the average
       weight, while the old ones fade with age;
    3. if the effective sample size of the cumulative weights is below ``ess_threshold`` of the bank, it is
       resampled systematically and rejuvenated with the moment-preserving jitter of Liu and West.

    The encoder maximises the pointwise mutual information of the pair behind a noise channel of variance
    ``temperature``, under the bank and the batch's own pairs (:func:`gmje_core.objectives.semiparametric_pmi`).
    Without these (``batch_share=0``) it is taken in the contrastive limit, in which the kernels are those of the
    channel and the pair itself is one more particle beside the ``n``:

    .. math::
        \mathrm{pmi} = \log N(z_c; z_t, \tau I)
        - \log \Big[ \tfrac{1}{n+1} N(z_c; z_t, \tau I) + \tfrac{n}{n+1} \sum_m w_m N(z_c; x_m^t, \tau I) \Big]

    and the same with the views exchanged. With ``weighting=0``, ``age_decay=0`` and unit-norm embeddings,
    :math:`\log(n + 1)` minus this pmi is MoCo's loss with a queue of ``particles`` (He et al., 2020).

    Args:
        dim: Embedding size of both views, which must be equal because they are compared in one space.
        particles: Size ``M`` of the bank.
        covariance_type: Form of the bandwidth, shared by all particles: ``"full"``, ``"diag"`` or ``"spherical"``.
        temperature: Variance of the noise channel, in units of the mean squared norm of a view's embeddings.
        weighting: Strength :math:`\eta` of the reweighting, in ``[0, 1]``.
        age_decay: Share of its weight that a particle loses at each step, in ``[0, 1)``.
        ess_threshold: Share of the bank in ``[0, 1]`` below which the effective sample size leads to resampling.
        rejuvenation: Strength ``h`` of the jitter, in ``[0, 1]``.
        batch_share: Weight :math:`\lambda` in ``[0, 1]`` of the batch's own pairs in the density that scores encoders.
        direction: Where the batch has no share, ``"target"`` compares each context with targets, ``"context"`` each
            target with contexts; ``"both"`` takes the mean of the two, as it is otherwise.
        step: Step of the running bandwidth and energy, in ``(0, 1]``.
        variance_floor: Number added to the variances of the bandwidth, in units of the mean variance of an
            embedding dimension.
        seed: Seed of resampling and jitter; it must be the same on every rank.
        check_every: Steps between automatic collapse checks; 0 to make none.
        density_components: Components of the density that :meth:`consolidate` fits; 0 for 60, held only from then on.

    Raises:
        ConfigError: an argument is out of range, or the views differ in size.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> criterion = GMJESMC(dim=2, particles=512)
        >>> angle = 6.28 * torch.rand(40, 64, 1)
        >>> circle = torch.cat([angle.cos(), angle.sin()], dim=-1)
        >>> for z in circle:
        ...     loss = criterion(z, z)
        >>> criterion.density()
        JointGaussianMixture(spherical, tied, components=512, context_dim=2, target_dim=2)
        >>> criterion.diagnostics()["effective_sample_size"] >= 256
        True
    """

    critic: ParticleBank

    def __init__(
        self,
        dim: int | tuple[int, int],
        particles: int = 4096,
        *,
        covariance_type: MomentType = "spherical",
        temperature: float = 0.1,
        weighting: float = 0.1,
        age_decay: float = 0.02,
        ess_threshold: float = 0.5,
        rejuvenation: float = 0.05,
        batch_share: float = 0.9,
        direction: Direction = "both",
        step: float = 0.05,
        variance_floor: float = 1e-4,
        seed: int = 0,
        check_every: int = 100,
        density_components: int = 0,
    ) -> None:
        super().__init__(dim, check_every=check_every, density_components=density_components)
        if self.context_dim != self.target_dim:
            raise ConfigError(
                "GMJESMC compares the views in one space: dim must be one size, "
                f"got {(self.context_dim, self.target_dim)} (GMJE takes a pair)"
            )
        check_choice("covariance_type", covariance_type, MomentType)
        check_choice("direction", direction, Direction)
        check_counts(particles=particles)
        check_positive(temperature=temperature, variance_floor=variance_floor)
        check_share(weighting=weighting, ess_threshold=ess_threshold, rejuvenation=rejuvenation)
        check_share(age_decay=age_decay, most=False)
        check_share(step=step, least=False)
        self.batch_share = share_of_batch(self.context_dim, self.target_dim, batch_share)
        self.direction = direction
        self.critic = ParticleBank(
            particles,
            self.dim,
            covariance_type=covariance_type,
            weighting=weighting,
            age_decay=age_decay,
            ess_threshold=ess_threshold,
            rejuvenation=rejuvenation,
            step=step,
            variance_floor=variance_floor,
            seed=seed,
        )
        self.channel = NoiseChannel(self.context_dim, self.target_dim, temperature)

    def _encoder_loss(self, critic: GaussianMixture | None, z_context: Tensor, z_target: Tensor) -> Tensor:
        if self.batch_share:
            return super()._encoder_loss(critic, z_context, z_target)
        noise_context, noise_target = self.channel.variances()
        weights = None if critic is None else critic.log_weights
        past = None if critic is None else critic.means.split([self.context_dim, self.target_dim], dim=1)
        losses = []
        if self.direction in ("target", "both"):
            bank = None if past is None or weights is None else (past[1], weights)
            losses.append(-bank_pmi(z_context, z_target, bank, noise_context).mean())
        if self.direction in ("context", "both"):
            bank = None if past is None or weights is None else (past[0], weights)
            losses.append(-bank_pmi(z_target, z_context, bank, noise_target).mean())
        return torch.stack(losses).mean()

    def _more_gauges(self, responsibilities: Tensor | None) -> dict[str, Tensor | float]:
        resampled = float(self.critic.counters["resampled"])
        if responsibilities is None:
            return {"component_usage": 1.0, "effective_sample_size": 0.0, "resampled": resampled}
        log_weights = self.critic.log_weights[: self.critic.count]
        return {
            "component_usage": component_usage(log_weights.exp()),
            "effective_sample_size": effective_sample_size(log_weights),
            "resampled": resampled,
        }
