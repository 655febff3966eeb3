"""The alignment benchmark: every rival on every task, measured against the truth and against the truth's own noise."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor

from gmje_bench.alignment.metrics import (
    conditional_kl,
    energy_distance,
    gaussian_kl,
    hpd_ranks,
    mode_masses,
    mode_recall,
    pit_values,
    sliced_wasserstein,
    uniformity_error,
    weight_error,
)
from gmje_bench.alignment.rivals import RIVALS, Conditional, get_rival
from gmje_bench.alignment.tasks import TASKS, make_truth
from gmje_bench.alignment.truths import Truth
from gmje_bench.errors import OptionError
from gmje_bench.runs import Metric
from gmje_core import GMJEError

__all__ = [
    "METRICS",
    "TRUTH",
    "AlignmentRecord",
    "AlignmentResults",
    "Options",
    "Picture",
    "evaluate",
    "evaluation_sizes",
    "run",
    "theory",
]

#: The name under which the truth is measured against itself.
TRUTH = "truth"

#: What a record may hold.
METRICS: dict[str, Metric] = {
    "kl": Metric(title="KL to truth", unit="nats", higher_is_better=False),
    "kl_standard_error": Metric(title="its standard error", unit="nats", higher_is_better=False),
    "theory": Metric(title="KL by theory", unit="nats", higher_is_better=False),
    "energy": Metric(title="energy distance", unit="", higher_is_better=False),
    "wasserstein": Metric(title="sliced Wasserstein", unit="", higher_is_better=False),
    "recall": Metric(title="mode recall", unit="", higher_is_better=True),
    "weights": Metric(title="weight error", unit="", higher_is_better=False),
    "hpd": Metric(title="HPD error", unit="", higher_is_better=False),
    "pit": Metric(title="PIT error", unit="", higher_is_better=False),
}

# Held-out pairs of the KL, pairs of the distances, contexts and samples of the modes, and of the calibration.
_HELD_OUT, _PAIRS, _MODES, _RANKS = 10_000, 2000, (256, 2000), (1000, 100)
_MOMENTS = 100_000
# Samples in a panel of the picture, and contexts at which the mean of a one-dimensional target is drawn.
_SHOWN, _CURVE = 2000, 200


class Asked(Protocol):
    """What truths and fitted conditionals can both do."""

    def sample_target(self, context: Tensor, count: int, generator: Generator) -> Tensor:
        """Draw targets ``(count, n, d_t)``."""

    def mean(self, context: Tensor) -> Tensor:
        """Conditional means ``(n, d_t)``."""


class Picture(NamedTuple):
    """What a row of the figure shows.

    Attributes:
        task: Its name.
        context: ``(n, d_c)``, of the samples.
        samples: By method, the truth first: ``(n, d_t)``.
        curve: ``(m, d_c)``, contexts of the means.
        means: By method: ``(m, d_t)``.
    """

    task: str
    context: Tensor
    samples: dict[str, Tensor]
    curve: Tensor
    means: dict[str, Tensor]


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        tasks: Names of :data:`~gmje_bench.alignment.tasks.TASKS`.
        methods: Names of :data:`~gmje_bench.alignment.rivals.RIVALS`.
        seeds: Each a new training set, and a new random mixture and rotation.
        dims: Sizes to lift to; ``None`` among them for the tasks' own one or two dimensions.
        samples: Training pairs in the tasks' own dimensions; lifted tasks get two and a half times as many.
        epochs: Of the networks.

    Raises:
        OptionError: an unknown name or a number out of range.

    Examples:
        >>> Options(tasks=("two-mons",))
        Traceback (most recent call last):
        gmje_bench.errors.OptionError: unknown alignment task 'two-mons'; did you mean two-moons? ...
    """

    tasks: tuple[str, ...] = tuple(TASKS)
    methods: tuple[str, ...] = tuple(RIVALS)
    seeds: tuple[int, ...] = (0,)
    dims: tuple[int | None, ...] = (None, 16)
    samples: int = 20_000
    epochs: int = 20

    def __post_init__(self) -> None:
        for option in ("tasks", "methods", "seeds", "dims"):
            values = getattr(self, option)
            if not values:
                raise OptionError(f"alignment needs at least one of {option}")
            if len(set(values)) < len(values):
                raise OptionError(f"{option} must be distinct, got {', '.join(map(str, values))}")
        for method in self.methods:
            get_rival(method)
        for task in self.tasks:
            for dim in self.dims:
                make_truth(task, dim=dim)
        if self.samples < 100:
            raise OptionError(f"samples must be at least 100 pairs, got {self.samples}")
        if self.epochs < 1:
            raise OptionError(f"epochs must be at least 1, got {self.epochs}")
        if min(self.seeds) < 0:
            raise OptionError(f"seeds must not be negative, got {min(self.seeds)}")

    def training_pairs(self, dim: int | None) -> int:
        """Number of training pairs of a task lifted to ``dim``."""
        return self.samples if dim is None else self.samples * 5 // 2


