r"""GMJE-SMC: a memory bank of weighted particles is the mixture, kept representative by Sequential Monte Carlo.

Past pairs are the components. Each batch reweights them by importance, resamples when few still count, and
replaces the lightest. With uniform weights and first-in-first-out replacement it is MoCo's queue, exactly.
"""

import math

import torch
from torch import Tensor

from gmje_core.checks import check_choice, check_counts, check_positive, check_share
from gmje_core.criteria.base import Criterion
from gmje_core.criteria.channel import NoiseChannel
from gmje_core.densities.covariance import Covariance, DiagonalCovariance, FullCovariance, SphericalCovariance
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.diagnostics import component_usage
from gmje_core.errors import ConfigError, NonFiniteError, NotFittedError
from gmje_core.estimation.moments import MIN_VARIANCE
from gmje_core.estimation.online import MomentType
from gmje_core.estimation.seeding import step_generator
from gmje_core.linalg import safe_cholesky
from gmje_core.objectives import Direction

__all__ = ["GMJESMC", "effective_sample_size", "rejuvenate", "systematic_resample"]

# Weights closer than this share of each other count as equal, so that rounding does not decide who is replaced.
_TIE = 1e-9


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r""":math:`1 / \sum_m w_m^2` of the normalised weights.

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


def systematic_resample(log_weights: Tensor, uniform: float) -> Tensor:
    r"""Indices drawn by systematic resampling, at the points :math:`(u + m) / M` of the cumulated weights.

    Each particle is drawn :math:`\lfloor M w \rfloor` or :math:`\lceil M w \rceil` times (Kitagawa, 1996).

    Args:
        log_weights: ``(M,)``, normalised here.
        uniform: :math:`u \in [0, 1)`.

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
    r"""Jitter that keeps mean and covariance, :math:`x' = \sqrt{1-h^2}\,x + (1-\sqrt{1-h^2})\,m + h L \epsilon`.

    Liu and West (2001): the particles shrink toward their mean ``m`` by as much as the noise spreads them; ``L``
    is the factor of their covariance.

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
    """``(D, D)`` symmetric root of the covariance of centred rows; any rank."""
    covariance = (centred.T @ centred / len(centred)).double()
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root.to(centred.dtype)


class GMJESMC(Criterion):
    r"""Gaussian Mixture Joint Embeddings with a Sequential Monte Carlo memory bank (arXiv 2603.26799).

    The density is a kernel mixture on past pairs, :math:`q(z) = \sum_m w_m N(z; x_m, H)`, its bandwidth ``H``
    fitted prequentially. When a batch arrives it is scored; then

    1. weights move by the importance ratio of the batch to the bank,
       :math:`w_m \leftarrow w_m \big[1 - \eta + \tfrac{\eta}{B} \sum_i N(z_i; x_m, H) / q(z_i)\big]`, a step of
       online EM (the geometric step :math:`w_m \rho_m^\eta` would kill every particle that one batch misses);
    2. the lightest particles, of equal ones the oldest, make room for the batch, each new one of average weight,
       while the old ones fade with age;
    3. if the effective sample size of the cumulative weights is below ``ess_threshold`` of the bank, it is
       resampled systematically and rejuvenated with the moment-preserving jitter of Liu and West.

    The encoder maximises the dependence of the pair in the contrastive limit, in which the own pair is one more
    particle and the kernels are those of the noise channel of variance ``temperature``:

    .. math::
        \mathrm{pmi} = \log N(z_c; z_t, \tau I)
        - \log \Big[ \tfrac{1}{n+1} N(z_c; z_t, \tau I) + \tfrac{n}{n+1} \sum_m w_m N(z_c; x_m^t, \tau I) \Big]

    and the same with the views exchanged; with ``in_batch`` the other pairs of the batch count among the ``n``.
    With ``weighting=0``, ``age_decay=0``, ``in_batch=False`` and unit-norm embeddings, minus it plus
    :math:`\log(n + 1)` is MoCo's loss with a queue of ``particles`` (He et al., 2020).

    Args:
        dim: Embedding size of both views; they are compared in one space, so both have the same.
        particles: Size ``M`` of the bank.
        covariance_type: Form of the bandwidth, shared by all particles: ``"full"``, ``"diag"`` or ``"spherical"``.
        temperature: Variance of the noise channel, in units of the mean squared norm of a view's embeddings.
        weighting: Strength :math:`\eta` of the reweighting, in ``[0, 1]``.
        age_decay: Share of its weight that a particle loses at each step, in ``[0, 1)``.
        ess_threshold: Share of the bank in ``[0, 1]`` below which the effective sample size leads to resampling.
        rejuvenation: Strength ``h`` of the jitter, in ``[0, 1]``.
        in_batch: Whether the other pairs of the batch count as particles in the encoder's loss.
        direction: ``"target"``: each context is compared with targets; ``"context"``: the reverse; or ``"both"``.
        step: Step of the running bandwidth and energy, in ``(0, 1]``.
        variance_floor: Floor of the bandwidth, in units of the mean variance of an embedding dimension.
        seed: Of resampling and jitter; the same on every rank.
        check_every: Steps between automatic collapse checks; 0 for none.

    Raises:
        ConfigError: an argument out of range, or views of different sizes.

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

    bank: Tensor
    log_weights: Tensor
    born: Tensor
    seen: Tensor
    count: Tensor
    bandwidth: Tensor
    spread: Tensor
    resampled: Tensor

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
        in_batch: bool = True,
        direction: Direction = "both",
        step: float = 0.05,
        variance_floor: float = 1e-4,
        seed: int = 0,
        check_every: int = 100,
    ) -> None:
        super().__init__(dim, check_every=check_every)
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
        self.particles, self.covariance_type = particles, covariance_type
        self.weighting, self.age_decay, self.step = weighting, age_decay, step
        self.ess_threshold, self.rejuvenation, self.variance_floor = ess_threshold, rejuvenation, variance_floor
        self.in_batch, self.direction, self.seed = in_batch, direction, seed
        self.channel = NoiseChannel(self.context_dim, self.target_dim, temperature)
        shape = (self.dim, self.dim) if covariance_type == "full" else (self.dim,)
        self.register_buffer("bank", torch.zeros(particles, self.dim))
        self.register_buffer("log_weights", torch.zeros(particles, dtype=torch.float64))
        self.register_buffer("born", torch.zeros(particles, dtype=torch.long))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("bandwidth", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("spread", torch.ones((), dtype=torch.float64))
        self.register_buffer("resampled", torch.zeros((), dtype=torch.long))

    def density(self) -> JointGaussianMixture:
        """The weighted kernel mixture on the particles, detached."""
        count = int(self.count)
        if not count:
            raise NotFittedError("GMJESMC has no particles yet: call it on a batch of embeddings first")
        return JointGaussianMixture(
            self.log_weights[:count].to(self._dtype),
            self.bank[:count].to(self._dtype, copy=True),
            self._kernel().to(self._dtype),
            context_dim=self.context_dim,
        )

    def _loss(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        z = torch.cat([z_context, z_target], dim=1).detach()
        first = not self.count
        if first:
            self._start(z)
        sides = {
            "target": ((z_context, z_target, self.target_dim),),
            "context": ((z_target, z_context, 0),),
            "both": ((z_context, z_target, self.target_dim), (z_target, z_context, 0)),
        }[self.direction]
        loss = torch.stack([self._contrast(*side) for side in sides]).mean()
        with torch.no_grad():
            log_joint = None if first else self.density().joint.component_log_prob(z)
            self._gauge_bank(z, log_joint)
            if self.training:
                self._update(z, log_joint)
        return loss

    def _contrast(self, query: Tensor, key: Tensor, offset: int) -> Tensor:
        """Minus the mean pmi of queries and their own keys, among the particles' keys ``bank[:, offset:]``."""
        # In units of the channel's noise: its square may be beyond float32, and is the same for every kernel.
        scale = self.channel.variances()[0 if offset else 1].sqrt().to(query)
        kernel = SphericalCovariance(query.new_ones(1), query.shape[1])
        query, key = query / scale, key / scale
        own = _log_kernel(query - key, kernel)
        count, rivals = int(self.count), []
        if count:
            keys = self.bank[:count, offset : offset + query.shape[1]].to(query) / scale
            rivals.append(GaussianMixture(self.log_weights[:count].to(query), keys, kernel).log_prob(query))
        total = 1 + count
        parts = [own] + [rival + math.log(count) for rival in rivals]
        if self.in_batch:
            others = GaussianMixture(query.new_zeros(len(key)), key, kernel).component_log_prob(query) + math.log(
                len(key)
            )
            itself = torch.eye(len(key), dtype=torch.bool, device=key.device)
            parts.append(others.masked_fill(itself, torch.finfo(others.dtype).min).logsumexp(dim=1))
            total += len(key) - 1
        scores = torch.stack(parts)
        if not torch.isfinite(scores.detach()).all():
            raise NonFiniteError(
                f"GMJESMC at step {int(self.steps)}: embeddings are so far from each other, in units of the running "
                "noise channel, that squared distances overflow: their scale has jumped"
            )
        return (scores.logsumexp(dim=0) - math.log(total) - own).mean()

    def _kernel(self) -> Covariance:
        """The bandwidth, shared by all particles."""
        floor = self.variance_floor * self.spread
        if self.covariance_type == "full":
            eye = torch.eye(self.dim).to(self.bandwidth)
            return FullCovariance(safe_cholesky(self.bandwidth + floor * eye, name="bandwidth")[None])
        if self.covariance_type == "diag":
            return DiagonalCovariance((self.bandwidth + floor)[None])
        return SphericalCovariance((self.bandwidth.mean() + floor)[None], self.dim)

    @torch.no_grad()
    def _start(self, z: Tensor) -> None:
        """Bandwidth of Silverman's rule on the first batch."""
        variance = z.double().var(dim=0, unbiased=False)
        self.spread.copy_(variance.mean().clamp_min(MIN_VARIANCE))
        variance = variance.clamp_min(MIN_VARIANCE)
        factor = len(z) ** (-2 / (self.dim + 4))
        self.bandwidth.copy_(factor * (torch.diag(variance) if self.covariance_type == "full" else variance))
        self.channel.observe(z, 1.0)

    def _update(self, z: Tensor, log_joint: Tensor | None) -> None:
        """Learn from a batch ``(B, D)`` that was scored by ``log_joint`` (B, n); ``None`` for an empty bank."""
        generator = step_generator(self.seed, int(self.steps))
        if log_joint is not None:
            self._follow_bandwidth(z, log_joint)
            self._reweight(log_joint)
            self.channel.observe(z, self.step)
        self._insert(z[-self.particles :])
        count = int(self.count)
        if effective_sample_size(self.log_weights[:count]) < self.ess_threshold * count:
            self._resample(generator)

    def _follow_bandwidth(self, z: Tensor, log_joint: Tensor) -> None:
        """One step of EM on the bandwidth, on samples that the bank does not hold."""
        responsibilities = log_joint.softmax(dim=1).double()
        x, centre = z.double(), z.double().mean(dim=0)
        x, bank = x - centre, self.bank[: len(log_joint[0])].double() - centre
        expected, usage = responsibilities @ bank, responsibilities.sum(dim=0)
        if self.covariance_type == "full":
            cross = x.T @ expected
            within = (x.T @ x - cross - cross.T + (bank * usage[:, None]).T @ bank) / len(x)
        else:
            within = (x.square() - 2 * x * expected).mean(dim=0) + usage @ bank.square() / len(x)
            within = within.clamp_min(0)
        self.bandwidth.lerp_(within, self.step)
        self.spread.lerp_(x.square().mean().clamp_min(MIN_VARIANCE), self.step)

    def _reweight(self, log_joint: Tensor) -> None:
        """One step of online EM on the weights: the importance ratio times the weight is the mean responsibility."""
        usage = log_joint.softmax(dim=1).double().mean(dim=0)
        weights = torch.lerp(self.log_weights[: len(usage)].exp(), usage, self.weighting)
        self.log_weights[: len(usage)] = weights.clamp_min(torch.finfo(torch.float64).tiny).log().log_softmax(dim=0)

    def _insert(self, z: Tensor) -> None:
        """Put a batch in the empty places, then in those of the lightest, oldest particles."""
        count = int(self.count)
        fresh = min(len(z), self.particles - count)
        total = count + fresh
        # Lightest first, of equal ones the oldest: two stable sorts, the second on rounded weights.
        by_age = torch.argsort(self.born[:count], stable=True)
        rounded = (self.log_weights[:count][by_age] / _TIE).round()
        lightest = by_age[torch.argsort(rounded, stable=True)][: len(z) - fresh]
        places = torch.cat([torch.arange(count, total, device=z.device), lightest])
        kept = (1 - self.age_decay) * (total - len(z))
        old = torch.full_like(self.log_weights[:total], -math.inf)
        old[:count] = self.log_weights[:count]
        old[lightest] = -math.inf
        if kept:
            self.log_weights[:total] = old.log_softmax(dim=0) + math.log(kept / (kept + len(z)))
        self.bank[places] = z.to(self.bank)
        self.log_weights[places] = -math.log(kept + len(z))
        self.born[places] = self.seen + torch.arange(len(z), device=z.device)
        self.seen += len(z)
        self.count.fill_(total)

    def _resample(self, generator: torch.Generator) -> None:
        count = int(self.count)
        uniform = float(torch.rand((), generator=generator, dtype=torch.float64))
        index = systematic_resample(self.log_weights[:count], uniform)
        noise = torch.randn(count, self.dim, generator=generator, dtype=torch.float64).to(self.bank)
        self.bank[:count] = rejuvenate(self.bank[:count][index], self.rejuvenation, noise)
        self.born[:count] = self.born[:count][index]
        self.log_weights[:count] = -math.log(count)
        self.resampled += 1

    def _gauge_bank(self, z: Tensor, log_joint: Tensor | None) -> None:
        count = int(self.count)
        if log_joint is None:
            self._gauge(trace_ratio=1.0, self_scored=0.0, component_usage=1.0, effective_sample_size=0.0, resampled=0.0)
            return
        responsibilities = log_joint.softmax(dim=1)
        distances = self._kernel().to(z.dtype).squared_mahalanobis(z, self.bank[:count].to(z))
        weights = self.log_weights[:count].exp()
        self._gauge(
            trace_ratio=(responsibilities * distances).sum(dim=1).mean() / self.dim,
            self_scored=0.0,
            component_usage=component_usage(weights),
            effective_sample_size=effective_sample_size(self.log_weights[:count]),
            resampled=self.resampled,
        )


def _log_kernel(difference: Tensor, kernel: SphericalCovariance) -> Tensor:
    """Log-density of rows of differences ``(B, d)`` under the kernel."""
    origin = difference.new_zeros(1, difference.shape[1])
    mixture = GaussianMixture(difference.new_zeros(1), origin, kernel)
    return mixture.log_prob(difference)
