"""A mixture that follows a stream of batches by online EM: sufficient statistics in, parameters out."""

from typing import Literal

import torch
from torch import Tensor, nn

from gmje_core.densities.covariance import Covariance, DiagonalCovariance, FullCovariance, SphericalCovariance
from gmje_core.estimation.moments import MIN_VARIANCE, batch_moments, merge_moments
from gmje_core.linalg import safe_cholesky

__all__ = ["MomentType", "OnlineMixture"]

#: Forms of covariance whose sufficient statistics can be kept.
MomentType = Literal["full", "diag", "spherical"]


class OnlineMixture(nn.Module):
    r"""Moments of ``K`` components on :math:`\mathbb{R}^D`, updated batch by batch.

    The statistics are :math:`s \leftarrow (1-\gamma)\, s + \gamma\,(r, r z, r z z^\top)` (Cappé and Moulines,
    2009), kept centred and in float64. The parameters are their maximum a posteriori: a Dirichlet prior on the
    weights and an inverse-Wishart prior on the covariances, centred on the isotropic pooled one, so that no
    component turns singular.

    Args:
        components: ``K``.
        dim: ``D``.
        covariance_type: ``"full"``, ``"diag"`` or ``"spherical"``.
        tied: One covariance for all components.
        weight_prior: Dirichlet pseudo-observations of each component.
        covariance_prior: Inverse-Wishart pseudo-observations of each component.
        variance_floor: Added to the variances, in units of the pooled variance of an embedding dimension.
    """

    mass: Tensor
    means: Tensor
    second: Tensor
    total_mean: Tensor
    total_variance: Tensor
    inverse_count: Tensor

    def __init__(
        self,
        components: int,
        dim: int,
        *,
        covariance_type: str,
        tied: bool,
        weight_prior: float,
        covariance_prior: float,
        variance_floor: float,
    ) -> None:
        super().__init__()
        self.covariance_type, self.tied = covariance_type, tied
        self.weight_prior, self.covariance_prior, self.variance_floor = weight_prior, covariance_prior, variance_floor
        shape = (components, dim, dim) if covariance_type == "full" else (components, dim)
        self.register_buffer("mass", torch.zeros(components, dtype=torch.float64))
        self.register_buffer("means", torch.zeros(components, dim, dtype=torch.float64))
        self.register_buffer("second", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("total_mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("total_variance", torch.ones(dim, dtype=torch.float64))
        self.register_buffer("inverse_count", torch.zeros((), dtype=torch.float64))

    @property
    def diagonal(self) -> bool:
        """Whether only the diagonals of the second moments are kept."""
        return self.covariance_type != "full"

    @property
    def counts(self) -> Tensor:
        """``(K,)`` effective number of observations of each component."""
        return self.mass / self.inverse_count.clamp_min(torch.finfo(torch.float64).tiny)

    def log_weights(self) -> Tensor:
        """``(K,)``, normalised; finite for a component without observations where ``weight_prior > 0``."""
        counts = self.counts + self.weight_prior
        return (counts / counts.sum()).clamp_min(torch.finfo(torch.float32).tiny).log()

    def covariance(self) -> Covariance:
        """Maximum a posteriori covariances, with a ``K`` axis of size 1 where tied."""
        counts = self.counts.view(-1, *[1] * (self.second.ndim - 1))
        pooled = (counts * self.second).sum(dim=0, keepdim=True) / counts.sum()
        floor = self.variance_floor * self.total_variance.mean().clamp_min(MIN_VARIANCE)
        isotropic = (pooled if self.diagonal else pooled.diagonal(dim1=-2, dim2=-1)).mean() + floor
        second, counts = (pooled, counts.sum().view_as(counts[:1])) if self.tied else (self.second, counts)
        prior = isotropic if self.diagonal else isotropic * torch.eye(second.shape[-1]).to(second)
        posterior = (counts * second + self.covariance_prior * prior) / (counts + self.covariance_prior)
        if self.covariance_type == "full":
            return FullCovariance(safe_cholesky(posterior + floor * torch.eye(second.shape[-1]).to(second)))
        if self.covariance_type == "diag":
            return DiagonalCovariance(posterior + floor)
        return SphericalCovariance(posterior.mean(dim=-1) + floor, second.shape[-1])

    @torch.no_grad()
    def start(self, means: Tensor, variance: float, total: tuple[Tensor, Tensor], batch_size: int) -> None:
        """Begin from cluster centres: the first ``len(means)`` components share the mass, the rest are empty."""
        alive = means.shape[0]
        self.mass.zero_()[:alive] = 1 / alive
        self.means.zero_()[:alive] = means.to(self.means)
        self.second.copy_(self._isotropic(variance))
        self.total_mean.copy_(total[0])
        self.total_variance.copy_(total[1])
        self.inverse_count.fill_(1 / batch_size)

    @torch.no_grad()
    def observe(self, z: Tensor, responsibilities: Tensor, step: float) -> None:
        """One step of online EM: fold in a batch ``(B, D)`` with its responsibilities ``(B, K)``."""
        z = z.to(self.means)
        old = (self.mass, self.means, self.second)
        new = batch_moments(z, responsibilities.to(z), diagonal=self.diagonal)
        for buffer, value in zip(old, merge_moments(old, new, step), strict=True):
            buffer.copy_(value)
        one = torch.ones((), dtype=z.dtype, device=z.device)
        _, mean, variance = merge_moments(
            (one, self.total_mean, self.total_variance), batch_moments(z, diagonal=True), step
        )
        self.total_mean.copy_(mean)
        self.total_variance.copy_(variance)
        # Effective sample size of exponentially weighted observations: 1 / sum of squared weights.
        self.inverse_count.copy_((1 - step) ** 2 * self.inverse_count + step**2 / z.shape[0])

    @torch.no_grad()
    def reseed(self, index: Tensor, points: Tensor, mass: float) -> None:
        """Move components ``index`` (m,) onto ``points`` (m, D), with the pooled isotropic covariance."""
        live = self.mass.sum()
        shape = (-1, *[1] * (self.second.ndim - 1))
        pooled = (self.mass.view(shape) * self.second).sum(dim=0) / live
        variance = (pooled if self.diagonal else pooled.diagonal()).mean()
        self.means[index] = points.to(self.means)
        self.second[index] = self._isotropic(float(variance))
        self.mass[index] = mass

    @torch.no_grad()
    def insert(self, new: int, first: int, second: int, mean: Tensor) -> None:
        """Put component ``new`` at ``mean`` (D,) between two others, with a third of their mass and their spread."""
        pair = [first, second]
        self.mass[new] = self.mass[pair].sum() / 3
        self.mass[pair] *= 2 / 3
        self.means[new] = mean
        self.second[new] = self.second[pair].mean(dim=0)

    @torch.no_grad()
    def remove(self, index: Tensor) -> None:
        """Leave components ``index`` (m,) without mass; the others share it."""
        self.mass[index] = 0.0
        self.mass /= self.mass.sum()

    def _isotropic(self, variance: float) -> Tensor:
        dim = self.means.shape[1]
        return variance * (torch.ones(dim) if self.diagonal else torch.eye(dim)).to(self.second)
