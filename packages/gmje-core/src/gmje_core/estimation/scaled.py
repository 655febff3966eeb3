r"""EM for a joint mixture with scales, on pairs of frozen embeddings: how a criterion's density is fitted in the end.

Everything is a function; rows are whitened first, so that float32 suffices for products and float64 holds the sums.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gmje_core.densities.scaled import ScaledJointMixture
from gmje_core.errors import BatchSizeError
from gmje_core.estimation.scaled_em import Components, Expectation, Sums, expect, gather, maximise
from gmje_core.estimation.seeding import kmeans_plus_plus, move_to_means, nearest_centre, step_generator
from gmje_core.linalg import safe_cholesky, triangular_inverse

__all__ = ["SCALES", "ScaledFit", "calibrate_conditional", "fit_scaled_mixture", "refit_scales"]

#: Scales that context and conditional may have, about a factor of 1.35 apart.
SCALES = (0.2, 0.3, 0.42, 0.6, 0.8, 1.0, 1.3, 1.7, 2.3, 3.2, 4.5, 7.0)

# Rows drawn for each choice of k-means++.
_TRIALS = 4
# A row's components are searched among all in every fourth round, and among its nearest ones in between.
_FULL_EVERY, _NEAREST = 4, 6
# Rounds and pseudo-counts of the table's fit to the validation pairs.
_TABLE_ROUNDS, _TABLE_PRIOR = 30, 5.0
# Factors of the conditional covariances that are tried; held-out pairs, samples of each and pairs at a time for it.
_FACTORS = (1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.7)
_RANKED, _RANKS, _RANKED_ROWS = 1000, 20, 50
# Held-out pairs whose scores are held at a time.
_ROWS = 512


@dataclass(frozen=True)
class Whitening:
    """An affine map that gives a view zero mean and unit covariance.

    Attributes:
        mean: ``(d,)`` float64.
        tril: ``(d, d)`` float64 factor of the covariance.
    """

    mean: Tensor
    tril: Tensor

    @classmethod
    def of(cls, z: Tensor) -> "Whitening":
        """The whitening of embeddings ``(N, d)``."""
        z = z.double()
        mean = z.mean(dim=0)
        covariance = (z - mean).T @ (z - mean) / len(z)
        ridge = (1e-9 * covariance.diagonal().mean()).clamp_min(1e-24)
        return cls(mean, safe_cholesky(covariance + ridge * torch.eye(len(mean)).to(covariance)))

    def apply(self, z: Tensor) -> Tensor:
        """Whitened rows ``(N, d)``, float32."""
        return ((z.double() - self.mean) @ triangular_inverse(self.tril).T).float()


@dataclass(frozen=True)
class ScaledFit:
    """A fitted density and how it came about.

    Attributes:
        density: The density, in the units of the embeddings.
        log_prob: Mean joint log-density of the training pairs in nats, before the last round.
        validation_log_prob: The same of the validation pairs, after it.
        conditional_factor: Factor that the covariances of the conditional were enlarged by to be calibrated; see
            :func:`calibrate_conditional`.
    """

    density: ScaledJointMixture
    log_prob: float
    validation_log_prob: float
    conditional_factor: float = 1.0


@torch.no_grad()
def fit_scaled_mixture(
    context: Tensor,
    target: Tensor,
    validation: tuple[Tensor, Tensor],
    *,
    components: int = 60,
    shrinkage: float = 64.0,
    rounds: int = 14,
    passes: int = 1,
    exchangeable: bool = False,
    unit_norm: bool = False,
    seed: int = 0,
) -> ScaledFit:
    r"""Fit a joint mixture with scales to pairs of embeddings by EM.

    An E-step gives every row responsibilities of the components and the expected inverse scales of its context and of
    its conditional, :math:`E[1/\alpha]` and :math:`E[1/\beta]`, which weigh the row in the M-step as in EM for
    Student's distribution (Peel and McLachlan, 2000). Context covariances and the moments of the pairs are shrunk
    toward the pooled ones of all components by ``shrinkage`` pseudo-observations (inverse-Wishart). In the second half
    of the rounds the sums are averaged over rounds. The table of scales is fitted once more to the validation pairs:
    distances of training pairs are a little small.

    Args:
        context: ``(N, d_c)`` training pairs.
        target: ``(N, d_t)``.
        validation: Pairs of other items, ``(M, d_c)`` and ``(M, d_t)``.
        components: ``K``, the number of factors.
        shrinkage: Pseudo-observations of the pooled covariance.
        rounds: Rounds of EM.
        passes: The pairs are so many blocks of the same items in the same order; each round then pairs the contexts of
            a block with the targets of another.
        exchangeable: Whether either view may be the context; the views then change places every other round.
        unit_norm: Passed on to :class:`ScaledJointMixture`.
        seed: Seed of the start.

    Returns:
        The density, and its mean log-densities.

    Raises:
        BatchSizeError: fewer than two pairs for a component, too few validation pairs, or passes that do not divide
            the pairs.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> context = torch.randn(600, 2)
        >>> target = context + 0.1 * torch.randn(600, 2) * torch.rand(600, 1).reciprocal().clamp_max(9)   # heavy tails
        >>> fit = fit_scaled_mixture(context[:500], target[:500], (context[500:], target[500:]), components=2)
        >>> fit.density
        ScaledJointMixture(factors=2, context_scales=12, target_scales=12, context_dim=2, target_dim=2)
    """
    if len(context) < 2 * components or len(validation[0]) < 2:
        raise BatchSizeError(
            f"two pairs for each of {components} components and two validation pairs are needed, but there are "
            f"{len(context)} and {len(validation[0])}"
        )
    if len(context) % passes:
        raise BatchSizeError(f"{passes} passes over the same items do not make {len(context)} pairs")
    if exchangeable:
        whiten_context = whiten_target = Whitening.of(torch.cat([context, target]))
    else:
        whiten_context, whiten_target = Whitening.of(context), Whitening.of(target)
    x, y = whiten_context.apply(context), whiten_target.apply(target)
    scales = torch.tensor(SCALES).to(x)
    # One point an item, so that its pairs begin together.
    items = torch.cat([context, target], dim=1).float().unflatten(0, (passes, -1)).mean(dim=0)
    assigned = _clusters(items, components, step_generator(seed, 0)).repeat(passes)
    responsibilities = F.one_hot(assigned, components).float()
    # Counts of a table that is spread about scale one.
    spread = torch.exp(-(scales.log()[:, None].square() + scales.log().square()))
    uniform = torch.ones_like(responsibilities)
    start = Expectation(
        x.new_zeros(len(x)), responsibilities, spread.expand(components, -1, -1).clone(), uniform, uniform
    )
    references = x.new_zeros(components, x.shape[1]), y.new_zeros(components, y.shape[1])
    first = maximise(gather(x, y, start, *references), *references, scales, shrinkage)
    references = first.context_means, first.target_means
    found = first
    candidates: Tensor | None = None
    sums: Sums | None = None
    log_prob = 0.0
    for index in range(rounds):
        turn = (index // 2 if exchangeable else index) % passes
        met = y.unflatten(0, (passes, -1)).roll(turn, dims=0).flatten(0, 1)
        a, b = (met, x) if exchangeable and index % 2 else (x, met)
        full = index % _FULL_EVERY == 0
        step = expect(found, a, b, None if full else candidates)
        log_prob = float(step.log_prob.double().mean())
        if full:
            # Of all the pairs of an item: it will meet other views.
            best = step.responsibilities.unflatten(0, (passes, -1)).amax(dim=0)
            candidates = _nearest(best).repeat(passes, 1)
        fresh = gather(a, b, step, *references)
        rate = 1.0 if sums is None or index < rounds // 2 else 1 / (index - rounds // 2 + 1)
        sums = fresh if sums is None else sums.mixed(fresh, rate)
        found = maximise(sums, *references, scales, shrinkage)
    volume = -float(whiten_context.tril.diagonal().log().sum() + whiten_target.tril.diagonal().log().sum())
    density = refit_scales(_in_units(found, whiten_context, whiten_target, unit_norm), *validation)
    return ScaledFit(density, log_prob + volume, float(density.log_prob(*validation).double().mean()))


@torch.no_grad()
def refit_scales(density: ScaledJointMixture, context: Tensor, target: Tensor) -> ScaledJointMixture:
    """The density with scales fitted to held-out pairs by EM: one factor for each pair of scales, on all tables.

    Weights and covariances stay. Distances of the pairs that a density was fitted to are a little small, so that its
    scales are too sure of other pairs.

    Args:
        density: The density.
        context: ``(M, d_c)`` pairs that it was not fitted to.
        target: ``(M, d_t)``.
    """
    log_weights = density.log_weights
    share = log_weights.exp().sum(dim=(1, 2))
    prior = log_weights.exp().sum(dim=0)
    scores_context, scores_target = density.view_scores(context, target)
    for _ in range(_TABLE_ROUNDS):
        counts = _TABLE_PRIOR * prior
        for part_context, part_target in zip(scores_context.split(_ROWS), scores_target.split(_ROWS), strict=True):
            joint = part_context.unsqueeze(-1) + part_target.unsqueeze(-2) + log_weights
            counts = counts + joint.flatten(1).softmax(dim=1).view_as(joint).sum(dim=(0, 1))
        tables = log_weights.exp() * (counts / counts.sum() / log_weights.exp().sum(dim=0))
        log_weights = (share[:, None, None] * tables / tables.sum(dim=(1, 2), keepdim=True)).log()
    return density.with_log_weights(log_weights)


@torch.no_grad()
def calibrate_conditional(
    density: ScaledJointMixture, context: Tensor, target: Tensor, *, seed: int = 0
) -> ScaledJointMixture:
    """The density with its conditional covariances enlarged by one factor, so that it is as sure as it is right.

    The rank of a target's log-density among those of samples of its conditional is uniform where the conditional is
    right. The factor is the one, of a few between 1 and 1.7, whose mean rank on held-out pairs is nearest a half.

    Args:
        density: The density.
        context: ``(M, d_c)`` pairs that it was not fitted to, of which at most a thousand are used.
        target: ``(M, d_t)``.
        seed: Seed of the samples.
    """
    chosen, least = density, float("inf")
    for factor in _FACTORS:
        tried = density.with_conditional_factor(factor)
        excess = _mean_rank(tried, context[:_RANKED], target[:_RANKED], seed) - 0.5
        if abs(excess) < least:
            chosen, least = tried, abs(excess)
        if excess < 0:
            break
    return chosen


def _mean_rank(density: ScaledJointMixture, context: Tensor, target: Tensor, seed: int) -> float:
    """Mean share of a conditional's samples that are likelier than the target: a half where it is calibrated."""
    likelier, count = 0.0, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # PyTorch's distributions take no generator.
        for part_context, part_target in zip(context.split(_RANKED_ROWS), target.split(_RANKED_ROWS), strict=True):
            posterior = density.condition(part_context)
            samples = posterior.log_prob(posterior.sample((_RANKS,)))
            likelier += float((samples > posterior.log_prob(part_target.to(samples))).sum())
            count += samples.numel()
    return likelier / count


