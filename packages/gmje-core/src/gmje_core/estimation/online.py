"""A mixture that follows a stream of batches by online EM, from sufficient statistics to parameters."""

from typing import Literal

import torch
from torch import Tensor

from gmje_core.densities.covariance import Covariance, covariance_class
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.estimation.moments import MIN_VARIANCE, batch_moments, merge_moments, pooled_covariance
from gmje_core.estimation.seeding import dead_components, find_centres, reseeding, step_generator
from gmje_core.estimation.shrinkage import shrink_covariances
from gmje_core.estimation.trainable import TrainableDensity

__all__ = ["MomentType", "OnlineMixture"]

#: Forms of covariance that running second moments determine.
MomentType = Literal["full", "diag", "spherical"]


class OnlineMixture(TrainableDensity):
    r"""Moments of ``K`` components on :math:`\mathbb{R}^D`, updated batch by batch.

    The statistics are :math:`s \leftarrow (1-\gamma)\, s + \gamma\,(r, r z, r z z^\top)` (Cappé and Moulines,
    2009), kept centred and in float64. The parameters are their maximum a posteriori under a Dirichlet prior on the
    weights and an inverse-Wishart prior on the covariances, centred on the isotropic pooled one, so that no
    component turns singular. Components begin at rows that k-means++ draws from the first batch; components that no
    sample belongs to any more are moved onto badly explained samples.

    Args:
        components: Number of components ``K``.
        dim: Dimension ``D`` of a row.
        covariance_type: ``"full"``, ``"diag"`` or ``"spherical"``.
        tied: Whether all components share one covariance.
        weight_prior: Pseudo-observations of each component in the Dirichlet prior of the weights.
        covariance_prior: Pseudo-observations of each component in the inverse-Wishart prior of the covariances;
            ``None`` for 2, and ``D`` where the covariances are full.
        variance_floor: Number added to the variances, in units of the pooled variance of an embedding dimension.
        step: :math:`\gamma` in ``(0, 1]``; ``None`` for ``(t + 2)^-0.6``, which converges where embeddings are fixed.
        seed: Seed of the start and of re-seeding.

    Examples:
        >>> z = torch.tensor([[-3.0], [3.0]])[torch.arange(64) % 2]
        >>> density = OnlineMixture(2, 1, covariance_type="spherical", tied=False, weight_prior=1.0,
        ...                         covariance_prior=2.0, variance_floor=1e-4)
        >>> density.start(z)
        >>> for _ in range(50):
        ...     density.update(z, density(z.dtype).responsibilities(z))
        >>> density().means.flatten().sort().values.round(decimals=1)
        tensor([-3.,  3.], dtype=torch.float64)
    """

    mass: Tensor
    means: Tensor
    second: Tensor
    total_mean: Tensor
    total_variance: Tensor
    inverse_count: Tensor
    reseeded: Tensor

    def __init__(
        self,
        components: int,
        dim: int,
        *,
        covariance_type: str,
        tied: bool,
        weight_prior: float,
        covariance_prior: float | None,
        variance_floor: float,
        step: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(step)
        self.form, self.tied = covariance_class(covariance_type), tied
        if covariance_prior is None:
            covariance_prior = 2.0 if self.diagonal else float(dim)
        self.weight_prior, self.covariance_prior = weight_prior, covariance_prior
        self.variance_floor, self.seed = variance_floor, seed
        shape = (components, dim) if self.diagonal else (components, dim, dim)
        self.register_buffer("mass", torch.zeros(components, dtype=torch.float64))
        self.register_buffer("means", torch.zeros(components, dim, dtype=torch.float64))
        self.register_buffer("second", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("total_mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("total_variance", torch.ones(dim, dtype=torch.float64))
        self.register_buffer("inverse_count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("reseeded", torch.zeros((), dtype=torch.long))

    @property
    def diagonal(self) -> bool:
        """Whether only the diagonals of the second moments are kept."""
        return self.form.diagonal_moments

    @property
    def counts(self) -> Tensor:
        """``(K,)`` effective number of observations of each component."""
        return self.mass / self.inverse_count.clamp_min(torch.finfo(torch.float64).tiny)

    def log_weights(self) -> Tensor:
        """``(K,)`` normalised log-weights; ``weight_prior > 0`` keeps them finite for unused components."""
        counts = self.counts + self.weight_prior
        return (counts / counts.sum()).clamp_min(torch.finfo(torch.float32).tiny).log()

    def covariance(self) -> Covariance:
        """Maximum a posteriori covariances, with a ``K`` axis of size 1 where tied."""
        pooled = pooled_covariance(self.counts, self.second)
        floor = self.variance_floor * self.total_variance.mean().clamp_min(MIN_VARIANCE)
        isotropic = (pooled if self.diagonal else pooled.diagonal()).mean() + floor
        second, counts = (pooled[None], self.counts.sum()[None]) if self.tied else (self.second, self.counts)
        if self.diagonal:
            posterior = shrink_covariances(second, counts, isotropic, self.covariance_prior)
            return self.form.from_second_moments(posterior, validate=False).add_diagonal(floor)
        eye = torch.eye(second.shape[-1]).to(second)
        posterior = shrink_covariances(second, counts, isotropic * eye, self.covariance_prior)
        return self.form.from_second_moments(posterior + floor * eye, validate=False)

    def forward(self, dtype: torch.dtype | None = None) -> GaussianMixture:
        """The maximum a posteriori mixture of the statistics; see :class:`TrainableDensity`."""
        dtype = dtype or self.means.dtype
        covariance = self.covariance().to(dtype)
        return GaussianMixture(self.log_weights().to(dtype), self.means.to(dtype), covariance, validate_args=False)

    def rare_work(self, z: Tensor, responsibilities: Tensor | None) -> Tensor:
        """Whether a component will be dead after the update."""
        assert responsibilities is not None
        usage = responsibilities.to(self.mass).sum(dim=0) / len(z)
        step = self.next_step
        return dead_components((1 - step) * self.mass + step * usage).any()

    def observe(self, z: Tensor, responsibilities: Tensor, step: float) -> None:
        """Take one step of online EM on a batch ``(B, D)`` with its responsibilities ``(B, K)``."""
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
        # The effective sample size of weighted observations is one over the sum of their squared weights.
        self.inverse_count.copy_((1 - step) ** 2 * self.inverse_count + step**2 / z.shape[0])

    def reseed(self, z: Tensor, generator: torch.Generator) -> None:
        """Move dead components onto badly explained samples of ``z`` (B, D), with the pooled isotropic covariance."""
        choice = reseeding(z, self.mass, self.means, generator)
        shape = (-1, *[1] * (self.second.ndim - 1))
        pooled = pooled_covariance(self.mass, self.second)
        variance = (pooled if self.diagonal else pooled.diagonal()).mean()
        index, moved = choice.places, choice.moved
        self.means[index] = torch.where(moved[:, None], choice.points.to(self.means), self.means[index])
        self.second[index] = torch.where(moved.view(shape), self._isotropic(variance), self.second[index])
        self.mass[index] = torch.where(moved, choice.mass, self.mass[index])
        self.reseeded += moved.sum()

    def _begin(self, z: Tensor) -> None:
        centres = find_centres(z, len(self.mass), step_generator(self.seed, self.counters["updates"]))
        self.start_at(centres.means, centres.variance, z, found=centres.found)

    @torch.no_grad()
    def start_at(self, means: Tensor, variance: Tensor, z: Tensor, *, found: Tensor | None = None) -> None:
        """Begin at given centres; the first components share the mass and the rest are empty.

        Args:
            means: ``(m, D)``, ``m`` at most ``K``.
            variance: Scalar, the variance of a dimension within each component.
            z: ``(B, D)``, a first batch.
            found: ``(m,)`` whether each of the means is a centre; ``None`` where all are.
        """
        count = len(means)
        found = torch.ones(count, dtype=torch.bool, device=means.device) if found is None else found
        self.mass.zero_()[:count] = found.to(self.mass) / found.sum()
        self.means.zero_()[:count] = torch.where(found[:, None], means.to(self.means), 0.0)
        self.second.copy_(self._isotropic(variance))
        self.total_mean.copy_(z.double().mean(dim=0))
        self.total_variance.copy_(z.double().var(dim=0, unbiased=False).clamp_min(MIN_VARIANCE))
        self.inverse_count.fill_(1 / len(z))
        self.counters["started"] = 1

    def _learn(self, z: Tensor, responsibilities: Tensor | None, rare: bool) -> None:
        assert responsibilities is not None
        self.observe(z, responsibilities, self.next_step)
        if rare:
            self.reseed(z, step_generator(self.seed, self.counters["updates"]))

    def _isotropic(self, variance: Tensor) -> Tensor:
        dim = self.means.shape[1]
        return variance.to(self.second) * (torch.ones(dim) if self.diagonal else torch.eye(dim)).to(self.second)
