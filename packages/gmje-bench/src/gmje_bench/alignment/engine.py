"""The alignment benchmark measures every rival on every task against the truth and against the truth's own noise."""

import multiprocessing
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from gmje_bench.alignment.conditional import Conditional
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
from gmje_bench.alignment.rivals import get_rival
from gmje_bench.alignment.tasks import TASKS, make_truth
from gmje_bench.alignment.truths import Truth
from gmje_bench.errors import BenchError
from gmje_bench.protocol import PROTOCOL
from gmje_bench.runs import AlignmentRecord
from gmje_bench.suites import Synthetic
from gmje_core import GMJEError

__all__ = [
    "TRUTH",
    "Found",
    "Picture",
    "Unit",
    "describe",
    "evaluate",
    "run",
    "theory",
    "units",
]

#: The name under which the truth is measured against itself.
TRUTH = "truth"

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
        task: The name of the task.
        context: ``(n, d_c)``, the contexts of the samples.
        samples: Samples ``(n, d_t)`` by method, the truth first.
        curve: ``(m, d_c)``, the contexts of the means.
        means: Conditional means ``(m, d_t)`` by method.
    """

    task: str
    context: Tensor
    samples: dict[str, Tensor]
    curve: Tensor
    means: dict[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the name of the task, as named tensors for a file."""
        named = {f"samples.{name}": z for name, z in self.samples.items()}
        named |= {f"means.{name}": z for name, z in self.means.items()}
        return {"context": self.context, "curve": self.curve, **named}

    @classmethod
    def from_tensors(cls, task: str, tensors: dict[str, Tensor]) -> "Picture":
        """Build the picture from what :meth:`tensors` gave."""
        samples, means = (
            {name.removeprefix(prefix): z for name, z in tensors.items() if name.startswith(prefix)}
            for prefix in ("samples.", "means.")
        )
        return cls(task, tensors["context"], samples, tensors["curve"], means)


class Unit(NamedTuple):
    """What is run, recorded and resumed as a whole: every method on one task with one seed.

    Attributes:
        task: The name of the task.
        dim: Size that both views are lifted to; ``None`` leaves the task's own size.
        seed: Seed of the training set, of the random mixture and of the rotation.
    """

    task: str
    dim: int | None
    seed: int


class Found(NamedTuple):
    """The results of a unit.

    Attributes:
        records: The record of the truth, then one for each method.
        picture: What the figure shows of a task in its own dimensions; ``None`` for a lifted task.
    """

    records: list[AlignmentRecord]
    picture: Picture | None


def units(options: Synthetic, seeds: Sequence[int]) -> list[Unit]:
    """All units in the order of running."""
    return [Unit(task, dim or None, seed) for dim in options.dims for task in options.tasks for seed in seeds]


def run(options: Synthetic, work: Sequence[Unit], jobs: int = 1) -> Iterator[Found]:
    """Fit and measure every method on every task; a failure is recorded and does not stop the rest.

    Args:
        options: What to run.
        work: The units that are left to do, from :func:`units`.
        jobs: How many units run at a time, each in a process of one thread; the numbers do not depend on it.

    Yields:
        What was found, in the order of the work, as soon as it is known.

    Raises:
        BenchError: a process was killed.
    """
    arguments = [(options, unit) for unit in work]
    if min(jobs, len(work)) <= 1:
        yield from map(_run_single_threaded, arguments)
        return
    # Processes are spawned, because a forked child of a process that has used torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(work)), mp_context=context, initializer=_die_quietly) as pool:
        try:
            yield from pool.map(_run_single_threaded, arguments)
        except BrokenProcessPool as error:
            raise BenchError(
                "a process that fitted a synthetic task was killed (out of memory?); --resume goes on from what had "
                "finished"
            ) from error
        except BaseException:
            for child in multiprocessing.active_children():
                child.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _die_quietly() -> None:
    """End without a traceback at Ctrl-C, which reaches every process of a terminal; the main process says why."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _run_single_threaded(work: tuple[Synthetic, Unit]) -> Found:
    """Run a unit on one thread: networks this small gain nothing from more, and sums then keep their order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run_unit(*work)
    finally:
        torch.set_num_threads(threads)


