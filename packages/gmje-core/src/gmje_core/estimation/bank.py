r"""A bank of past pairs as weighted particles, a kernel mixture that Sequential Monte Carlo keeps representative."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gmje_core.densities.covariance import Covariance, covariance_class
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import NotFittedError
from gmje_core.estimation.moments import MIN_VARIANCE
from gmje_core.estimation.seeding import step_generator
from gmje_core.estimation.trainable import TrainableDensity

__all__ = ["ParticleBank", "effective_sample_size", "rejuvenate", "systematic_resample"]

# Weights closer than this share of each other count as equal, so that rounding does not decide who is replaced.
_TIE = 1e-9


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""Effective sample size :math:`1 / \sum_m w_m^2` of the normalised weights: how many particles still count.

    Args:
        log_weights: ``(M,)`` cumulative log-weights, normalised here.

    Returns:
        Scalar between 1 and ``M``.

    Examples:
        >>> effective_sample_size(torch.zeros(4))
        tensor(4.)
        >>> effective_sample_size(torch.tensor([0.0, -1000.0]))
        tensor(1.)
    """
    return (-(2 * log_weights.log_softmax(dim=0)).logsumexp(dim=0)).exp()


def systematic_resample(log_weights: Tensor, uniform: float | Tensor) -> Tensor:
    r"""Indices drawn by systematic resampling, at the points :math:`(u + m) / M` of the cumulated weights.

    Each particle is drawn :math:`\lfloor M w \rfloor` or :math:`\lceil M w \rceil` times (Kitagawa, 1996).

    Args:
        log_weights: ``(M,)``, normalised here.
        uniform: :math:`u \in [0, 1)`, a number or a scalar tensor.

    Returns:
        ``(M,)`` indices, not decreasing.

    Examples:
        >>> systematic_resample(torch.tensor([0.5, 0.0, 0.25, 0.25]).log(), 0.5).tolist()
        [0, 0, 2, 3]
    """
    count = len(log_weights)
    cumulated = log_weights.double().softmax(dim=0).cumsum(dim=0)
    points = (torch.arange(count, dtype=torch.float64, device=log_weights.device) + uniform) / count
    # Rounding may leave the last sum below the last point.
    return torch.searchsorted(cumulated, points, right=True).clamp_max(count - 1)


def rejuvenate(particles: Tensor, strength: float, noise: Tensor) -> Tensor:
    r"""Move particles apart by jitter that keeps their mean and covariance (Liu and West, 2001).

    .. math:: x' = \sqrt{1-h^2}\,x + (1-\sqrt{1-h^2})\,m + h L \epsilon

    The particles shrink toward their mean ``m`` by as much as the noise spreads them; ``L`` is the factor of their
    covariance.

    Args:
        particles: ``(M, D)``, of equal weight.
        strength: :math:`h \in [0, 1]`.
        noise: ``(M, D)`` standard normal draws.

    Returns:
        ``(M, D)``.

    Examples:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> rejuvenate(x, 0.6, torch.zeros(2, 1))      # shrunk, before the noise spreads them
        tensor([[-0.8000],
                [ 0.8000]])
    """
    mean = particles.mean(dim=0)
    centred = particles - mean
    # With s = centred^T g / sqrt(M), g standard normal, s has their covariance, singular or not: no factor needed.
    mixing = noise @ _covariance_root(centred)
    shrink = math.sqrt(1 - strength**2)
    return mean + shrink * centred + strength * mixing


def _covariance_root(centred: Tensor) -> Tensor:
    """``(D, D)`` symmetric root of the covariance of centred rows, which may be singular."""
    covariance = (centred.T @ centred / len(centred)).double()
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root.to(centred.dtype)


def _column_sums(responsibilities: Tensor) -> Tensor:
    """``(n,)`` sums of the columns ``(B, n)`` in float64, by a product in their own precision."""
    return (responsibilities.new_ones(len(responsibilities)) @ responsibilities).double()


class Placement(NamedTuple):
    """The places of the bank that a batch goes to, and all weights afterwards.

    Attributes:
        places: ``(b,)`` indices into the bank.
        log_weights: ``(n,)`` of the places in use afterwards.
    """

    places: Tensor
    log_weights: Tensor


