"""A mixture whose parameters an optimiser trains, as unconstrained tensors that give weights, means and factors."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmje_core.densities.covariance import covariance_class
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.estimation.moments import MIN_VARIANCE
from gmje_core.estimation.seeding import dead_components, find_centres, reseeding, step_generator
from gmje_core.estimation.trainable import TrainableDensity

__all__ = ["LearnedMixture"]

# Smallest standard deviation at the start, in units of the scale.
_LEAST_DEVIATION = 1e-3


class LearnedMixture(TrainableDensity):
    r"""Learnable weights, means and covariance factors of ``K`` components on :math:`\mathbb{R}^D`.

    Means and factors are in units of a fixed ``scale``, the standard deviation of the first batch, so that one
    learning rate serves embeddings of any scale. Standard deviations are :math:`\text{scale} \cdot
    (\operatorname{softplus}(\rho) + \text{floor})`. An optimiser moves the parameters; :meth:`update` only follows the
    components' usage and moves dead components onto badly explained samples.

    Args:
        components: Number of components ``K``.
        dim: Dimension ``D`` of a row.
        covariance_type: ``"full"``, ``"low_rank"``, ``"diag"`` or ``"spherical"``.
        tied: Whether all components share one covariance.
        rank: Number of columns of the low-rank factor.
        variance_floor: Least variance of a component, in units of the variance of an embedding dimension.
        step: Step of the running usage in ``(0, 1]``; ``None`` for ``(t + 2)^-0.6``.
        seed: Seed of the start and of re-seeding.
    """

    has_gradient = True
    center: Tensor
    scale: Tensor
    mass: Tensor
    reseeded: Tensor

    def __init__(
        self,
        components: int,
        dim: int,
        *,
        covariance_type: str,
        tied: bool,
        rank: int,
        variance_floor: float,
        step: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(step)
        self.form, self.rank = covariance_class(covariance_type), rank
        self.floor, self.seed = math.sqrt(variance_floor), seed
        matrices = 1 if tied else components
        self.logits = nn.Parameter(torch.zeros(components))
        self.locations = nn.Parameter(torch.zeros(components, dim))
        self.factors = nn.ParameterDict(
            {name: torch.zeros(matrices, size) for name, size in self.form.unconstrained_sizes(dim, rank).items()}
        )
        self.register_buffer("center", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("mass", torch.zeros(components, dtype=torch.float64))
        self.register_buffer("reseeded", torch.zeros((), dtype=torch.long))

    @property
    def means(self) -> Tensor:
        """Means ``(K, D)`` in units of the embeddings."""
        return self.center.to(self.locations) + self.scale.to(self.locations) * self.locations

    def forward(self, dtype: torch.dtype | None = None) -> GaussianMixture:
        """The mixture of the parameters, with gradient; see :class:`TrainableDensity`."""
        dtype = dtype or self.locations.dtype
        # The graph needs copies, because re-seeding writes the parameters before the caller's backward pass.
        values = {name: value.clone() for name, value in self.factors.items()}
        covariance = self.form.from_unconstrained(
            values, self.locations.shape[1], scale=self.scale.to(self.locations), floor=self.floor
        )
        weights = self.logits.log_softmax(dim=0)
        return GaussianMixture(weights.to(dtype), self.means.to(dtype), covariance.to(dtype), validate_args=False)

    def rare_work(self, z: Tensor, responsibilities: Tensor | None) -> Tensor:
        """Whether a component will be dead after the update."""
        return dead_components(self._next_mass(responsibilities)).any()

    def _begin(self, z: Tensor) -> None:
        centres = find_centres(z, len(self.mass), step_generator(self.seed, self.counters["updates"]))
        count = len(centres.means)
        self.center.copy_(centres.total_mean)
        self.scale.copy_(centres.total_variance.mean().sqrt().clamp_min(math.sqrt(MIN_VARIANCE)))
        self.mass.zero_()[:count] = centres.found.to(self.mass) / centres.found.sum()
        self.logits.zero_()
        self.locations.zero_()[:count] = torch.where(centres.found[:, None], self._standardised(centres.means), 0.0)
        deviation = (centres.variance.sqrt() / self.scale - self.floor).clamp_min(_LEAST_DEVIATION)
        for name, value in self.factors.items():
            value.zero_()
            if name == "deviations":
                value.copy_(deviation + torch.log(-torch.expm1(-deviation)))  # the inverse of softplus
            if name == "factor":  # a factor of zeros would have no gradient
                columns = torch.arange(self.locations.shape[1], device=value.device) % self.rank
                value.copy_((0.1 * deviation * F.one_hot(columns, self.rank)).flatten())

    def _learn(self, z: Tensor, responsibilities: Tensor | None, rare: bool) -> None:
        self.mass.copy_(self._next_mass(responsibilities))
        if rare:
            self._reseed(z)

    def _next_mass(self, responsibilities: Tensor | None) -> Tensor:
        assert responsibilities is not None
        return self.mass.lerp(responsibilities.mean(dim=0).to(self.mass), self.next_step)

    def _reseed(self, z: Tensor) -> None:
        """Move dead components onto badly explained samples, at the mean weight and the median spread."""
        generator = step_generator(self.seed, self.counters["updates"])
        index, points, moved, mass = reseeding(z, self.mass, self.means, generator)
        weight = self.logits.logsumexp(dim=0) + math.log(mass)
        self.locations[index] = torch.where(moved[:, None], self._standardised(points), self.locations[index])
        self.logits[index] = torch.where(moved, weight, self.logits[index])
        self.mass[index] = torch.where(moved, mass, self.mass[index])
        self.reseeded += moved.sum()
        for name, value in self.factors.items():
            if len(value) > 1 and name in ("deviations", "off_diagonal"):
                fresh = value.median(dim=0).values if name == "deviations" else torch.zeros_like(value[0])
                value[index] = torch.where(moved[:, None], fresh, value[index])

    def _standardised(self, points: Tensor) -> Tensor:
        return ((points.to(self.center) - self.center) / self.scale).to(self.locations)
