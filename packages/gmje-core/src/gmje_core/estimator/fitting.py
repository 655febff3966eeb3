"""Fitting a mixture to pairs: EM over all rows at once, or online EM over minibatches; several starts, the best kept.

Runs and fits are values: nothing here holds state between calls.
"""

import inspect
import warnings
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from gmje_core.densities.covariance import Covariance, LowRankCovariance
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import BatchSizeError, ConfigError, ConvergenceWarning, NonFiniteError, ScaleWarning
from gmje_core.estimation.em import CovarianceForm, expectation, maximization, total_moments
from gmje_core.estimation.moments import pooled_covariance
from gmje_core.estimation.online import OnlineMixture
from gmje_core.estimation.pairs import Kind, Pairs
from gmje_core.estimation.seeding import dead_components, step_generator
from gmje_core.estimation.shrinkage import CovariancePrior, isotropic_target, shrink_covariances
from gmje_core.estimator.growing import GrownGraph
from gmje_core.estimator.options import Settings
from gmje_core.estimator.starts import covariance_about_nearest, fill_up_rows, starting_mixture, subsample
from gmje_core.estimator.subspace import fit_in_subspace
from gmje_core.exponentials import exp_, logsumexp
from gmje_core.linalg import full_precision

__all__ = [
    "Fit",
    "Run",
    "continue_online",
    "fit_best",
    "fit_online",
    "fit_whole",
    "fitted_form",
    "online_step",
    "require_directions",
    "require_rank",
    "require_rows",
    "start_online",
    "warn_of_small_variance",
]

# The step of online EM is (t + 2)^-0.6 (Cappé and Moulines, 2009).
_STEP_POWER = 0.6
# Dead components are moved only in the first steps of online EM; later a light component is a rare one.
_RESEED_STEPS = 50


@dataclass(frozen=True)
class Run:
    """One run of EM from one start.

    Attributes:
        mixture: The mixture at the end of the run, in float64.
        lower_bounds: Mean log-density of a row in each round, before its update.
        converged: Whether the last round changed that by less than the tolerance.
        online: Running statistics of online EM; ``None`` after EM over all rows.
        seen: Number of rows, counted as often as they were seen.
        subspace: Number of directions in which the components differ, where they differ in few; else ``None``.
    """

    mixture: GaussianMixture
    lower_bounds: list[float]
    converged: bool
    online: OnlineMixture | None
    seen: int
    subspace: int | None = None


@dataclass(frozen=True)
class Fit:
    """What an estimator knows once it is fitted.

    Attributes:
        density: The joint density.
        kind: Library of the arrays that were fitted, in which results are given.
        tied: Whether the components share one covariance; with a single component the density does not tell.
        online: Running statistics of online EM; ``None`` after EM over all rows.
        converged: Whether EM converged.
        n_iter: Rounds of EM, or steps of online EM by ``partial_fit``.
        lower_bounds: Mean log-density of a row in each round, before its update.
        n_samples_seen: Number of rows, counted as often as they were seen.
        subspace: Number of directions in which the components differ, where they differ in few; else ``None``.
        graph: Graph that proposed the components; ``None`` where none was grown.
    """

    density: JointGaussianMixture
    kind: Kind
    tied: bool
    online: OnlineMixture | None
    converged: bool
    n_iter: int
    lower_bounds: list[float]
    n_samples_seen: int
    subspace: int | None = None
    graph: GrownGraph | None = None

    @classmethod
    def of_run(cls, run: Run, pairs: Pairs, settings: Settings, n_iter: int) -> Self:
        """Fit that a run on pairs ends with.

        Args:
            run: The run.
            pairs: The pairs that it was fitted to.
            settings: The options.
            n_iter: Number of rounds so far.
        """
        mixture = run.mixture.to(settings.dtype)
        # A density that is read from a file has contiguous parameters, and products of the same numbers in another
        # memory layout are rounded differently.
        mixture = GaussianMixture._trusted(
            mixture.log_weights.contiguous(),
            mixture.means.contiguous(),
            mixture.covariance.map(Tensor.contiguous),
            mixture._validate_args,
        )
        density = JointGaussianMixture.from_mixture(mixture, pairs.dims[0])
        tied = settings.form.tied
        return cls(
            density, pairs.kind, tied, run.online, run.converged, n_iter, run.lower_bounds, run.seen, run.subspace
        )


