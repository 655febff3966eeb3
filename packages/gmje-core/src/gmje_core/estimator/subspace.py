"""EM of a mixture whose components differ in a few directions only: it finds the directions, then fits within them."""

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gmje_core.densities.mixture import GaussianMixture
from gmje_core.estimation.em import CovarianceForm, expectation, maximization, total_moments
from gmje_core.estimation.pairs import Pairs
from gmje_core.estimation.subspace import Subspace, excess_information
from gmje_core.estimator.starts import GivenParameters, InitMethod, starting_mixture

__all__ = ["FitInSubspace", "SubspaceSize", "find_subspace", "fit_in_subspace"]

#: Number of directions, or ``"auto"``.
SubspaceSize = int | Literal["auto"]

# Directions are found from two mixtures of halves of at most so many rows. They have at most so many components, each
# with about so many rows for a number of its mean, and EM makes so many rounds.
_MOST_ROWS, _COMPONENTS, _ROWS, _ROUNDS = 2**16, 16, 16, 20
# The directions turn after each of these rounds of EM.
_TURNS = (5, 10, 20, 40)
# Rows in a block whose scores are computed, which take a matrix each.
_BLOCK = 1024
_NOTHING = GivenParameters()


class FitInSubspace(NamedTuple):
    """What EM within a subspace ends with.

    Attributes:
        mixture: The mixture of the rows, with full covariances.
        space: The directions in which its components differ.
        lower_bounds: Mean log-density of a row in each round, before its update.
        converged: Whether the last round changed that by less than the tolerance.
    """

    mixture: GaussianMixture
    space: Subspace
    lower_bounds: list[float]
    converged: bool


def find_subspace(
    pairs: Pairs, reg_covar: float, size: SubspaceSize, init_params: InitMethod, generator: torch.Generator
) -> Subspace:
    """Find the directions in which the density of all rows is not one Gaussian, by a coarse mixture.

    Args:
        pairs: The rows.
        reg_covar: Number added to every variance.
        size: Number of directions, or ``"auto"`` for those with more information than one such mixture alone finds by
            chance in a Gaussian of as many rows, about ``(D + 1) K / N``.
        init_params: How the centres of the coarse mixture are found.
        generator: CPU generator of its start.
    """
    mean, covariance = total_moments(pairs, diagonal=False)
    space = Subspace.whole(mean, covariance + reg_covar * torch.eye(len(mean)).to(covariance))
    chosen = torch.randperm(len(pairs), generator=generator)[:_MOST_ROWS]
    halves = [pairs.rows(half.sort().values) for half in chosen.tensor_split(2)]
    components = max(2, min(_COMPONENTS, len(halves[0]) // (_ROWS * (pairs.dim + 1))))
    form = CovarianceForm("full", False, 1, reg_covar)
    first, second = (_coarse(half, pairs, form, components, init_params, generator) for half in halves)
    information = excess_information((first, second), space, torch.cat(halves).split(_BLOCK))
    least = (pairs.dim + 1) * components / len(halves[0])
    return space.narrowed(information, least, None if size == "auto" else size)


def _coarse(
    rows: Tensor,
    pairs: Pairs,
    form: CovarianceForm,
    components: int,
    init_params: InitMethod,
    generator: torch.Generator,
) -> GaussianMixture:
    """A mixture of some rows of the pairs, after a few rounds of EM."""
    part = Pairs({"rows": rows}, pairs.dtype, pairs.device)
    total = total_moments(part, diagonal=True)
    mixture, _ = starting_mixture(part, form, min(components, len(rows)), init_params, _NOTHING, generator)
    for _ in range(_ROUNDS):
        mixture = maximization(expectation(mixture, part, form, total)[1], form)
    return mixture


def fit_in_subspace(
    pairs: Pairs,
    form: CovarianceForm,
    components: int,
    size: SubspaceSize,
    init_params: InitMethod,
    generator: torch.Generator,
    *,
    max_iter: int,
    tol: float,
) -> FitInSubspace:
    """Fit by EM within the directions in which components differ; these turn in some of its rounds.

    Args:
        pairs: The rows.
        form: Form of the covariances, which is full.
        components: Number of components ``K``.
        size: Number of directions, or ``"auto"``.
        init_params: How the start's centres are found.
        generator: CPU generator of the start.
        max_iter: Most rounds.
        tol: EM has converged when the mean log-density of a round changes by less.
    """
    space = find_subspace(pairs, form.reg_covar, size, init_params, generator)
    covariance = total_moments(pairs, diagonal=False)[1]
    # Within the subspace variances are relative to those of all rows.
    inside = replace(form, reg_covar=form.reg_covar / float(covariance.diagonal().mean()))
    rows = _project(pairs, space)
    total = total_moments(rows, diagonal=True)
    mixture, _ = starting_mixture(rows, inside, components, init_params, _NOTHING, generator)
    bounds: list[float] = []
    converged = False
    while len(bounds) < max_iter and not converged:
        if len(bounds) in _TURNS:
            space = space.turned(mixture, pairs.blocks(_BLOCK))
            rows = _project(pairs, space)
        bound, moments = expectation(mixture, rows, inside, total)
        mixture = maximization(moments, inside)
        bounds.append(space.lifted_log_density(bound, covariance))
        # Until they have turned for the first time, the directions are those of the coarse mixture.
        converged = len(bounds) > max(1, _TURNS[0]) and abs(bounds[-1] - bounds[-2]) < tol
    return FitInSubspace(space.lift(mixture), space, bounds, converged)


def _project(pairs: Pairs, space: Subspace) -> Pairs:
    """The coordinates of all rows, in the dtype of the pairs."""
    coordinates = torch.cat([space.coordinates(block).to(pairs.dtype) for block in pairs.blocks(_BLOCK)])
    return Pairs({"coordinates": coordinates}, pairs.dtype, pairs.device)
