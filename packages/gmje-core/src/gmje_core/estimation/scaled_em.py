r"""The two steps of EM for a joint mixture with scales, as functions of whitened rows.

A row is scored under a few candidate components only. The rows of one component are held together, so that every
product is one of matrices. All is float32; see :mod:`gmje_core.estimation.scaled` for the whole fit.
"""

import warnings
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from gmje_core.densities.covariance.scaled import ScaledCovariance
from gmje_core.errors import JitterWarning
from gmje_core.exponentials import exp_
from gmje_core.linalg import safe_cholesky, triangular_inverse

__all__ = ["Components", "Expectation", "Sums", "expect", "gather", "likeliest", "maximise", "mean_log_prob"]

# Ridge on whitened covariances, and the share of the mean that every entry of the table of scales keeps.
_RIDGE, _TABLE_FLOOR = 1e-6, 1e-4
# Pseudo-counts of the shared table in each component's, and of scale one in the scale of its pooled covariance.
_TABLE_PRIOR, _SCALE_PRIOR = 50.0, 20.0
# Responsibilities below this one are left out of the sums of squares.
_LEAST = 1e-3
# Rows that are scored under all components at a time.
_ROWS = 2048


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
    """What one E-step finds for ``E`` entries, each a row and one of its candidates, sorted by component.

    Attributes:
        rows: ``(E,)`` the row of each entry.
        sizes: Number of entries of each of the ``K`` components.
        responsibilities: ``(E,)``.
        context_precision: ``(E,)`` expected inverse scale of the context, given the component.
        target_precision: ``(E,)`` the same of the conditional.
        table: ``(K, A, B)`` expected counts of the scales.
        log_joint: ``(N, C)`` log-densities of the rows in their candidates, with the log-weight.
    """

    rows: Tensor
    sizes: list[int]
    responsibilities: Tensor
    context_precision: Tensor
    target_precision: Tensor
    table: Tensor
    log_joint: Tensor

    @property
    def log_prob(self) -> Tensor:
        """``(N,)`` log-densities in whitened coordinates."""
        return self.log_joint.logsumexp(dim=1)

    @classmethod
    def of_clusters(cls, assigned: Tensor, table: Tensor) -> "Expectation":
        """That rows belong to one component each, ``(N,)``, at scale one; ``table`` is the counts ``(K, A, B)``."""
        order = assigned.argsort(stable=True)
        sizes = torch.bincount(assigned, minlength=len(table)).tolist()
        one = torch.ones(len(assigned), device=assigned.device)
        return cls(order, sizes, one, one, one, table, one.unsqueeze(1))