def fit_best(pairs: Pairs, settings: Settings, seed: int) -> Run:
    """Fit from several starts; the run with the largest lower bound is kept.

    Args:
        pairs: The rows.
        settings: The options.
        seed: Seed of all draws; the starts draw from streams of their own.

    Raises:
        BatchSizeError: there are fewer rows than components, or a single row.

    Warns:
        ConvergenceWarning: the best run did not converge.
        ScaleWarning: ``reg_covar`` is larger than the mean variance.
    """
    require_rows(pairs, settings.n_components)
    with full_precision(pairs.device.type):
        form = settings.form
        whole = not form.diagonal and (form.tied or form.covariance_type == "full")
        total = total_moments(pairs, diagonal=not whole)
        warn_of_small_variance(total[1].diagonal() if whole else total[1], form.reg_covar)
        starts = 1 if settings.given.complete else settings.n_init
        best: Run | None = None
        for attempt in range(starts):
            generator = step_generator(seed, attempt)
            if settings.batch_size is None:
                run = fit_whole(pairs, settings, total, generator)
            else:
                run = fit_online(pairs, settings, settings.batch_size, generator)
            best = run if best is None or run.lower_bounds[-1] > best.lower_bounds[-1] else best
    assert best is not None
    if not best.converged:
        _warn_caller(
            f"EM did not converge in {settings.max_iter} rounds: the lower bound still changed by at least "
            f"{settings.tol:g} nats; raise max_iter or tol, or try another init_params",
            ConvergenceWarning,
        )
    return best


def fit_whole(pairs: Pairs, settings: Settings, total: tuple[Tensor, Tensor], generator: torch.Generator) -> Run:
    """Fit by EM over all rows.

    Args:
        pairs: The rows.
        settings: The options.
        total: Mean and covariance of all rows, or their variances where the form does not need more.
        generator: CPU generator of the start.
    """
    if settings.subspace is not None:
        fitted = fit_in_subspace(
            pairs,
            settings.form,
            settings.n_components,
            settings.subspace,
            settings.init_params,
            generator,
            max_iter=settings.max_iter,
            tol=settings.tol,
        )
        return Run(fitted.mixture, fitted.lower_bounds, fitted.converged, None, len(pairs), fitted.space.size)
    mixture = _start(pairs, settings, generator)
    prior = _prior(mixture, pairs, settings)
    bounds: list[float] = []
    converged = False
    while len(bounds) < settings.max_iter and not converged:
        bound, moments = expectation(mixture, pairs, settings.form, total, prior)
        mixture = maximization(moments, settings.form, mixture.covariance, prior)
        converged = bool(bounds) and abs(bound - bounds[-1]) < settings.tol
        bounds.append(bound)
    return Run(mixture, bounds, converged, None, len(pairs))