class ParticleBank(TrainableDensity):
    r"""The kernel mixture :math:`q(z) = \sum_m w_m N(z; x_m, H)` on past pairs, with a running bandwidth ``H``.

    One update moves the weights by the importance ratio of the batch to the bank, makes room for the batch where the
    lightest particles are (the oldest among equals), and resamples when few particles still count.

    Args:
        particles: Size ``M`` of the bank.
        dim: Dimension ``D`` of a particle.
        covariance_type: Form of the bandwidth, shared by all particles.
        weighting: Strength :math:`\eta` of the reweighting, in ``[0, 1]``.
        age_decay: Share of its weight that a particle loses at each step, in ``[0, 1)``.
        ess_threshold: Share of the bank below which the effective sample size leads to resampling.
        rejuvenation: Strength of the jitter after resampling, in ``[0, 1]``.
        step: Step of the running bandwidth, in ``(0, 1]``.
        variance_floor: Number added to the variances of the bandwidth, in units of the mean variance of an
            embedding dimension.
        seed: Seed of resampling and jitter.
    """

    particles: Tensor
    log_weights: Tensor
    born: Tensor
    bandwidth: Tensor
    spread: Tensor

    def __init__(
        self,
        particles: int,
        dim: int,
        *,
        covariance_type: str,
        weighting: float,
        age_decay: float,
        ess_threshold: float,
        rejuvenation: float,
        step: float,
        variance_floor: float,
        seed: int,
    ) -> None:
        # Particles held, pairs seen, and how often the bank was resampled.
        super().__init__(step, count=0, seen=0, resampled=0)
        self.form = covariance_class(covariance_type)
        self.weighting, self.age_decay = weighting, age_decay
        self.ess_threshold, self.rejuvenation = ess_threshold, rejuvenation
        self.variance_floor, self.seed = variance_floor, seed
        shape = (dim,) if self.form.diagonal_moments else (dim, dim)
        self.register_buffer("particles", torch.zeros(particles, dim))
        self.register_buffer("log_weights", torch.zeros(particles, dtype=torch.float64))
        self.register_buffer("born", torch.zeros(particles, dtype=torch.long))
        self.register_buffer("bandwidth", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("spread", torch.ones((), dtype=torch.float64))

    @property
    def count(self) -> int:
        """Number of particles held."""
        return self.counters["count"]

    @property
    def started(self) -> bool:
        """Whether there is a particle to score with."""
        return self.count > 0

    def forget(self) -> None:
        """Return to an empty bank, as before :meth:`start`."""
        super().forget()
        self.counters["count"] = 0

    def forward(self, dtype: torch.dtype | None = None) -> GaussianMixture:
        """The weighted kernel mixture on a copy of the particles; see :class:`TrainableDensity`.

        Raises:
            NotFittedError: the bank is empty.
        """
        if not self.started:
            raise NotFittedError("the bank holds no particles yet: call the criterion on a batch of embeddings first")
        dtype = dtype or self.particles.dtype
        weights = self.log_weights[: self.count].to(dtype)
        particles = self.particles[: self.count].to(dtype, copy=True)
        return GaussianMixture(weights, particles, self.kernel().to(dtype), validate_args=False)

    def kernel(self) -> Covariance:
        """The bandwidth, shared by all particles."""
        floor = self.variance_floor * self.spread
        if not self.form.diagonal_moments:
            floor = floor * torch.eye(len(self.bandwidth)).to(self.bandwidth)
        return self.form.from_second_moments((self.bandwidth + floor)[None], validate=False)

    def rare_work(self, z: Tensor, responsibilities: Tensor | None) -> Tensor:
        """Whether the effective sample size will be below its threshold."""
        weights = self._place(min(len(z), len(self.particles)), self._reweighted(responsibilities)).log_weights
        return effective_sample_size(weights) < self.ess_threshold * len(weights)

    def _begin(self, z: Tensor) -> None:
        """Take the bandwidth of Silverman's rule on the first batch; there is no particle yet."""
        variance = z.double().var(dim=0, unbiased=False)
        self.spread.copy_(variance.mean().clamp_min(MIN_VARIANCE))
        variance = variance.clamp_min(MIN_VARIANCE)
        factor = len(z) ** (-2 / (z.shape[1] + 4))
        self.bandwidth.copy_(factor * (variance if self.form.diagonal_moments else torch.diag(variance)))

    def _learn(self, z: Tensor, responsibilities: Tensor | None, rare: bool) -> None:
        if responsibilities is not None:
            self._follow_bandwidth(z, responsibilities)
        fresh = z[-len(self.particles) :]
        placement = self._place(len(fresh), self._reweighted(responsibilities))
        self.particles[placement.places] = fresh.to(self.particles)
        self.log_weights[: len(placement.log_weights)] = placement.log_weights
        self.born[placement.places] = self.counters["seen"] + torch.arange(len(fresh), device=z.device)
        self.counters["seen"] += len(fresh)
        self.counters["count"] = len(placement.log_weights)
        if rare:
            self._resample(step_generator(self.seed, self.counters["updates"]))

    def _follow_bandwidth(self, z: Tensor, responsibilities: Tensor) -> None:
        """Take one step of EM on the bandwidth, on samples that the bank does not hold yet."""
        centre = z.double().mean(dim=0)
        x, bank = z.double() - centre, self.particles[: self.count].double() - centre
        # The large product stays in the batch's precision, about the batch's mean: its errors average out over rows.
        expected, usage = (responsibilities @ bank.to(responsibilities)).double(), _column_sums(responsibilities)
        if self.form.diagonal_moments:
            within = (x.square() - 2 * x * expected).mean(dim=0) + usage @ bank.square() / len(x)
            within = within.clamp_min(0)
        else:
            cross = x.T @ expected
            within = (x.T @ x - cross - cross.T + (bank * usage[:, None]).T @ bank) / len(x)
        self.bandwidth.lerp_(within, self.next_step)
        self.spread.lerp_(x.square().mean().clamp_min(MIN_VARIANCE), self.next_step)

    def _reweighted(self, responsibilities: Tensor | None) -> Tensor:
        """``(n,)`` log-weights after a step of online EM: the importance ratio times the weight is the mean share."""
        old = self.log_weights[: self.count]
        if responsibilities is None:
            return old
        weights = torch.lerp(old.exp(), _column_sums(responsibilities) / len(responsibilities), self.weighting)
        return weights.clamp_min(torch.finfo(torch.float64).tiny).log().log_softmax(dim=0)

    def _place(self, fresh: int, log_weights: Tensor) -> Placement:
        """Where ``fresh`` new particles go, the empty places first and then those of the lightest, oldest ones."""
        count = self.count
        empty = min(fresh, len(self.particles) - count)
        total = count + empty
        # The lightest come first, and the oldest among equals: two stable sorts, the second on rounded weights.
        by_age = torch.argsort(self.born[:count], stable=True)
        rounded = (log_weights[by_age] / _TIE).round()
        lightest = by_age[torch.argsort(rounded, stable=True)][: fresh - empty]
        places = torch.cat([torch.arange(count, total, device=lightest.device), lightest])
        kept = (1 - self.age_decay) * (total - fresh)
        old = torch.full_like(self.log_weights[:total], -math.inf)
        old[:count] = log_weights
        old[lightest] = -math.inf
        if kept:
            old = old.log_softmax(dim=0) + math.log(kept / (kept + fresh))
        old[places] = -math.log(kept + fresh)
        return Placement(places, old)

    def _resample(self, generator: torch.Generator) -> None:
        count = self.count
        uniform = torch.rand((), generator=generator, dtype=torch.float64)
        index = systematic_resample(self.log_weights[:count], uniform)
        noise = torch.randn(self.particles[:count].shape, generator=generator, dtype=torch.float64).to(self.particles)
        self.particles[:count] = rejuvenate(self.particles[:count][index], self.rejuvenation, noise)
        self.born[:count] = self.born[:count][index]
        self.log_weights[:count] = -math.log(count)
        self.counters["resampled"] += 1
