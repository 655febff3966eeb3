"""The noise channel that an encoder's objective is taken behind: it bounds the information and anchors the scale."""

import torch
from torch import Tensor, nn

from gmje_core.densities.covariance import DiagonalCovariance, SphericalCovariance
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.estimation.moments import MIN_VARIANCE

__all__ = ["NoiseChannel"]


class NoiseChannel(nn.Module):
    r"""Isotropic Gaussian noise on each view, relative to the running energy :math:`\mathbb{E}|z|^2` of its embeddings.

    Relative to the energy, not to the variance about the mean: else embeddings may drift to a common mean. For
    spherical components on unit-norm embeddings ``temperature`` is that of a contrastive loss.

    Args:
        context_dim: ``d_c``.
        target_dim: ``d_t``.
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
        """Noise variance of a context and of a target dimension, scalars in float64."""
        context, target = self.temperature * self.energy
        return context, target

    def smooth(self, density: JointGaussianMixture) -> JointGaussianMixture:
        """The density of embeddings sent through the channel."""
        context, target = self.variances()
        variance = torch.cat([context.expand(self.dims[0]), target.expand(self.dims[1])]).to(density.means)
        covariance = density.covariance
        if isinstance(covariance, SphericalCovariance):  # the views' noise may differ
            covariance = DiagonalCovariance(covariance.diagonal(), validate=False)
        smoothed = GaussianMixture(
            density.log_weights, density.means, covariance.add_diagonal(variance), validate_args=False
        )
        return JointGaussianMixture.from_mixture(smoothed, density.context_dim)

    def _energy_of(self, z: Tensor) -> Tensor:
        squares = z.double().square().mean(dim=0).split(self.dims)
        return torch.stack([view.sum() for view in squares]).clamp_min(MIN_VARIANCE)