def _in_units(model: Components, context: Whitening, target: Whitening, unit_norm: bool) -> ScaledJointMixture:
    """The density of the embeddings from that of the whitened rows."""
    parts = [part.double() for part in (model.context_means, model.target_means, model.context_tril)]
    gain = target.tril @ model.gain.double() @ triangular_inverse(context.tril)
    density = ScaledJointMixture(
        model.log_weights.double(),
        parts[0] @ context.tril.T + context.mean,
        parts[1] @ target.tril.T + target.mean,
        context.tril @ parts[2],
        gain,
        target.tril @ model.target_tril.double(),
        model.scales.double(),
        model.scales.double(),
        unit_norm=unit_norm,
    )
    return density.to(torch.float32)


def _clusters(rows: Tensor, components: int, generator: torch.Generator) -> Tensor:
    """``(N,)`` nearest centre of every row, after greedy k-means++ and rounds of Lloyd's algorithm."""
    index, _ = kmeans_plus_plus(rows, components, generator=generator, trials=_TRIALS)
    return nearest_centre(rows, move_to_means(rows, rows[index]))


def _nearest(responsibilities: Tensor) -> Tensor:
    """``(N, K)`` the components of the largest responsibilities of each row."""
    count = min(_NEAREST, responsibilities.shape[1])
    index = responsibilities.topk(count, dim=1).indices
    chosen = torch.zeros_like(responsibilities, dtype=torch.bool).scatter_(1, index, value=True)
    return chosen & (responsibilities > 1e-20)