@dataclass(frozen=True)
class Sums:
    """Weighted sums of each component's rows about its reference points; they add up over steps.

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
        return Sums(*(mine.lerp(theirs, step) for mine, theirs in zip(self.parts(), other.parts(), strict=True)))

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


def expect(model: Components, x: Tensor, y: Tensor, candidates: Tensor) -> Expectation:
    """E-step over all rows.

    Args:
        model: The current parameters.
        x: ``(N, d_c)`` whitened contexts.
        y: ``(N, d_t)`` whitened targets.
        candidates: ``(N, C)`` the different components to consider for each row.
    """
    flat = candidates.flatten()
    order = flat.argsort(stable=True)
    component, rows = flat[order], order // candidates.shape[1]
    sizes = torch.bincount(flat, minlength=len(model.context_means)).tolist()
    projections = _Projections.of(model)
    distances = [projections.distances(k, x[own], y[own]) for k, own in enumerate(rows.split(sizes))]
    near_context, near_target = (torch.cat(part).unsqueeze(1) for part in zip(*distances, strict=True))
    context = _at_scales(near_context, model.context_tril, model.scales, component)
    target = _at_scales(near_target, model.target_tril, model.scales, component)
    most_context, most_target = context.amax(dim=1, keepdim=True), target.amax(dim=1, keepdim=True)
    context, target = exp_(context - most_context), exp_(target - most_target)
    table = model.log_weights.exp()
    by_context = context * _by_component(target, sizes, table.mT)
    by_target = target * _by_component(context, sizes, table)
    total = by_context.sum(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    log_joint = total.log() + (most_context + most_target).squeeze(1)
    of_rows = torch.empty_like(log_joint)
    of_rows[order] = log_joint
    of_rows = of_rows.view(candidates.shape)
    share = exp_(log_joint - of_rows.logsumexp(dim=1)[rows])
    weighted = context * (share / total).unsqueeze(1)
    counts = torch.stack([a.T @ b for a, b in zip(weighted.split(sizes), target.split(sizes), strict=True)])
    inverse = 1 / model.scales
    return Expectation(
        rows,
        sizes,
        share,
        by_context @ inverse / total,
        by_target @ inverse / total,
        counts * table,
        of_rows,
    )


def likeliest(model: Components, x: Tensor, y: Tensor, count: int) -> Tensor:
    """``(N, count)`` the likeliest components of each row, among all; fewer where there are not so many."""
    projections, table = _Projections.of(model), model.log_weights.exp()
    count = min(count, len(table))
    chosen = []
    for context, target in zip(x.split(_ROWS), y.split(_ROWS), strict=True):
        distances = [projections.distances(k, context, target) for k in range(len(table))]
        near_context, near_target = (torch.stack(part) for part in zip(*distances, strict=True))
        of_context = _at_scales(near_context.unsqueeze(2), model.context_tril, model.scales)
        of_target = _at_scales(near_target.unsqueeze(2), model.target_tril, model.scales)
        most_context, most_target = of_context.amax(dim=2, keepdim=True), of_target.amax(dim=2, keepdim=True)
        of_context, of_target = exp_(of_context.sub_(most_context)), exp_(of_target.sub_(most_target))
        total = (of_context.bmm(table) * of_target).sum(dim=2).clamp_min(torch.finfo(x.dtype).tiny)
        log_joint = total.log() + (most_context + most_target).squeeze(2)
        chosen.append(log_joint.T.topk(count, dim=1).indices)
    return torch.cat(chosen)


def mean_log_prob(model: Components, x: Tensor, y: Tensor, candidates: Tensor) -> float:
    """Mean log-density of rows in whitened coordinates, under candidates ``(N, C)``."""
    return float(expect(model, x, y, candidates).log_prob.double().mean())


def gather(
    x: Tensor, y: Tensor, step: Expectation, about_context: Tensor, about_target: Tensor, weight: float = 1.0
) -> Sums:
    """Weighted sums of an E-step about reference points ``(K, d_c)`` and ``(K, d_t)``; each row counts ``weight``."""
    (components, c), t = about_context.shape, about_target.shape[1]
    masses = x.new_zeros(3, components)
    context, context_square = x.new_empty(components, c), x.new_empty(components, c, c)
    pair, pair_square = x.new_empty(components, c + t), x.new_empty(components, c + t, c + t)
    shares = weight * step.responsibilities
    parts = (step.rows, shares, shares * step.context_precision, shares * step.target_precision)
    for k, (rows, *weights) in enumerate(zip(*(part.split(step.sizes) for part in parts), strict=True)):
        masses[:, k] = torch.stack([part.sum() for part in weights])
        own = weights[0] > _LEAST * weight
        rows, of_context, of_pair = rows[own], weights[1][own], weights[2][own]
        rooted = torch.cat([x[rows] - about_context[k], y[rows] - about_target[k]], dim=1)
        context[k], pair[k] = of_context @ rooted[:, :c], of_pair @ rooted
        rooted_context = rooted[:, :c] * of_context.sqrt().unsqueeze(1)
        rooted = rooted * of_pair.sqrt().unsqueeze(1)
        torch.mm(rooted_context.T, rooted_context, out=context_square[k])
        torch.mm(rooted.T, rooted, out=pair_square[k])
    mass, context_mass, target_mass = masses
    table = weight * step.table
    return Sums(mass, context_mass, target_mass, context, context_square, pair, pair_square, table)


def maximise(sums: Sums, about_context: Tensor, about_target: Tensor, scales: Tensor, shrinkage: float) -> Components:
    """M-step: maximum a posteriori parameters of the sums."""
    dim = about_context.shape[1]
    context_mass, target_mass = sums.context_mass.clamp_min(_RIDGE), sums.target_mass.clamp_min(_RIDGE)
    context_mean, context_square = _moments(sums.context, sums.context_square, context_mass)
    pair_mean, pair_square = _moments(sums.pair, sums.pair_square, target_mass)
    context_cov = _shrink(context_square, context_mass, shrinkage)
    pair_cov = _shrink(pair_square, target_mass, shrinkage)
    # The context-first factor of the pairs' covariance holds the gain and the conditional covariance.
    tril = _cholesky(pair_cov, "covariance of pairs")
    gain = tril[:, dim:, :dim] @ triangular_inverse(tril[:, :dim, :dim])
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
        _cholesky(context_cov, "covariance of contexts"),
        gain,
        tril[:, dim:, dim:].contiguous(),
    )
    return Components(*parts)


@dataclass(frozen=True)
class _Projections:
    """What turns rows into whitened residuals, one matrix and one offset for each component and view.

    Attributes:
        context: ``(K, d_c, d_c)`` inverse factors of the contexts, with ``context_offset`` ``(K, d_c)``.
        target: ``(K, d_t, d_t)`` the same of the conditionals, with ``target_offset`` ``(K, d_t)``.
        predict: ``(K, d_t, d_c)`` whitened gains.
    """

    context: Tensor
    context_offset: Tensor
    target: Tensor
    target_offset: Tensor
    predict: Tensor

    @classmethod
    def of(cls, model: Components) -> Self:
        """Those of the current parameters."""
        context, target = triangular_inverse(model.context_tril), triangular_inverse(model.target_tril)
        predict, means = target @ model.gain, model.context_means.unsqueeze(2)
        offset = target @ model.target_means.unsqueeze(2) - predict @ means
        return cls(context, (context @ means).squeeze(2), target, offset.squeeze(2), predict)

    def distances(self, k: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances ``(n,)`` of contexts, and of targets from their prediction, to component ``k``."""
        context = torch.addmm(self.context_offset[k], x, self.context[k].T, beta=-1)
        residual = torch.addmm(self.target_offset[k], y, self.target[k].T, beta=-1)
        residual.addmm_(x, self.predict[k].T, alpha=-1)
        return context.square_().sum(dim=1), residual.square_().sum(dim=1)


