"""A mixture that follows a stream of batches by online EM, from sufficient statistics to parameters."""

from typing import Literal

import torch
from torch import Tensor

from gmje_core.densities.covariance import Covariance, LowRankCovariance, covariance_class
from gmje_core.densities.covariance.low_rank import RELATIVE_FLOOR
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError
from gmje_core.estimation.factors import FactorMoments, FactorSums, random_factors
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

    Low-rank components keep :math:`r (z, u)` and :math:`r u u^\top` of the factors ``u`` in the place of
    :math:`r z z^\top`, and its diagonal (Ghahramani and Hinton, 1996): :math:`D (r + 1)` numbers each. The covariance
    of these statistics is low-rank again, and the prior shrinks that one; see
    :meth:`~gmje_core.estimation.factors.FactorMoments.follow`.

    Args:
        components: Number of components ``K``.
        dim: Dimension ``D`` of a row.
        covariance_type: ``"full"``, ``"low_rank"``, ``"diag"`` or ``"spherical"``.
        tied: Whether all components share one covariance.
        weight_prior: Pseudo-observations of each component in the Dirichlet prior of the weights.
        covariance_prior: Pseudo-observations of each component in the inverse-Wishart prior of the covariances;
            ``None`` for 2, ``rank`` more where the covariances are low-rank, and ``D`` where they are full. A component
            without observations has the isotropic covariance, with 0 as well.
        variance_floor: Number added to the variances, in units of the pooled variance of an embedding dimension.
        step: :math:`\gamma` in ``(0, 1]``; ``None`` for ``(t + 2)^-0.6``, which converges where embeddings are fixed.
        rank: Number of columns of the factor of ``"low_rank"``, which needs it.
        seed: Seed of the start and of re-seeding.

    Raises:
        ConfigError: there is no such form, or the rank of ``"low_rank"`` does not lie between 1 and ``D``.

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
    factor: Tensor
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
        rank: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(step)
        self.form, self.tied = covariance_class(covariance_type), tied
        self.rank = 0
        if self.form is LowRankCovariance:
            if rank is None or not 1 <= rank <= dim:
                raise ConfigError(f"rank must lie between 1 and D = {dim} where covariances are low_rank, got {rank}")
            self.rank = rank
        if covariance_prior is None:
            covariance_prior = 2.0 + self.rank if self.diagonal else float(dim)
        self.weight_prior, self.covariance_prior = weight_prior, covariance_prior
        self.variance_floor, self.seed = variance_floor, seed
        shape = (components, dim) if self.diagonal else (components, dim, dim)
        self.register_buffer("mass", torch.zeros(components, dtype=torch.float64))
        self.register_buffer("means", torch.zeros(components, dim, dtype=torch.float64))
        self.register_buffer("second", torch.zeros(shape, dtype=torch.float64))
        if self.rank:
            matrices = 1 if tied else components
            self.register_buffer("factor", torch.zeros(matrices, dim, self.rank, dtype=torch.float64))
        self.register_buffer("total_mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("total_variance", torch.ones(dim, dtype=torch.float64))
        self.register_buffer("inverse_count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("reseeded", torch.zeros((), dtype=torch.long))

    @property
    def diagonal(self) -> bool:
        """Whether only the diagonals of the second moments are kept."""
        return self.form.diagonal_moments or self.form is LowRankCovariance

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
        if self.rank:
            return self.factors_shrunk(self.covariance_prior, isotropic).add_diagonal(floor)
        second, counts = (pooled[None], self.counts.sum()[None]) if self.tied else (self.second, self.counts)
        if self.diagonal:
            posterior = shrink_covariances(second, counts, isotropic, self.covariance_prior)
            return self.form.from_second_moments(posterior, validate=False).add_diagonal(floor)
        eye = torch.eye(second.shape[-1]).to(second)
        posterior = shrink_covariances(second, counts, isotropic * eye, self.covariance_prior)
        return self.form.from_second_moments(posterior + floor * eye, validate=False)

    def factors_shrunk(self, prior_count: Tensor | float, variance: Tensor) -> LowRankCovariance:
        r"""Low-rank covariances of the statistics, averaged with an isotropic one as if that had been observed.

        The result :math:`(n_k (W_k W_k^\top + \mathrm{diag}(v_k)) + \nu_k t I) / (n_k + \nu_k)` is low-rank as well; a
        variance :math:`v_k` is at least a millionth of that of its dimension.

        Args:
            prior_count: Observations :math:`\nu_k` that the isotropic one counts as: one number, or ``(K,)``.
            variance: Variance :math:`t` of a dimension of the isotropic one.
        """
        second, counts = self.second, self.counts
        if self.tied:
            second, counts = pooled_covariance(counts, second)[None], counts.sum()[None]
        noise = torch.maximum(second - self.factor.square().sum(dim=-1), RELATIVE_FLOOR * second)
        share = torch.where(counts > 0, counts / (counts + prior_count), 0.0).sqrt()
        noise = shrink_covariances(noise, counts, variance, prior_count)
        return LowRankCovariance(share[:, None, None] * self.factor, noise, validate=False)

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

    def observe(
        self, z: Tensor, responsibilities: Tensor, step: float, scored: LowRankCovariance | None = None
    ) -> None:
        """Take one step of online EM on a batch.

        Args:
            z: ``(B, D)``.
            responsibilities: ``(B, K)``.
            step: Step in ``(0, 1]``.
            scored: Low-rank covariance that the batch was scored by, where it is another one than :meth:`covariance`.
        """
        z = z.to(self.means)
        old = (self.mass, self.means, self.second)
        if self.rank:
            self._observe_factors(z, responsibilities, step, scored)
        else:
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
        if self.rank and not self.tied:
            fresh = random_factors(self.second[index], self.rank, generator)
            self.factor[index] = torch.where(moved[:, None, None], fresh, self.factor[index])
        self.reseeded += moved.sum()

    def _observe_factors(
        self, z: Tensor, responsibilities: Tensor, step: float, scored: LowRankCovariance | None
    ) -> None:
        covariance = self.covariance() if scored is None else scored.to(self.means.dtype)
        assert isinstance(covariance, LowRankCovariance)
        sums = FactorSums(GaussianMixture(self.log_weights(), self.means, covariance, validate_args=False))
        sums.add(z, responsibilities)
        running = FactorMoments(self.mass, self.means, self.second, self.factor, covariance)
        merged = running.follow(sums.moments(), step)
        self.mass.copy_(merged.mass)
        self.means.copy_(merged.means)
        self.second.copy_(merged.variances)
        self.factor.copy_(merged.cross)

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
        if self.rank:
            generator = step_generator(self.seed, self.counters["updates"])
            self.factor.copy_(random_factors(self.second[: len(self.factor)], self.rank, generator))
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
