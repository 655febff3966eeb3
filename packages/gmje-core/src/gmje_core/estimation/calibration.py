"""Corrections of a fitted density on pairs that it was not fitted to: its scales, and how sure it is.

Each of them costs about a second for four thousand pairs of 128 dimensions a view and 60 factors. Pairs are scored
under the few factors that matter to them, so that ``M x 4 x A x B`` numbers are held, 9 MB for these sizes.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from gmje_core.densities.scaled import ScaledJointMixture
from gmje_core.estimation.conditionals import Conditionals
from gmje_core.exponentials import exp_
from gmje_core.linalg import triangular_inverse
from gmje_core.seeds import seeded

__all__ = ["calibrate_conditional", "calibrate_context", "calibrate_gain", "refit_scales"]

# Rounds and pseudo-counts of the table's fit to the validation pairs, and the factors that a pair is scored under.
_TABLE_ROUNDS, _TABLE_PRIOR, _LIKELIEST = 30, 5.0, 4
# Factors of the context covariances that are tried, and contexts and samples that are ranked for it.
_CONTEXT_FACTORS = (0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3, 1.5)
_CONTEXTS = 1000
# Factors of the conditional covariances that are tried; held-out pairs and samples of each for it.
_FACTORS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7)
_RANKED, _RANKS = 1000, 8
# Held-out pairs that are scored under all factors at a time.
_ROWS = 512


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
    weights = density.log_weights.exp()
    share, prior = weights.sum(dim=(1, 2)), weights.sum(dim=0)
    parts = [_likeliest(density, *block) for block in zip(context.split(_ROWS), target.split(_ROWS), strict=True)]
    component, likelihood = (torch.cat(part) for part in zip(*parts, strict=True))
    for _ in range(_TABLE_ROUNDS):
        joint = likelihood * weights[component]
        counts = (joint / joint.sum(dim=(1, 2, 3), keepdim=True)).sum(dim=(0, 1)) + _TABLE_PRIOR * prior
        tables = weights * (counts / counts.sum() / weights.sum(dim=0))
        weights = share[:, None, None] * tables / tables.sum(dim=(1, 2), keepdim=True)
    return density.with_log_weights(weights.log())


@torch.no_grad()
def calibrate_gain(density: ScaledJointMixture, context: Tensor, target: Tensor) -> ScaledJointMixture:
    r"""The density with its gains multiplied by one factor, the one by which they predict held-out targets best.

    A gain has :math:`d_c d_t` numbers a component, and fits what views of training items share by chance. So
    predictions move too far with the context, and targets spread too far. With the whitened prediction
    :math:`u = L_k^{-1} G_k (z_c - \mu_k^c)` and target :math:`v = L_k^{-1} (z_t - \mu_k^t)` the factor is

    .. math:: \frac{\sum r_{kb}\, u^\top v / \beta_b}{\sum r_{kb}\, u^\top u / \beta_b}

    with the responsibilities :math:`r` of the pair: a step of EM.

    Args:
        density: The density.
        context: ``(M, d_c)`` pairs that it was not fitted to.
        target: ``(M, d_t)``.
    """
    _, context_means, target_means, _, gain, tril = density.parameters
    context, target = context.to(gain), target.to(gain)
    inverse = triangular_inverse(tril)
    predict = inverse @ gain
    agreement, size = 0.0, 0.0
    for x, y in zip(context.split(_ROWS), target.split(_ROWS), strict=True):
        most, scores_context, scores_target = _likeliest_scores(density, x, y)
        both = scores_context.unsqueeze(3) + scores_target.unsqueeze(2) + density.log_weights[most]
        responsibilities = both.flatten(1).softmax(dim=1).view(both.shape).sum(dim=2)
        weights = (responsibilities / density.scales[1]).sum(dim=2)
        for k in most.unique().tolist():
            rows, slots = (most == k).nonzero(as_tuple=True)
            predicted = (x[rows] - context_means[k]) @ predict[k].T
            residual = (y[rows] - target_means[k]) @ inverse[k].T
            agreement += float(weights[rows, slots] @ (predicted * residual).sum(dim=1))
            size += float(weights[rows, slots] @ predicted.square().sum(dim=1))
    return density.with_gain_factor(max(0.0, agreement / size)) if size > 0 else density


def _likeliest(density: ScaledJointMixture, context: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest factors ``(M, 4)`` of pairs, and likelihoods ``(M, 4, A, B)`` up to a number for each pair."""
    most, scores_context, scores_target = _likeliest_scores(density, context, target)
    both = scores_context.unsqueeze(3) + scores_target.unsqueeze(2)
    return most, exp_(both - both.amax(dim=(1, 2, 3), keepdim=True))


