r"""The two steps of EM for a joint mixture with scales, as functions of whitened rows.

Products are in float32 and sums in float64; see :mod:`gmje_core.estimation.scaled` for the whole fit.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gmje_core.densities.covariance.scaled import ScaledCovariance
from gmje_core.estimation.shrinkage import shrink_covariances
from gmje_core.linalg import safe_cholesky, triangular_inverse

__all__ = ["Components", "Expectation", "Sums", "expect", "gather", "maximise"]

# Squared distance that stands for "not a candidate".
_FAR = 1e6
# Ridge on whitened covariances, and the share of the mean that every entry of the table of scales keeps.
_RIDGE, _TABLE_FLOOR = 1e-6, 1e-4
# Pseudo-counts of the shared table in each component's, and of scale one in the scale of its pooled covariance.
_TABLE_PRIOR, _SCALE_PRIOR = 50.0, 20.0
_ROWS = 8192


@dataclass(frozen=True)
class Components:
    """Parameters in whitened coordinates, float32.

    Attributes:
        log_weights: ``(K, A, B)``, normalised.
        scales: ``(A,)``, of context and conditional alike.
        context_means: ``(K, d_c)``.
        target_means: ``(K, d_t)``.
        context_tril: ``(K, d_c, d_c)``.
        gain: ``(K, d_t, d_c)``.
        target_tril: ``(K, d_t, d_t)``.
    """

    log_weights: Tensor
    scales: Tensor
    context_means: Tensor
    target_means: Tensor
    context_tril: Tensor
    gain: Tensor
    target_tril: Tensor


@dataclass(frozen=True)
class Expectation:
    """What one E-step finds.

    Attributes:
        log_prob: ``(N,)`` log-densities in whitened coordinates.
        responsibilities: ``(N, K)``.
        table: ``(K, A, B)`` expected counts of the scales.
        context_precision: ``(N, K)`` expected inverse scale of the context, given the component.
        target_precision: ``(N, K)`` the same of the conditional.
    """

    log_prob: Tensor
    responsibilities: Tensor
    table: Tensor
    context_precision: Tensor
    target_precision: Tensor


@dataclass(frozen=True)
class Sums:
    """Weighted sums of each component's rows about its reference points, in float64; they add up over rounds.

    Attributes:
        mass: ``(K,)`` responsibilities.
        context_mass: ``(K,)`` responsibilities times inverse scales of the context.
        target_mass: ``(K,)`` the same of the conditional.
        context: ``(K, d_c)`` and ``context_square`` ``(K, d_c, d_c)``: weighted by the context's inverse scales.
        pair: ``(K, D)`` and ``pair_square`` ``(K, D, D)``: weighted by the conditional's inverse scales.
        table: ``(K, A, B)``.
    """

    mass: Tensor
    context_mass: Tensor
    target_mass: Tensor
    context: Tensor
    context_square: Tensor
    pair: Tensor
    pair_square: Tensor
    table: Tensor

    def mixed(self, other: "Sums", step: float) -> "Sums":
        """``(1 - step)`` of these sums and ``step`` of others."""
        return Sums(
            *((1 - step) * mine + step * theirs for mine, theirs in zip(self.parts(), other.parts(), strict=True))
        )

    def parts(self) -> tuple[Tensor, ...]:
        """The tensors, in order."""
        return (
            self.mass,
            self.context_mass,
            self.target_mass,
            self.context,
            self.context_square,
            self.pair,
            self.pair_square,
            self.table,
        )


def expect(model: Components, x: Tensor, y: Tensor, candidates: Tensor | None) -> Expectation:
    """E-step over all rows.

    Args:
        model: The current parameters.
        x: ``(N, d_c)`` whitened contexts.
        y: ``(N, d_t)`` whitened targets.
        candidates: ``(N, K)`` which components to consider; ``None`` for all.
    """
    context_whitening, target_whitening = triangular_inverse(model.context_tril), triangular_inverse(model.target_tril)
    context_covariance = ScaledCovariance(model.context_tril, model.scales, validate=False)
    target_covariance = ScaledCovariance(model.target_tril, model.scales, validate=False)
    components, table = len(model.context_means), model.log_weights.exp()
    counts = torch.zeros_like(table, dtype=torch.float64)
    parts = []
    for block in _blocks(len(x)):
        near = x.new_full((2, len(x[block]), components), _FAR)
        for k in range(components):
            rows = slice(None) if candidates is None else candidates[block, k].nonzero().flatten()
            difference = x[block][rows] - model.context_means[k]
            residual = y[block][rows] - model.target_means[k] - difference @ model.gain[k].T
            near[0, rows, k] = (difference @ context_whitening[k].T).square().sum(dim=1)
            near[1, rows, k] = (residual @ target_whitening[k].T).square().sum(dim=1)
        context, target = context_covariance.log_densities(near[0]), target_covariance.log_densities(near[1])
        most_context, most_target = context.amax(dim=2, keepdim=True), target.amax(dim=2, keepdim=True)
        context, target = (context - most_context).exp_(), (target - most_target).exp_()
        by_context = context * torch.einsum("nkb,kab->nka", target, table)
        by_target = target * torch.einsum("nka,kab->nkb", context, table)
        total = by_context.sum(dim=2).clamp_min(torch.finfo(x.dtype).tiny)
        log_joint = total.log() + most_context.squeeze(2) + most_target.squeeze(2)
        log_prob = log_joint.logsumexp(dim=1)
        share = (log_joint - log_prob[:, None]).exp()
        weighted = context * (share / total).unsqueeze(2)
        counts += (torch.einsum("nka,nkb->kab", weighted, target) * table).double()
        parts.append(
            (log_prob, share, (by_context / model.scales).sum(dim=2) / total, (by_target / model.scales).sum(2) / total)
        )
    joined = [torch.cat(part) for part in zip(*parts, strict=True)]
    return Expectation(joined[0], joined[1], counts, joined[2], joined[3])


def gather(x: Tensor, y: Tensor, step: Expectation, about_context: Tensor, about_target: Tensor) -> Sums:
    """Weighted sums of an E-step about reference points ``(K, d_c)`` and ``(K, d_t)``."""
    context_weights = step.responsibilities * step.context_precision
    target_weights = step.responsibilities * step.target_precision
    rows: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for k in range(step.responsibilities.shape[1]):
        own = (step.responsibilities[:, k] > 1e-3).nonzero().flatten()
        context = x[own] - about_context[k]
        pair = torch.cat([context, y[own] - about_target[k]], dim=1)
        weight, pair_weight = context_weights[own, k], target_weights[own, k]
        rooted, pair_rooted = context * weight.sqrt()[:, None], pair * pair_weight.sqrt()[:, None]
        rows.append((weight @ context, rooted.T @ rooted, pair_weight @ pair, pair_rooted.T @ pair_rooted))
    context, context_square, pair, pair_square = (torch.stack(part).double() for part in zip(*rows, strict=True))
    return Sums(
        step.responsibilities.double().sum(dim=0),
        context_weights.double().sum(dim=0),
        target_weights.double().sum(dim=0),
        context,
        context_square,
        pair,
        pair_square,
        step.table.double(),
    )


def maximise(sums: Sums, about_context: Tensor, about_target: Tensor, scales: Tensor, shrinkage: float) -> Components:
    """M-step: maximum a posteriori parameters of the sums."""
    dim = about_context.shape[1]
    context_mass, target_mass = sums.context_mass.clamp_min(_RIDGE), sums.target_mass.clamp_min(_RIDGE)
    context_mean, pair_mean = sums.context / context_mass[:, None], sums.pair / target_mass[:, None]
    context_square = sums.context_square / context_mass[:, None, None] - _outer(context_mean)
    pair_square = sums.pair_square / target_mass[:, None, None] - _outer(pair_mean)
    context_cov = _shrunk(context_square, context_mass, shrinkage)
    pair_cov = _shrunk(pair_square, target_mass, shrinkage)
    # The context-first factor of the pairs' covariance holds the gain and the conditional covariance.
    tril = safe_cholesky(pair_cov, name="covariance of pairs")
    gain = torch.linalg.solve_triangular(tril[:, :dim, :dim], tril[:, dim:, :dim], upper=False, left=False)
    predicted = pair_mean[:, dim:] + (gain @ (context_mean - pair_mean[:, :dim])[:, :, None]).squeeze(2)
    weights = (sums.mass / sums.mass.sum()).clamp_min(1e-6)
    shared = sums.table.sum(dim=0) / sums.table.sum()
    tables = sums.table + _TABLE_PRIOR * shared
    tables = tables + _TABLE_FLOOR * tables.mean(dim=(1, 2), keepdim=True)
    log_weights = weights.log()[:, None, None] + (tables / tables.sum(dim=(1, 2), keepdim=True)).log()
    parts = (
        log_weights - log_weights.flatten().logsumexp(dim=0),
        scales,
        context_mean + about_context,
        predicted + about_target,
        safe_cholesky(context_cov, name="covariance of contexts"),
        gain,
        tril[:, dim:, dim:],
    )
    return Components(*(part.float() for part in parts))


def _shrunk(covariances: Tensor, mass: Tensor, shrinkage: float) -> Tensor:
    """Covariances shrunk toward the pooled one, which each component first brings to its own scale."""
    dim = covariances.shape[-1]
    ridge = _RIDGE * torch.eye(dim).to(covariances)
    pooled = (mass[:, None, None] * covariances).sum(dim=0) / mass.sum() + ridge
    relative = torch.linalg.solve(pooled, covariances).diagonal(dim1=1, dim2=2).mean(dim=1)
    scale = (mass * relative + _SCALE_PRIOR) / (mass + _SCALE_PRIOR)
    return shrink_covariances(covariances, mass, scale[:, None, None] * pooled, shrinkage) + ridge


def _outer(mean: Tensor) -> Tensor:
    return mean[:, :, None] * mean[:, None, :]


def _blocks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _ROWS):
        yield slice(start, start + _ROWS)
