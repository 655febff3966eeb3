"""The noise channel that an encoder's loss is taken behind: it bounds the information and anchors the scale."""

import torch
from torch import Tensor

from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.estimation.moments import MIN_VARIANCE
from gmje_core.exponentials import logsumexp
from gmje_core.objectives.view_scores import axis_aligned_log_densities
from gmje_core.precise import PreciseModule

__all__ = ["NoiseChannel"]


class NoiseChannel(PreciseModule):
    r"""Isotropic Gaussian noise on each view, relative to the running energy :math:`\mathbb{E}|z|^2` of its embeddings.

    The noise is relative to the energy and not to the variance about the mean, because embeddings could then drift to
    a common mean. For spherical components on unit-norm embeddings ``temperature`` is that of a contrastive loss.

    Args:
        context_dim: Size ``d_c`` of a context embedding.
        target_dim: Size ``d_t`` of a target embedding.
        temperature: Variance of the noise, in units of the energy.
    """

    energy: Tensor

    def __init__(self, context_dim: int, target_dim: int, temperature: float) -> None:
        super().__init__()
        self.dims, self.temperature = (context_dim, target_dim), temperature
        self.register_buffer("energy", torch.zeros(2, dtype=torch.float64))

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Take the energy of a first batch ``(B, d_c + d_t)``."""
        self.energy.copy_(self._energy_of(z))

    @torch.no_grad()
    def update(self, z: Tensor, step: float) -> None:
        """Follow the energy of a batch ``(B, d_c + d_t)``."""
        self.energy.lerp_(self._energy_of(z), step)

    def variances(self) -> tuple[Tensor, Tensor]:
        """Variances of the noise of a context dimension and of a target dimension, scalars in float64."""
        context, target = self.temperature * self.energy
        return context, target

    def view_log_probs(
        self, density: JointGaussianMixture, z_context: Tensor, z_target: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Component log-probabilities of context, target and pair, each with :math:`\log w_k`, behind the channel.

        Args:
            density: Density of the embeddings without noise.
            z_context: ``(B, d_c)``.
            z_target: ``(B, d_t)``.

        Returns:
            Three tensors ``(B, K)``, nats; see :meth:`JointGaussianMixture.view_log_probs`.
        """
        noise_context, noise_target = (variance.to(density.means) for variance in self.variances())
        context = _noisy(density.context, noise_context).component_log_prob(z_context)
        target = _noisy(density.target, noise_target).component_log_prob(z_target)
        if density.covariance.axis_aligned:
            return context, target, context + target - density.log_weights
        noise = torch.cat([noise_context.expand(self.dims[0]), noise_target.expand(self.dims[1])])
        pair = torch.cat([z_context, z_target], dim=1)
        return context, target, _noisy(density.joint, noise).component_log_prob(pair)

    def log_densities(
        self, density: JointGaussianMixture, z_context: Tensor, z_target: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-densities ``(B,)`` of contexts, targets and pairs behind the channel, nats.

        The density carries no gradient; the views get theirs once.
        """
        if density.covariance.axis_aligned:
            noise_context, noise_target = (variance.to(density.means) for variance in self.variances())
            views = _noisy(density.context, noise_context), _noisy(density.target, noise_target)
            return axis_aligned_log_densities(*views, z_context, z_target)
        context, target, pair = (
            logsumexp(scores, dim=1) for scores in self.view_log_probs(density, z_context, z_target)
        )
        return context, target, pair

    def _energy_of(self, z: Tensor) -> Tensor:
        squares = z.double().square().mean(dim=0).split(self.dims)
        return torch.stack([view.sum() for view in squares]).clamp_min(MIN_VARIANCE)


def _noisy(mixture: GaussianMixture, variance: Tensor) -> GaussianMixture:
    """The mixture with independent noise added; its variance is a scalar or one number for each dimension."""
    covariance = mixture.covariance.add_diagonal(variance)
    return GaussianMixture(mixture.log_weights, mixture.means, covariance, validate_args=False)