def _likeliest_scores(density: ScaledJointMixture, context: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest factors ``(M, 4)`` of pairs, with log-densities ``(M, 4, A)`` and ``(M, 4, B)`` without weights."""
    scores_context, scores_target = density.view_scores(context, target)
    most = (
        (scores_context.amax(dim=2) + scores_target.amax(dim=2)).topk(min(_LIKELIEST, scores_context.shape[1])).indices
    )
    scores_context, scores_target = (
        scores.gather(1, most.unsqueeze(2).expand(-1, -1, scores.shape[2]))
        for scores in (scores_context, scores_target)
    )
    return most, scores_context, scores_target


@torch.no_grad()
def calibrate_context(density: ScaledJointMixture, context: Tensor, *, seed: int = 0) -> ScaledJointMixture:
    """The density with its context covariances multiplied by one factor, so that samples are as likely as embeddings.

    Shrinkage makes contexts a little too wide, and so their samples a little less likely than real ones. The factor is
    the one between 0.75 and 1.5 for which a sample is likelier than a held-out context in half of all cases.

    Args:
        density: The density.
        context: ``(M, d_c)`` contexts that it was not fitted to, of which at most 1,000 are used.
        seed: Seed of the samples.
    """
    real = context[:_CONTEXTS]

    @cache
    def excess(factor: float) -> float:
        tried = density.with_context_factor(factor)
        with seeded(seed, density.device):  # PyTorch's distributions take no generator.
            samples, _ = tried.sample((len(real),))
        marginal = tried.context
        of_samples, of_real = (
            torch.cat([marginal.log_prob(part) for part in z.to(samples).split(_ROWS)]) for z in (samples, real)
        )
        # A context has as many likelier samples as follow its place among the sorted ones.
        likelier = len(samples) - torch.searchsorted(of_samples.sort().values, of_real, right=True)
        return float(likelier.double().mean()) / len(samples) - 0.5

    return density.with_context_factor(_balanced(_CONTEXT_FACTORS, excess))


@torch.no_grad()
def calibrate_conditional(
    density: ScaledJointMixture, context: Tensor, target: Tensor, *, seed: int = 0
) -> ScaledJointMixture:
    """The density with its conditional covariances multiplied by one factor, so that it is as sure as it is right.

    The rank of a target's log-density among those of samples of its conditional is uniform where the conditional is
    right. The factor is the one between 0.7 and 1.7 whose mean rank on held-out pairs is a half.

    Args:
        density: The density.
        context: ``(M, d_c)`` pairs that it was not fitted to, of which at most 1,000 are used.
        target: ``(M, d_t)``.
        seed: Seed of the samples.
    """
    conditionals = Conditionals.of(density, context[:_RANKED], target[:_RANKED])

    @cache
    def excess(factor: float) -> float:
        return conditionals.mean_rank(factor, _RANKS, seed) - 0.5

    return density.with_conditional_factor(_balanced(_FACTORS, excess))


def _balanced(factors: tuple[float, ...], excess: Callable[[float], float]) -> float:
    """The factor at which what falls with it is zero, linear between the two tried ones around it; or the last one.

    Wider densities have less likely samples, so that the share of samples that are likelier than the data falls.
    """
    place = bisect_left(factors, 0.0, key=lambda factor: -excess(factor))
    if place in (0, len(factors)):
        return factors[min(place, len(factors) - 1)]
    low, high = factors[place - 1 : place + 1]
    above, below = excess(low), excess(high)
    return low + (high - low) * above / (above - below)