class AlignmentRecord(BaseModel):
    """One method on one task with one seed."""

    model_config = ConfigDict(extra="forbid")
    task: str
    dim: int | None = Field(description="Size that both views are lifted to; null for the task's own.")
    method: str = Field(description="'truth' is the noise floor: the truth measured against itself.")
    seed: int
    status: Literal["ok", "failed"] = "ok"
    error: str | None = Field(default=None, description="Why it failed, in one line.")
    metrics: dict[str, float] = Field(default={}, description="By the names in 'metrics' of the results.")
    seconds: float = Field(default=0.0, description="Of the fit, wall-clock.")


class AlignmentResults(BaseModel):
    """Everything that the numbers depend on, and the numbers."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int = 1
    options: dict[str, Any]
    evaluation: dict[str, int] = Field(description="Sizes of the evaluation.")
    versions: dict[str, str]
    command: str
    started: str = Field(description="UTC, ISO 8601.")
    metrics: dict[str, Metric] = Field(default=METRICS, description="Units and directions.")
    records: list[AlignmentRecord] = []

    def failed(self) -> list[AlignmentRecord]:
        """Records without results."""
        return [record for record in self.records if record.status == "failed"]


def run(
    options: Options, jobs: int = 1, tell: Callable[[str], None] = lambda line: None
) -> tuple[list[AlignmentRecord], list[Picture]]:
    """Fit and measure every method on every task; a failure is recorded and does not stop the rest.

    Args:
        options: What to run.
        jobs: Tasks at a time, each in a process of one thread; the numbers do not depend on it.
        tell: Given a line after every method.

    Returns:
        Records in the order of dimensions, tasks, seeds, methods (the truth first); and the pictures of the first
        seed of every task in its own dimensions.
    """
    records: list[AlignmentRecord] = []
    pictures: list[Picture] = []
    work = [(options, task, dim, seed) for dim in options.dims for task in options.tasks for seed in options.seeds]
    for found, picture in _each(work, min(jobs, len(work))):
        records += found
        for record in found:
            tell(_line(record))
        if picture is not None:
            pictures.append(picture)
    return records, pictures


_Work = tuple[Options, str, int | None, int]
_Found = tuple[list[AlignmentRecord], Picture | None]


def _each(work: list[_Work], jobs: int) -> Iterator[_Found]:
    """Results in the order of the work."""
    if jobs == 1:
        yield from map(_run_single_threaded, work)
        return
    # Spawned: a forked child of a process that has used torch's threads may hang.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(_run_single_threaded, work)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_single_threaded(work: _Work) -> _Found:
    """One thread, because networks this small gain nothing from more, and sums then never change their order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run_task(*work)
    finally:
        torch.set_num_threads(threads)


