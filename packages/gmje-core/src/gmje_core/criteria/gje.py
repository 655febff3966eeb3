r"""GJE: one joint Gaussian of context and target, whose covariance never scores the batch it was fitted on.

The encoder maximises a trap-free Gaussian mutual information; ``moments="batch"`` stays available to
demonstrate the Mahalanobis Trace Trap.
"""

import warnings
from typing import Literal

import torch
from torch import Tensor

from gmje_core.checks import check_at_least, check_choice, check_share
from gmje_core.criteria.base import Criterion
from gmje_core.criteria.batch import share_of_batch
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError, TraceTrapWarning
from gmje_core.estimation.gaussian import LearnedGaussian, RunningGaussian, gaussian
from gmje_core.estimation.moments import batch_moments
from gmje_core.objectives import gaussian_information, semiparametric_pmi

__all__ = ["GJE", "MomentsSource"]

# Variance of the channel where the batch's pairs are components, in units of a view's energy.
_TEMPERATURE = 0.1

MomentsSource = Literal["running", "learned", "batch"]


class GJE(Criterion):
    r"""Gaussian Joint Embeddings (arXiv 2603.26799) with the trap removed.

    The encoder maximises the pointwise mutual information of the pairs behind a noise channel, under the Gaussian known
    *before* the batch is scored and the batch's own pairs, each scored by the others
    (:func:`gmje_core.objectives.semiparametric_pmi`). Without these (``batch_share=0``) nothing but the Gaussian scores
    a pair. With :math:`\Sigma` its covariance and :math:`C` that of the batch, both with the channel noise
    :math:`\tau I` added, the loss is then

    .. math::
        \tfrac12 \big[-\log q_\Sigma(z_t \mid z_c) - \log q_\Sigma(z_c \mid z_t)\big]
        - \tfrac12 \big[H(C_{cc}) + H(C_{tt})\big], \qquad H(C) = \tfrac12 \log |2 \pi e\, C|

    averaged over pairs: minus the Gaussian mutual information of the views, where :math:`\Sigma` is right.
    The Mahalanobis terms pull the pairs together because :math:`\Sigma` is constant in them; the entropies keep
    every dimension in use.

    Args:
        dim: Embedding size of both views, or the pair ``(d_c, d_t)``.
        moments: Where mean and covariance come from. ``"running"``: debiased moving moments, accumulated in float64.
            ``"learned"``: mean and Cholesky factor are parameters, trained on the likelihood of detached embeddings
            (add them to the optimiser). ``"batch"``: fitted on the batch that it scores, the naive maximum likelihood
            that collapses; warns.
        temperature: Variance :math:`\tau` of the isotropic noise channel, in units of the mean squared norm of a
            view's embeddings; ``None`` for 0.1, and without the batch's pairs for one dimension's share of it,
            ``1 / d``. It bounds the information that a dimension can carry, hence anchors the scale: neither shrinking
            around an offset nor growing pays.
        batch_share: Weight :math:`\lambda` in ``[0, 1]`` of the batch's own pairs in the density that scores encoders;
            ``None`` for 0.9, and 0 where the views differ in size or the moments are the batch's.
        step: Step of the running moments, in ``(0, 1]``.
        variance_floor: Added to the diagonal of every covariance, in units of the mean variance of an embedding
            dimension.
        check_every: Steps between automatic collapse checks; 0 to make none.
        density_components: Components of the density that :meth:`consolidate` fits; 0 for 60, held only from then on.

    Raises:
        ConfigError: an argument is out of range.

    Examples:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> criterion = GJE(dim=2)
        >>> z_context = torch.randn(256, 2)
        >>> z_target = z_context + 0.1 * torch.randn(256, 2)
        >>> bool(criterion(z_context, z_target) < -0.2)   # nats per pair: the views share information
        True
        >>> criterion.density().condition(z_context).mean.shape
        torch.Size([256, 2])
    """

    critic: RunningGaussian

    def __init__(
        self,
        dim: int | tuple[int, int],
        *,
        moments: MomentsSource = "running",
        temperature: float | None = None,
        batch_share: float | None = None,
        step: float = 0.05,
        variance_floor: float = 1e-3,
        check_every: int = 100,
        density_components: int = 0,
    ) -> None:
        super().__init__(dim, check_every=check_every, density_components=density_components)
        check_choice("moments", moments, MomentsSource)
        check_at_least(0, variance_floor=variance_floor)
        if temperature is not None:
            check_at_least(0, temperature=temperature)
        check_share(step=step, least=False)
        self.self_scored = moments == "batch"
        if self.self_scored and batch_share:
            raise ConfigError(f"moments='batch' takes no share of the batch's pairs, got batch_share={batch_share!r}")
        self.batch_share = 0.0 if self.self_scored else share_of_batch(self.context_dim, self.target_dim, batch_share)
        if self.batch_share and temperature is None:
            temperature = _TEMPERATURE
        if self.batch_share and not temperature:
            raise ConfigError("kernels around the batch's pairs need a temperature above 0; batch_share=0 does without")
        self.temperature = temperature
        make = LearnedGaussian if moments == "learned" else RunningGaussian
        self.critic = make(
            (self.context_dim, self.target_dim), step=1.0 if self.self_scored else step, variance_floor=variance_floor
        )
        if self.self_scored:
            warnings.warn(
                "GJE(moments='batch') scores each batch under its own covariance: the Mahalanobis Trace Trap. "
                "The encoder will collapse; use it only to show that.",
                TraceTrapWarning,
                stacklevel=2,
            )

    def _encoder_loss(self, critic: GaussianMixture | None, z_context: Tensor, z_target: Tensor) -> Tensor:
        if self.self_scored:
            return self._naive_nll(torch.cat([z_context, z_target], dim=1))
        noise = self.critic.noise(self.temperature)
        density = self._joint(self.critic.behind(noise, z_context.dtype))
        if self.batch_share:
            learned = None
            if self.batch_share < 1:
                pair = density.log_prob(z_context, z_target)
                learned = density.context.log_prob(z_context), density.target.log_prob(z_target), pair
            return -semiparametric_pmi(z_context, z_target, (noise[0], noise[-1]), self.batch_share, learned).mean()
        return -gaussian_information(density, z_context, z_target, noise, self.critic.ridge)

    def _naive_nll(self, z: Tensor) -> Tensor:
        """Mean NLL under the batch's own moments, with the gradient through them, which is the trap."""
        _, mean, second = batch_moments(z)
        ridge = self.critic.ridge_of(batch_moments(z.detach().double())[2])
        fitted = gaussian(mean, second, ridge.to(z), careful=True)
        self._gauge(fitted.detach(), fitted.detach().component_log_prob(z.detach()))
        return -fitted.log_prob(z).mean()