def _at_scales(distances: Tensor, tril: Tensor, scales: Tensor, component: Tensor | None = None) -> Tensor:
    """Log-densities at every scale, from squared distances that broadcast with ``(..., A)``.

    Distances are ``(K, n, 1)``, or ``(E, 1)`` of entries that belong to the components ``(E,)``.
    """
    covariance = ScaledCovariance(tril, scales, validate=False)
    at_mean = covariance.log_densities(distances.new_zeros(len(tril)))
    return (at_mean.unsqueeze(1) if component is None else at_mean[component]) - 0.5 * distances / scales


def _by_component(entries: Tensor, sizes: list[int], matrices: Tensor) -> Tensor:
    """The product of each entry ``(E, i)`` with the matrix ``(i, j)`` of its component."""
    return torch.cat([part @ matrix for part, matrix in zip(entries.split(sizes), matrices, strict=True)])


def _moments(total: Tensor, square: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Means and covariances of weighted sums."""
    mean = total / mass.unsqueeze(1)
    covariance = square / mass[:, None, None]
    return mean, covariance.baddbmm_(mean.unsqueeze(2), mean.unsqueeze(1), alpha=-1)


def _shrink(covariances: Tensor, mass: Tensor, shrinkage: float) -> Tensor:
    """Shrink covariances in place toward the pooled one, which each component first brings to its own scale."""
    dim = covariances.shape[-1]
    ridge = _RIDGE * torch.eye(dim).to(covariances)
    pooled = torch.tensordot(mass / mass.sum(), covariances, dims=1) + ridge
    # The mean eigenvalue of each covariance relative to the pooled one is the trace of a product.
    inverse = torch.cholesky_inverse(_cholesky(pooled, "pooled covariance"))
    relative = covariances.flatten(1) @ inverse.flatten() / dim
    scale = (mass * relative + _SCALE_PRIOR) / (mass + _SCALE_PRIOR)
    # These are shrink_covariances(covariances, mass, scale * pooled, shrinkage), without a target for each component.
    share = shrinkage / (mass + shrinkage)
    covariances.mul_((1 - share)[:, None, None]).flatten(1).addr_(share * scale, pooled.flatten())
    return covariances.add_(ridge)


def _cholesky(covariances: Tensor, name: str) -> Tensor:
    """Factors in float32, which whitened rows allow; rounding may have made a covariance of few rows singular."""
    factors: Tensor
    factors, info = torch.linalg.cholesky_ex(covariances)
    if not info.any():
        return factors
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JitterWarning)  # the jitter is of the size of that rounding
        return safe_cholesky(covariances, name=name)