def _run_task(options: Options, task: str, dim: int | None, seed: int) -> _Found:
    truth = make_truth(task, seed, dim)
    context, target = (z.float() for z in truth.sample(options.training_pairs(dim), _generator(seed, 1)))
    judge = _Judge(truth, seed)
    records = [AlignmentRecord(task=task, dim=dim, method=TRUTH, seed=seed, metrics=judge.floor())]
    fitted: dict[str, Asked] = {TRUTH: truth}
    limits = judge.theory()
    for method in options.methods:
        record = AlignmentRecord(task=task, dim=dim, method=method, seed=seed)
        start = time.perf_counter()
        try:
            conditional = get_rival(method).fit(context, target, options.epochs, seed)
            record.seconds = round(time.perf_counter() - start, 3)
            record.metrics = judge.measure(conditional)
            if method in limits:
                record.metrics["theory"] = limits[method]
            fitted[method] = conditional
        except GMJEError as error:
            record.status, record.error = "failed", " ".join(f"{type(error).__name__}: {error}".split())
        records.append(record)
    return records, judge.picture(task, fitted) if dim is None and seed == options.seeds[0] else None


def _line(record: AlignmentRecord) -> str:
    place = record.task if record.dim is None else f"{record.task} in {record.dim} dimensions"
    if record.status == "failed":
        return f"{place}, seed {record.seed}, {record.method}: failed: {record.error}"
    return (
        f"{place}, seed {record.seed}, {record.method}: KL {record.metrics['kl']:.3f} nats, "
        f"mode recall {record.metrics['recall']:.2f} ({record.seconds:.1f} s)"
    )


def evaluate(truth: Truth, conditional: Conditional, seed: int = 0) -> dict[str, float]:
    """All metrics of a fitted conditional against the truth, on pairs that no fit has seen.

    Args:
        truth: The task.
        conditional: What was fitted.
        seed: Of the held-out pairs and of all samples.

    Returns:
        By the names of :data:`METRICS`, without the theory.

    Examples:
        >>> truth = make_truth("crossing")
        >>> context, target = truth.sample(2000, torch.Generator().manual_seed(1))
        >>> metrics = evaluate(truth, get_rival("gje").fit(context, target, 1, 0))
        >>> round(metrics["kl"], 1), metrics["recall"] < 0.5
        (1.3, True)
    """
    return _Judge(truth, seed).measure(conditional)


def theory(truth: Truth, seed: int = 0) -> dict[str, float]:
    """KL that MSE regression and GJE approach with unlimited data and capacity, nats.

    Args:
        truth: The task.
        seed: Of the pairs over which expectations are taken.

    Returns:
        By method, ``"mse"`` and ``"gje"``.

    Examples:
        >>> {name: round(kl, 1) for name, kl in theory(make_truth("crossing")).items()}
        {'mse': 1.3, 'gje': 1.3}
    """
    return _Judge(truth, seed).theory()


