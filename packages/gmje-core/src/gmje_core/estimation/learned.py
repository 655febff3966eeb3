"""A mixture whose parameters an optimiser trains: unconstrained tensors in, weights, means and factors out."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmje_core.densities.covariance import (
    Covariance,
    DiagonalCovariance,
    FullCovariance,
    LowRankCovariance,
    SphericalCovariance,
)
from gmje_core.estimation.moments import MIN_VARIANCE
from gmje_core.linalg import inverse_softplus

__all__ = ["LearnedMixture"]


class LearnedMixture(nn.Module):
    r"""Learnable weights, means and covariance factors of ``K`` components on :math:`\mathbb{R}^D`.

    Means and factors are in units of a fixed ``scale``, the standard deviation of the first batch, so that one
    learning rate serves embeddings of any scale. Standard deviations are :math:`\text{scale} \cdot
    (\operatorname{softplus}(\rho) + \text{floor})`.

    Args:
        components: ``K``.
        dim: ``D``.
        covariance_type: ``"full"``, ``"low_rank"``, ``"diag"`` or ``"spherical"``.
        tied: One covariance for all components.
        rank: Columns of the low-rank factor.
        variance_floor: Floor of the variances, in units of the variance of an embedding dimension.
    """

    center: Tensor
    scale: Tensor
    mass: Tensor

    def __init__(
        self, components: int, dim: int, *, covariance_type: str, tied: bool, rank: int, variance_floor: float
    ) -> None:
        super().__init__()
        self.covariance_type, self.rank = covariance_type, rank
        self.floor = math.sqrt(variance_floor)
        k = 1 if tied else components
        self.logits = nn.Parameter(torch.zeros(components))
        self.locations = nn.Parameter(torch.zeros(components, dim))
        self.deviations = nn.Parameter(torch.zeros(k, 1 if covariance_type == "spherical" else dim))
        if covariance_type == "full":
            self.off_diagonal = nn.Parameter(torch.zeros(k, dim, dim))
        if covariance_type == "low_rank":
            self.factor = nn.Parameter(torch.zeros(k, dim, rank))
        self.register_buffer("center", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("mass", torch.zeros(components, dtype=torch.float64))

    @property
    def means(self) -> Tensor:
        """``(K, D)``."""
        return self.center.to(self.locations) + self.scale.to(self.locations) * self.locations

    def log_weights(self) -> Tensor:
        """``(K,)``, normalised."""
        return self.logits.log_softmax(dim=0)

    def covariance(self) -> Covariance:
        """Covariances with gradient, with a ``K`` axis of size 1 where tied."""
        scale = self.scale.to(self.locations)
        # A copy for the graph: re-seeding writes the parameter before the caller's backward pass.
        deviations = scale * (F.softplus(self.deviations.clone()) + self.floor)
        if self.covariance_type == "full":
            return FullCovariance(scale * self.off_diagonal.tril(-1) + torch.diag_embed(deviations))
        if self.covariance_type == "low_rank":
            return LowRankCovariance(scale * self.factor, deviations.square())
        if self.covariance_type == "diag":
            return DiagonalCovariance(deviations.square())
        return SphericalCovariance(deviations.square().squeeze(-1), self.locations.shape[1])

    @torch.no_grad()
    def start(self, means: Tensor, variance: float, total: tuple[Tensor, Tensor], batch_size: int) -> None:
        """Begin from cluster centres: the first ``len(means)`` components share the mass, the rest are empty."""
        alive = means.shape[0]
        self.center.copy_(total[0])
        self.scale.copy_(total[1].mean().sqrt().clamp_min(math.sqrt(MIN_VARIANCE)))
        self.mass.zero_()[:alive] = 1 / alive
        self.logits.zero_()
        self.locations.zero_()[:alive] = self._standardised(means)
        deviation = max(math.sqrt(variance) / float(self.scale) - self.floor, 1e-3)
        self.deviations.fill_(inverse_softplus(deviation))
        if self.covariance_type == "low_rank":  # a factor of zeros would have no gradient
            columns = torch.arange(self.factor.shape[1], device=self.factor.device) % self.rank
            self.factor.copy_(0.1 * deviation * F.one_hot(columns, self.rank))

    @torch.no_grad()
    def observe(self, z: Tensor, responsibilities: Tensor, step: float) -> None:
        """Follow the components' usage; the parameters are the optimiser's to move."""
        self.mass.lerp_(responsibilities.mean(dim=0).to(self.mass), step)

    @torch.no_grad()
    def reseed(self, index: Tensor, points: Tensor, mass: float) -> None:
        """Move components ``index`` (m,) onto ``points`` (m, D), at the mean weight and the median spread."""
        self.locations[index] = self._standardised(points)
        self.logits[index] = self.logits.logsumexp(dim=0) + math.log(mass)
        self.mass[index] = mass
        if self.deviations.shape[0] > 1:
            self.deviations[index] = self.deviations.median(dim=0).values
            if self.covariance_type == "full":
                self.off_diagonal[index] = 0.0

    def _standardised(self, points: Tensor) -> Tensor:
        return ((points.to(self.center) - self.center) / self.scale).to(self.locations)