def fit_online(pairs: Pairs, settings: Settings, batch_size: int, generator: torch.Generator) -> Run:
    """Fit by online EM in passes over the rows, each in a new random order.

    The lower bound of a pass is the mean of its batches' bounds; each batch is scored before its update.

    Args:
        pairs: The rows.
        settings: The options.
        batch_size: Most rows of a batch.
        generator: CPU generator of the start and of the orders.
    """
    run = start_online(pairs, settings, generator)
    bounds: list[float] = []
    converged = False
    while len(bounds) < settings.max_iter and not converged:
        batches = torch.randperm(len(pairs), generator=generator).chunk(-(-len(pairs) // batch_size))
        bound = 0.0
        for index in batches:
            # Rows are sorted within a batch, so that a memory-mapped array is read forwards.
            run = online_step(run, pairs.rows(index.sort().values), settings, generator)
            bound += run.lower_bounds[-1] * len(index) / len(pairs)
        converged = bool(bounds) and abs(bound - bounds[-1]) < settings.tol
        bounds.append(bound)
    return replace(run, lower_bounds=bounds, converged=converged)


def start_online(pairs: Pairs, settings: Settings, generator: torch.Generator) -> Run:
    """Run of online EM before its first step, started on some of the rows."""
    rows = subsample(pairs, settings.n_components, generator)
    mixture = _start(Pairs({"rows": rows}, pairs.dtype, pairs.device), settings, generator)
    return Run(mixture, [], False, _running_statistics(mixture, settings.form, len(rows)), 0)


def continue_online(mixture: GaussianMixture, online: OnlineMixture | None, form: CovarianceForm, seen: int) -> Run:
    """Run of online EM that goes on from a fitted mixture.

    Args:
        mixture: The fitted mixture.
        online: Its running statistics; where there are none, they are made as if of ``seen`` rows.
        form: Form of the covariances.
        seen: Number of rows that the mixture was fitted to.
    """
    mixture = mixture.to(torch.float64)
    return Run(mixture, [], False, _running_statistics(mixture, form, seen) if online is None else online, seen)


def online_step(run: Run, rows: Tensor, settings: Settings, generator: torch.Generator) -> Run:
    r"""Run after one step of online EM, of size :math:`(t + 2)^{-0.6}`; its lower bound is that of the batch.

    The statistics of the run are updated in place.

    Args:
        run: The run so far.
        rows: Batch ``(B, D)``.
        settings: The options.
        generator: CPU generator that chooses where dead components go.

    Raises:
        NonFiniteError: a log-density is beyond what the dtype of the rows can represent.
    """
    assert run.online is not None
    steps = run.seen / len(rows)
    joint = run.mixture.to(rows.dtype).component_log_prob(rows)
    evidence = logsumexp(joint, dim=1).unsqueeze(1)
    bound = float(evidence.double().mean())
    if not torch.isfinite(evidence).all():
        raise NonFiniteError(f"the mean log-density became {bound}: the embeddings' scale is beyond {rows.dtype}")
    scored = run.mixture.covariance if isinstance(run.mixture.covariance, LowRankCovariance) else None
    run.online.observe(rows, exp_(joint - evidence), (steps + 2) ** -_STEP_POWER, scored)
    if steps < _RESEED_STEPS and bool(dead_components(run.online.mass).any()):
        run.online.reseed(rows, generator)
    mixture = _mixture_of_statistics(run.online, settings, run.mixture.covariance)
    return Run(mixture, [bound], False, run.online, run.seen + len(rows))


def fitted_form(covariance: Covariance, tied: bool, options: CovarianceForm) -> CovarianceForm:
    """Form of fitted covariances; what these do not show (``reg_covar``, a rank of other forms) is the options'."""
    rank = covariance.rank if isinstance(covariance, LowRankCovariance) else options.rank
    return replace(options, covariance_type=covariance.covariance_type, tied=tied, rank=rank)


def require_rows(pairs: Pairs, components: int) -> None:
    """Raise :class:`BatchSizeError` unless there are as many pairs as components, and at least two."""
    if len(pairs) < max(2, components):
        raise BatchSizeError(
            f"at least as many pairs as components are needed, and 2, but there are {len(pairs)} pairs for "
            f"n_components={components}"
        )


def require_rank(pairs: Pairs, form: CovarianceForm) -> None:
    """Raise :class:`ConfigError` where a low-rank factor would have more columns than the pairs."""
    if form.covariance_type == "low_rank" and form.rank > pairs.dim:
        raise ConfigError(f"rank must lie between 1 and d_c + d_t = {pairs.dim}, got {form.rank}")


def require_directions(pairs: Pairs, subspace: int | str | None) -> None:
    """Raise :class:`ConfigError` where components would differ in more directions than the pairs have."""
    if isinstance(subspace, int) and subspace > pairs.dim:
        raise ConfigError(f"subspace must lie between 1 and d_c + d_t = {pairs.dim}, got {subspace}")


def warn_of_small_variance(variance: Tensor, reg_covar: float) -> None:
    """Warn where ``reg_covar`` is larger than the mean of the variances ``(D,)``."""
    mean = float(variance.mean())
    if 0 < mean < reg_covar:
        _warn_caller(
            f"reg_covar={reg_covar:g} is larger than the mean variance {mean:.3g} of an embedding dimension, so the "
            "density is mostly regularisation: scale the embeddings, or lower reg_covar",
            ScaleWarning,
        )


def _start(pairs: Pairs, settings: Settings, generator: torch.Generator) -> GaussianMixture:
    """Mixture that EM starts from, with a warning where some of its components have no rows."""
    wanted = settings.n_components
    mixture, used = starting_mixture(pairs, settings.form, wanted, settings.init_params, settings.given, generator)
    if used < wanted:
        _warn_caller(
            f"only {used} of {wanted} components have a row nearest to them at the start, and the others begin empty: "
            "the embeddings have few distinct rows, or centres coincide; lower n_components",
            ConvergenceWarning,
        )
    return mixture


def _prior(mixture: GaussianMixture, pairs: Pairs, settings: Settings) -> CovariancePrior | None:
    """Prior of the covariances, whose target is the covariance of the rows about the nearest mean of the start."""
    if settings.covariance_prior == 0:
        return None
    isotropic = settings.covariance_target == "isotropic"
    diagonal = settings.form.diagonal
    pooled = covariance_about_nearest(pairs, mixture.means, diagonal=diagonal or isotropic)
    if isotropic:
        pooled = isotropic_target(pooled, diagonal=True)
    target = pooled + settings.form.reg_covar * (1.0 if pooled.ndim == 1 else torch.eye(pairs.dim).to(pooled))
    if pooled.ndim == 1 and not (diagonal or settings.form.factored(pairs.dim)):
        target = target.diag()
    return CovariancePrior(target, settings.covariance_prior / len(pairs))


def _running_statistics(mixture: GaussianMixture, form: CovarianceForm, rows: int) -> OnlineMixture:
    """Running statistics whose parameters are those of a mixture, as if of a number of rows."""
    dim, covariance = mixture.dim, mixture.covariance
    factored = form.factored(dim)
    online = OnlineMixture(
        mixture.components,
        dim,
        covariance_type="low_rank" if factored else "diag" if form.diagonal else "full",
        tied=form.tied,
        weight_prior=1.0,
        covariance_prior=None,
        variance_floor=form.reg_covar,
        rank=form.rank if factored else None,
    ).to(mixture.device)
    second = covariance.diagonal() if form.diagonal or factored else covariance.dense()
    if factored:
        assert isinstance(covariance, LowRankCovariance)
        online.factor.copy_(covariance.factor)
    online.mass.copy_(mixture.weights)
    online.means.copy_(mixture.means)
    online.second.copy_(second.expand(online.second.shape))
    online.total_mean.copy_(mixture.mean)
    online.total_variance.copy_(mixture.variance)
    online.inverse_count.fill_(1 / rows)
    return online


def _mixture_of_statistics(online: OnlineMixture, settings: Settings, previous: Covariance) -> GaussianMixture:
    """Maximum a posteriori mixture of running statistics, whose prior has a target that runs along."""
    form, counts = settings.form, online.counts
    # The statistics change in place with the next batch, and a density that a caller holds must not.
    means = online.means.clone()
    pooled = pooled_covariance(counts, online.second)
    if online.rank:
        missing = (2 * (online.rank + 1) - counts).clamp_min(0) + settings.covariance_prior
        covariance = online.factors_shrunk(missing, pooled.mean()).add_diagonal(pooled.new_tensor(form.reg_covar))
        return GaussianMixture(online.log_weights(), means, covariance)
    second = fill_up_rows(counts, online.second)
    if settings.covariance_prior > 0:
        isotropic = settings.covariance_target == "isotropic"
        target = isotropic_target(pooled, diagonal=online.diagonal) if isotropic else pooled
        second = shrink_covariances(second, counts, target, settings.covariance_prior)
    return maximization((online.log_weights().exp(), means, second), form, previous)


def _warn_caller(text: str, category: type[Warning]) -> None:
    """Warn at the line that called the library, whatever lies between: torch's decorators add frames of their own."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("gmje_core", "torch"):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)