class _Judge:
    """A truth with its held-out pairs and reference samples: common to all methods, so that they compare."""

    def __init__(self, truth: Truth, seed: int) -> None:
        self.truth, self.seed = truth, seed
        # Rounded to what models see, so that truth and model judge the same numbers.
        self.context, self.target = (z.float() for z in truth.sample(_HELD_OUT, _generator(seed, 2)))
        self.log_prob = truth.log_prob(self.target, self.context)
        contexts, samples = _MODES
        self.centers = truth.project(truth.modes(self.context[:contexts]))
        self.reference = truth.project(truth.sample_target(self.context[:contexts], samples, _generator(seed, 3)))

    def theory(self) -> dict[str, float]:
        context, target = self.truth.sample(_MOMENTS, _generator(self.seed, 4))
        center_c, center_t, size = context.mean(dim=0), target.mean(dim=0), context.shape[1]
        covariance = torch.cov(torch.cat([context, target], dim=1).T)
        gain = torch.linalg.solve(covariance[:size, :size], covariance[:size, size:])
        schur = covariance[size:, size:] - covariance[size:, :size] @ gain
        linear = center_t + (self.context.double() - center_c) @ gain
        return {
            "mse": gaussian_kl(self.log_prob, self.target - self.truth.mean(self.context)),
            "gje": gaussian_kl(self.log_prob, self.target - linear, schur),
        }

    def measure(self, conditional: Conditional) -> dict[str, float]:
        kl, error = conditional_kl(self.log_prob, conditional.log_prob(self.target, self.context))
        rows, count = _RANKS
        context, target = self.context[:rows], self.target[:rows]
        samples = conditional.sample_target(context, count, _generator(self.seed, 5))
        ranks = hpd_ranks(
            conditional.log_prob(target, context), conditional.log_prob(samples, context), _generator(self.seed, 6)
        )
        return {
            "kl": kl,
            "kl_standard_error": error,
            "hpd": uniformity_error(ranks),
            **self._shared(conditional),
        }

    def floor(self) -> dict[str, float]:
        """The same, of the truth; its ranks are uniform by definition and not worth its slow densities."""
        ranks = torch.rand(_RANKS[0], generator=_generator(self.seed, 6))
        return {"kl": 0.0, "kl_standard_error": 0.0, "hpd": uniformity_error(ranks), **self._shared(self.truth)}

    def picture(self, task: str, fitted: dict[str, Asked]) -> Picture:
        """Samples of the truth and of every method at the same contexts."""
        shown = torch.tensor(TASKS[task].shown)
        if len(shown):
            context, curve = shown.repeat_interleave(_SHOWN // len(shown), dim=0), shown
        else:
            context = self.context[:_SHOWN]
            curve = torch.linspace(float(self.context.min()), float(self.context.max()), _CURVE)[:, None]
        generator = _generator(self.seed, 8)
        samples = {name: asked.sample_target(context, 1, generator)[0].double() for name, asked in fitted.items()}
        means = {name: asked.mean(curve).double() for name, asked in fitted.items()}
        return Picture(task, context, samples, curve, means)

    def _shared(self, asked: Asked) -> dict[str, float]:
        generator = _generator(self.seed, 7)
        masses = mode_masses(self.centers, self.reference, self._samples(asked, *_MODES, generator))
        rows, count = _RANKS
        ranks = pit_values(
            self.truth.project(self.target[:rows]), self._samples(asked, rows, count, generator), generator
        )
        # Contexts of the two clouds differ, as in two independent samples of pairs.
        first, second = self.context[:_PAIRS], self.context[_PAIRS : 2 * _PAIRS]
        truth_pairs = torch.cat([first, self.target[:_PAIRS]], dim=1).double()
        model_pairs = torch.cat([second.double(), asked.sample_target(second, 1, generator)[0].double()], dim=1)
        return {
            "energy": energy_distance(truth_pairs, model_pairs),
            "wasserstein": sliced_wasserstein(truth_pairs, model_pairs, generator),
            "recall": mode_recall(masses),
            "weights": weight_error(masses),
            "pit": uniformity_error(ranks),
        }

    def _samples(self, asked: Asked, contexts: int, count: int, generator: Generator) -> Tensor:
        return self.truth.project(asked.sample_target(self.context[:contexts], count, generator).double())


def _generator(seed: int, stream: int) -> Generator:
    """Independent streams of one seed: training, held-out pairs, and so on."""
    return torch.Generator().manual_seed(1000 * seed + stream)


def evaluation_sizes() -> dict[str, int]:
    """What the evaluation draws, for the results."""
    return {
        "held_out_pairs": _HELD_OUT,
        "distance_pairs": _PAIRS,
        "mode_contexts": _MODES[0],
        "mode_samples": _MODES[1],
        "calibration_pairs": _RANKS[0],
        "calibration_samples": _RANKS[1],
    }