def _run_unit(options: Synthetic, unit: Unit) -> Found:
    truth = make_truth(unit.task, unit.seed, unit.dim)
    pairs = options.samples if unit.dim is None else options.samples * 5 // 2
    context, target = (z.float() for z in truth.sample(pairs, _generator(unit.seed, 1)))
    held_out = HeldOut(truth, unit.seed)
    place = unit._asdict()
    records = [AlignmentRecord(**place, method=TRUTH, metrics=held_out.floor())]
    fitted: dict[str, Asked] = {TRUTH: truth}
    limits = held_out.theory()
    for method in options.methods:
        record = AlignmentRecord(**place, method=method)
        # Seconds of the processor, which other work on the machine does not change; the fit has a single thread.
        start = time.process_time()
        try:
            conditional = get_rival(method).fit(context, target, options.epochs, unit.seed)
            record.seconds = round(time.process_time() - start, 3)
            record.metrics = held_out.measure(conditional)
            if method in limits:
                record.metrics["theory"] = limits[method]
            fitted[method] = conditional
        except GMJEError as error:
            record.status, record.error = "failed", " ".join(f"{type(error).__name__}: {error}".split())
        records.append(record)
    return Found(records, _picture(held_out, unit, fitted))


def _picture(held_out: "HeldOut", unit: Unit, fitted: dict[str, Asked]) -> Picture | None:
    """The picture of a task in its own dimensions; where it cannot be made, a warning says so."""
    if unit.dim is not None:
        return None
    try:
        return held_out.picture(unit.task, fitted)
    except Exception as error:
        warnings.warn(f"{unit.task} seed {unit.seed} has no picture ({type(error).__name__}: {error})", stacklevel=2)
        return None


def describe(record: AlignmentRecord) -> str:
    """Describe a record in one line.

    Examples:
        >>> describe(AlignmentRecord(task="ring", dim=16, method="gje", seed=0, status="failed", error="no"))
        'gje on ring in 16 dimensions, seed 0: failed: no'
    """
    if record.status == "failed":
        return f"{record.describe()}: failed: {record.error}"
    numbers = f"KL {record.metrics['kl']:.3f} nats, mode recall {record.metrics['recall']:.2f}"
    return f"{record.describe()}: {numbers} ({record.seconds:.1f} s)"


def evaluate(truth: Truth, conditional: Conditional, seed: int = 0) -> dict[str, float]:
    """Measure a fitted conditional against the truth, on pairs that no fit has seen.

    Args:
        truth: The task.
        conditional: What was fitted.
        seed: Seed of the held-out pairs and of all samples.

    Returns:
        Values by the names of :data:`gmje_bench.runs.METRICS`, without the theory.

    Examples:
        >>> truth = make_truth("crossing")
        >>> context, target = truth.sample(2000, torch.Generator().manual_seed(1))
        >>> metrics = evaluate(truth, get_rival("gje").fit(context, target, 1, 0))
        >>> round(metrics["kl"], 1), metrics["recall"] < 0.5
        (1.3, True)
    """
    return HeldOut(truth, seed).measure(conditional)


def theory(truth: Truth, seed: int = 0) -> dict[str, float]:
    """The KL in nats that MSE regression and GJE approach with unlimited data and capacity.

    Args:
        truth: The task.
        seed: Seed of the pairs over which expectations are taken.

    Returns:
        Values by method, ``"mse"`` and ``"gje"``.

    Examples:
        >>> {name: round(kl, 1) for name, kl in theory(make_truth("crossing")).items()}
        {'mse': 1.3, 'gje': 1.3}
    """
    return HeldOut(truth, seed).theory()


class HeldOut:
    """A truth with held-out pairs and reference samples, the same for all methods so that their numbers compare."""

    def __init__(self, truth: Truth, seed: int) -> None:
        self.truth, self.seed = truth, seed
        # Pairs are rounded to what models see, so that truth and model judge the same numbers.
        self.context, self.target = (z.float() for z in truth.sample(PROTOCOL.held_out_pairs, _generator(seed, 2)))
        self.log_prob = truth.log_prob(self.target, self.context)
        contexts, samples = PROTOCOL.mode_contexts, PROTOCOL.mode_samples
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
        rows, count = PROTOCOL.calibration_pairs, PROTOCOL.calibration_samples
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
        """Measure the truth itself; its ranks are uniform by definition, so its slow densities are not evaluated."""
        ranks = torch.rand(PROTOCOL.calibration_pairs, generator=_generator(self.seed, 6))
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
        samples = self._samples(asked, PROTOCOL.mode_contexts, PROTOCOL.mode_samples, generator)
        masses = mode_masses(self.centers, self.reference, samples)
        rows, count = PROTOCOL.calibration_pairs, PROTOCOL.calibration_samples
        ranks = pit_values(
            self.truth.project(self.target[:rows]), self._samples(asked, rows, count, generator), generator
        )
        # The two clouds have different contexts, as two independent samples of pairs have.
        pairs = PROTOCOL.distance_pairs
        first, second = self.context[:pairs], self.context[pairs : 2 * pairs]
        truth_pairs = torch.cat([first, self.target[:pairs]], dim=1).double()
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
    """A generator for one of the independent streams of a seed: training, held-out pairs, and so on."""
    return torch.Generator().manual_seed(1000 * seed + stream)
