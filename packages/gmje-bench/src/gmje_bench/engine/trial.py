"""One trial: one method with one seed is trained, evaluated and recorded."""

import logging
import resource
import sys
import traceback

import torch
from accelerate.utils import set_seed

from gmje_bench.engine.output import save_tensors, write_text
from gmje_bench.engine.progress import Reporter
from gmje_bench.engine.state import RunState
from gmje_bench.errors import BenchError, OptionError, RunFolderError
from gmje_bench.evaluation.measure import Clock, autocast_type, measure
from gmje_bench.evaluation.pairs import PairsOf
from gmje_bench.methods import METHODS
from gmje_bench.planning.preview import DataShape, build
from gmje_bench.processes import MainProcessError, made_on_main, on_main
from gmje_bench.runs import PRETRAINED, Record, finite
from gmje_bench.training.checkpoint import Checkpoint
from gmje_bench.training.consolidation import consolidate, needs_consolidation
from gmje_bench.training.interrupts import Interrupts
from gmje_bench.training.module import JointEmbedding
from gmje_bench.training.pretrain import Diagnostics, DivergedError, pretrain
from gmje_bench.training.profiling import profiled
from gmje_core import GMJEError, diagnostics
from gmje_core.errors import CollapsedError

__all__ = ["run_trial"]

logger = logging.getLogger(__name__)

# These errors come from numbers that all processes hold, so that all processes raise them.
RAISED_BY_ALL = (DivergedError, GMJEError, MainProcessError, OptionError)

#: What the advice says of a method whose embeddings are all the same.
NO_DENSITY = "There is no density, and tasks on views have no numbers"


def run_trial(state: RunState, method: str, seed: int, reporter: Reporter, interrupts: Interrupts) -> None:
    """Train, evaluate and record one method with one seed; a failure of the method becomes a record that says so.

    Args:
        state: The run, whose results get the record.
        method: The name of the method.
        seed: The seed of everything that is drawn.
        reporter: Tells the user how it goes.
        interrupts: Asked during training whether to stop.

    Raises:
        BenchError: an error that the user can correct and that says nothing about the method, such as a full disk.
        Interrupted: Ctrl-C or SIGTERM.
    """
    accelerator, results = state.accelerator, state.results
    done = next((r for r in results.records if (r.method, r.seed) == (method, seed)), None)
    if done is not None:
        reporter.skip(state.suite.training.epochs, f"{method} seed {seed}: finished before")
        return
    record = Record(method=method, seed=seed, status="ok")
    checkpoint = Checkpoint(
        state.output / "checkpoints" / f"{method}-seed{seed}.safetensors", state.identity(method, seed)
    )
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    try:
        train_and_evaluate(state, record, checkpoint, reporter, interrupts)
    except BenchError:  # A damaged checkpoint or a missing dataset is no result of the method.
        raise
    except Exception as error:
        logger.debug("%s", traceback.format_exc())
        if isinstance(error, OSError):
            raise RunFolderError(f"cannot write {state.output}: {error.strerror or error}") from error
        if accelerator.num_processes > 1 and not isinstance(error, RAISED_BY_ALL):
            # The other processes may be waiting for this one in a collective: going on would hang all of them.
            raise
        record.status, record.metrics, record.artifacts = "failed", {}, None
        record.error = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    record.peak_memory_mib = peak_memory(accelerator.device)
    accelerator.wait_for_everyone()
    results.records.append(record)
    state.write()
    on_main(accelerator, checkpoint.remove)
    reporter.result(summary_line(record))


