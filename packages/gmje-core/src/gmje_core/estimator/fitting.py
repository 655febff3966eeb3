"""Runs of EM for the estimator: over all rows at once, or online over minibatches; options checked once.

A run is a value: nothing here holds state between calls.
"""

import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gmje_core.densities.covariance import Covariance
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConvergenceWarning, NonFiniteError
from gmje_core.estimation.em import CovarianceForm, expectation, maximization
from gmje_core.estimation.online import OnlineMixture
from gmje_core.estimation.pairs import Pairs
from gmje_core.estimation.seeding import dead_components
from gmje_core.estimator.starts import Given, Init, shrink, start, subsample

__all__ = ["Run", "Settings", "fit_online", "fit_whole", "online_step", "resume", "start_online"]

# Online EM's step (t + 2)^-0.6 (Cappé and Moulines, 2009).
_STEP_POWER = 0.6
# Steps of online EM in which dead components are moved; later a light component is a rare one.
_RESEED_STEPS = 50


@dataclass(frozen=True)
class Settings:
    """The estimator's options, checked; their meaning is documented there."""

    components: int
    form: CovarianceForm
    max_iter: int
    tol: float
    n_init: int
    init: Init
    given: Given
    batch_size: int | None
    device: torch.device | None
    dtype: torch.dtype


@dataclass(frozen=True)
class Run:
    """One run of EM from one start.

    Attributes:
        mixture: Where it ended, in float64.
        lower_bounds: Mean log-density of a row in each round, before its update.
        converged: Whether the last round changed that by less than the tolerance.
        online: The statistics, where they are running ones.
        seen: Rows seen, as often as they were.
    """

    mixture: GaussianMixture
    lower_bounds: list[float]
    converged: bool
    online: OnlineMixture | None
    seen: int


def fit_whole(pairs: Pairs, settings: Settings, total: tuple[Tensor, Tensor], generator: torch.Generator) -> Run:
    """EM over all rows.

    Args:
        pairs: The rows.
        settings: The options.
        total: Mean and covariance of all rows, or their variances where the form does not need more.
        generator: CPU generator of the start.
    """
    mixture = _start(pairs, settings, generator)
    bounds: list[float] = []
    converged = False
    while len(bounds) < settings.max_iter and not converged:
        bound, moments = expectation(mixture, pairs, settings.form, total)
        mixture = maximization(moments, settings.form, mixture.covariance)
        converged = bool(bounds) and abs(bound - bounds[-1]) < settings.tol
        bounds.append(bound)
    return Run(mixture, bounds, converged, None, len(pairs))


def fit_online(pairs: Pairs, settings: Settings, total: tuple[Tensor, Tensor], generator: torch.Generator) -> Run:
    """Online EM in random order, pass by pass; the bound of a pass is the mean of its batches', each scored first."""
    assert settings.batch_size is not None
    run = start_online(pairs, settings, generator)
    bounds: list[float] = []
    converged = False
    while len(bounds) < settings.max_iter and not converged:
        # Sorted within a batch: a memory-mapped array is then read forwards.
        batches = torch.randperm(len(pairs), generator=generator).chunk(-(-len(pairs) // settings.batch_size))
        bound = 0.0
        for index in batches:
            run = online_step(run, pairs.rows(index.sort().values), settings, generator)
            bound += run.lower_bounds[-1] * len(index) / len(pairs)
        converged = bool(bounds) and abs(bound - bounds[-1]) < settings.tol
        bounds.append(bound)
    return replace(run, lower_bounds=bounds, converged=converged)


def start_online(pairs: Pairs, settings: Settings, generator: torch.Generator) -> Run:
    """Where online EM begins, from some of the rows."""
    rows = subsample(pairs, settings.components, generator)
    mixture = _start(Pairs({"rows": rows}, pairs.dtype, pairs.device), settings, generator)
    return Run(mixture, [], False, _statistics(mixture, settings.form, len(rows)), 0)


def resume(mixture: GaussianMixture, online: OnlineMixture | None, form: CovarianceForm, seen: int) -> Run:
    """Where online EM goes on: from its statistics, or from a mixture that was fitted to ``seen`` rows."""
    mixture = mixture.to(torch.float64)
    return Run(mixture, [], False, _statistics(mixture, form, seen) if online is None else online, seen)


def online_step(run: Run, rows: Tensor, settings: Settings, generator: torch.Generator) -> Run:
    r"""The run after one step of size :math:`(t + 2)^{-0.6}` on a batch ``(B, D)``; its bound is that of the batch.

    The statistics are updated in place.
    """
    assert run.online is not None
    steps = run.seen / len(rows)
    joint = run.mixture.to(rows.dtype).component_log_prob(rows)
    evidence = joint.logsumexp(dim=1, keepdim=True)
    bound = float(evidence.double().mean())
    if not torch.isfinite(evidence).all():
        raise NonFiniteError(f"the mean log-density became {bound}: the embeddings' scale is beyond {rows.dtype}")
    run.online.observe(rows, (joint - evidence).exp(), (steps + 2) ** -_STEP_POWER)
    if steps < _RESEED_STEPS and bool(dead_components(run.online.mass).any()):
        run.online.reseed(rows, generator)
    mixture = _parameters(run.online, settings.form, run.mixture.covariance)
    return Run(mixture, [bound], False, run.online, run.seen + len(rows))


def _start(pairs: Pairs, settings: Settings, generator: torch.Generator) -> GaussianMixture:
    mixture, used = start(pairs, settings.form, settings.components, settings.init, settings.given, generator)
    if used < settings.components:
        warnings.warn(
            f"only {used} of {settings.components} components have a row nearest to them at the start, and the others "
            "begin empty: the embeddings have few distinct rows, or centres coincide; lower components",
            ConvergenceWarning,
            stacklevel=5,
        )
    return mixture


def _statistics(mixture: GaussianMixture, form: CovarianceForm, rows: int) -> OnlineMixture:
    """Running statistics whose parameters are those of a mixture."""
    dim = mixture.dim
    online = OnlineMixture(
        mixture.components,
        dim,
        covariance_type="diag" if form.diagonal else "full",
        tied=form.tied,
        weight_prior=1.0,
        covariance_prior=2.0 if form.diagonal else float(dim),
        variance_floor=form.reg_covar,
    ).to(mixture.device)
    covariance = mixture.covariance
    second = covariance.diagonal() if form.diagonal else covariance.dense()
    online.mass.copy_(mixture.weights)
    online.means.copy_(mixture.means)
    online.second.copy_(second.expand(online.second.shape))
    online.total_mean.copy_(mixture.mean)
    online.total_variance.copy_(mixture.variance)
    online.inverse_count.fill_(1 / rows)
    return online


def _parameters(online: OnlineMixture, form: CovarianceForm, previous: Covariance) -> GaussianMixture:
    """Maximum a posteriori mixture of running statistics."""
    second = shrink(online.counts, online.second)
    return maximization((online.log_weights().exp(), online.means, second), form, previous)