def train_and_evaluate(
    state: RunState, record: Record, checkpoint: Checkpoint, reporter: Reporter, interrupts: Interrupts
) -> None:
    """Train where there is something to train, evaluate, and save what was learned; the record gets the numbers."""
    suite, data, accelerator = state.suite, state.data, state.accelerator
    assert data is not None
    method, seed = record.method, record.seed
    set_seed(seed)
    module = build(method, suite, DataShape.of(data), seed).to(accelerator.device)
    workers = suite.training.workers
    views = PairsOf(module, data, seed, accelerator.device, workers)
    if module.trains:
        reporter.stage(f"{method} seed {seed}: training")
        train(state, module, record, checkpoint, reporter, interrupts)
        if needs_consolidation(module):
            reporter.stage(f"{method} seed {seed}: consolidating the density")
            close_training(state, module, views, record)
    elif METHODS[method].pretrained:
        record.verdict = PRETRAINED
    reporter.stage(f"{method} seed {seed}: evaluating")
    precision = autocast_type(accelerator.mixed_precision) if suite.training.mixed_evaluation else None
    artifacts = {}
    try:
        artifacts = measure(
            record, module, data, suite.tasks, accelerator, workers=workers, precision=precision, pairs=views
        )
    except CollapsedError as error:  # The main process has it alone, after the last collective.
        say_collapsed(record, error)
    if not accelerator.is_main_process:
        return
    if artifacts:
        record.artifacts = f"artifacts/{method}-seed{seed}.safetensors"
        save_tensors(artifacts, state.output / record.artifacts)
    if state.launch.track:
        accelerator.log({f"{method}/seed{seed}/{key}": v for key, v in record.metrics.items()})
    folder = state.output / "models" / f"{method}-seed{seed}"
    save_tensors(module.state_dict(), folder / "model.safetensors")
    if module.config is not None:
        write_text(folder / "preprocessor_config.json", module.views(data).preprocessing.to_json())
        write_text(folder / "config.json", module.config.to_json())


def close_training(state: RunState, module: JointEmbedding, views: PairsOf, record: Record) -> None:
    """Fit the density of a trained module; the record gets what was chosen, or why there is no density."""
    with Clock(record.seconds)("consolidate"):
        pairs = views.pairs
        try:
            fit = made_on_main(
                state.accelerator, lambda: None if pairs is None else consolidate(module, pairs, seed=record.seed)
            )
        except CollapsedError as error:
            module.forgo_density()
            say_collapsed(record, error)
            return
    if fit is not None:
        record.choices |= {
            "consolidated_components": float(fit.components),
            "consolidated_shrinkage": fit.shrinkage,
            "consolidated_validation_log_prob": fit.validation_log_prob,
            "conditional_factor": fit.conditional_factor,
        }


def say_collapsed(record: Record, error: CollapsedError) -> None:
    """Let the verdict and the advice of a record say that its embeddings have no density."""
    if record.verdict == diagnostics.HEALTHY.name:  # Training mode may hide what evaluation shows.
        record.verdict, record.advice = diagnostics.COMPLETE_COLLAPSE
    advice = (record.advice or "").partition(NO_DENSITY)[0].strip()
    record.advice = f"{advice} {NO_DENSITY}: {error}.".strip()


def train(
    state: RunState,
    module: JointEmbedding,
    record: Record,
    checkpoint: Checkpoint,
    reporter: Reporter,
    interrupts: Interrupts,
) -> None:
    """Train a module in place; the record gets the history and the verdict."""
    suite, accelerator, method, seed = state.suite, state.accelerator, record.method, record.seed
    assert state.data is not None

    def on_epoch(epoch: int, loss: float, values: Diagnostics) -> None:
        reporter.epoch(method, seed, epoch, suite.training.epochs, loss, str(values.get("verdict", "")))
        if state.launch.track:
            numbers = {key: value for key, value in values.items() if not isinstance(value, str)}
            accelerator.log({f"{method}/seed{seed}/{key}": v for key, v in {"loss": loss, **numbers}.items()}, epoch)

    trace = state.output / "profile" / f"{method}-seed{seed}.json" if state.launch.profile else None
    with interrupts.deferred(), profiled(trace, accelerator) as on_step:
        progress = pretrain(
            module,
            state.data,
            suite.training,
            seed=seed,
            accelerator=accelerator,
            on_epoch=on_epoch,
            on_step=on_step,
            checkpoint=checkpoint,
            interrupts=interrupts,
        )
    last = progress.history[-1]
    record.seconds["pretrain"] = round(progress.seconds, 3)
    record.history = [finite(values) for values in progress.history]
    record.verdict, record.advice = str(last["verdict"]), str(last["advice"])


def summary_line(record: Record) -> str:
    """The line that a user sees when a trial has ended."""
    head = f"{record.method} seed {record.seed}:"
    if record.status == "failed":
        return f"{head} FAILED {record.error}"
    m = record.metrics
    if not m:
        return head
    shown = {"linear_probe": "linear probe {:.1f} %", "knn": "kNN {:.1f} %", "effective_rank": "effective rank {:.1f}"}
    numbers = ", ".join(text.format(m[name]) for name, text in shown.items() if name in m)
    return f"{head} {numbers}, {record.verdict or 'untrained'} ({sum(record.seconds.values()):.0f} s)"


def peak_memory(device: torch.device) -> float:
    """Peak memory in MiB: of the allocator on a GPU, else of this process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale, 1)
