"""The run itself: every method with every seed, trained, evaluated and recorded, one failure not stopping the rest.

Results are written after every record, training is checkpointed after every epoch, and what has finished is not done
again when a run is resumed.
"""

import logging
import os
import platform
import resource
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed
from safetensors.torch import save
from torch import Tensor

from gmje_bench import report
from gmje_bench.checkpoint import Checkpoint
from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.base import ImageData
from gmje_bench.errors import BenchError, OptionError, RunFolderError
from gmje_bench.evaluate import Clock, evaluate
from gmje_bench.interrupts import Interrupts
from gmje_bench.methods import METHODS
from gmje_bench.module import JointEmbedding, build_module
from gmje_bench.pretrain import Diagnostics, DivergedError, plan, pretrain
from gmje_bench.profiling import check_trackers, profiled
from gmje_bench.progress import Reporter
from gmje_bench.protocol import PROTOCOL
from gmje_bench.resume import take_up
from gmje_bench.runs import (
    PRETRAINED,
    DatasetRecord,
    Record,
    Results,
    create_run_folder,
    finite,
    read_results,
    write_atomic,
    write_results,
)
from gmje_bench.suite import Suite
from gmje_core import GMJEError

__all__ = ["Launch", "run"]

logger = logging.getLogger(__name__)

# Raised from numbers that all processes hold, hence by all of them.
_SHARED = (DivergedError, GMJEError, OptionError)

_PACKAGES = ("gmje-core", "gmje-bench", "torch", "torchvision", "accelerate", "lightly", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Launch:
    """How a run was started; none of it changes a number.

    Args:
        name: The suite's, for the results.
        output: The run folder.
        command: The command line, for the results.
        mode: ``new`` needs an empty folder, ``overwrite`` replaces an earlier run, ``resume`` goes on with one.
        processes: How many must take part; ``None`` for any number.
        track: An Accelerate tracker to log to.
        profile: Write a profiler trace of every method's first steps.
        jobs: Synthetic tasks at a time; ``None`` for one a core.
    """

    name: str
    output: Path
    command: str
    mode: Literal["new", "overwrite", "resume"] = "new"
    processes: int | None = None
    track: str | None = None
    profile: bool = False
    jobs: int | None = None


class _Run:
    """What all stages of a run share."""

    def __init__(self, suite: Suite, launch: Launch, accelerator: Accelerator, data: ImageData | None) -> None:
        self.suite, self.launch, self.accelerator, self.data = suite, launch, accelerator, data
        self.results = _describe(suite, launch, data, accelerator)

    @property
    def output(self) -> Path:
        """The run folder."""
        return self.launch.output

    def write(self) -> None:
        """Write the results; every process must call it."""
        _on_main(self.accelerator, lambda: _write(self.output, self.results))

    def identity(self, method: str, seed: int) -> dict[str, Any]:
        """What must be the same for a method's training to go on."""
        r = self.results
        assert r.dataset is not None
        options = {key: r.options[key] for key in ("image_size", "limit", "network", "training")}
        return {
            "method": method,
            "options": r.options["method"].get(method, {}),
            "source": r.sources.get(method, ""),
            "seed": seed,
            "suite": options,
            "dataset": r.dataset.fingerprint,
            "versions": r.versions,
            "world_size": r.world_size,
        }


def run(suite: Suite, launch: Launch) -> Results:
    """Run a suite and write its folder.

    Args:
        suite: What to run, options applied.
        launch: How.

    Returns:
        The results, the same on the main process and in the folder.

    Raises:
        BenchError: a mistake that the user can mend, before anything is trained; a disk that is full.
        Interrupted: Ctrl-C or SIGTERM; what has finished and a checkpoint of the rest are in the folder.
    """
    check_trackers(launch.track)
    try:
        accelerator = Accelerator(
            cpu=_only_cpus(),
            mixed_precision=suite.training.mixed_precision,
            log_with=launch.track,
            project_dir=str(launch.output) if launch.track else None,
            # Other processes wait while the main one fits probes.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
        )
    except ValueError as error:  # a precision that the hardware lacks
        raise OptionError(str(error)) from error
    _check_world(accelerator, launch.processes)
    state = _Run(suite, launch, accelerator, _prepare_data(suite, accelerator))
    _on_main(accelerator, lambda: _open_folder(state))
    if accelerator.num_processes > 1 and launch.mode == "resume":
        state.results = read_results(launch.output)  # which the main process has brought up to date
    with ExitStack() as stack:
        reporter = stack.enter_context(Reporter(active=accelerator.is_main_process, total=_epochs(suite)))
        stack.enter_context(_warnings_to(reporter))
        interrupts = stack.enter_context(Interrupts())
        if launch.track:
            accelerator.init_trackers("gmje_bench", config=_flat(state.results.options))
        if state.data is not None:
            for seed in suite.seeds:
                for method in suite.methods:
                    if METHODS[method].pretrained and seed != suite.seeds[0]:
                        reporter.skip(suite.training.epochs, f"{method} seed {seed}: one model, measured once")
                        continue
                    _run_one(state, method, seed, reporter, interrupts)
        if suite.synthetic is not None and accelerator.is_main_process:
            _run_synthetic(state, reporter)
        _on_main(accelerator, lambda: _draw(state))
    accelerator.end_training()
    return state.results


def _prepare_data(suite: Suite, accelerator: Accelerator) -> ImageData | None:
    """The images, and a try at building every method: options are wrong before, not after, an hour of training."""
    if suite.dataset is None:
        return None
    with accelerator.local_main_process_first():  # one download, not one for each process
        data = load_dataset(suite.dataset, image_size=suite.image_size, limit=suite.limit)
    plan(len(data.train), suite.training, accelerator)
    for method in suite.methods:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _build(method, suite, data, suite.seeds[0])
    return data


def _open_folder(state: _Run) -> None:
    """Make the run folder, or take up what is in it; called on the main process."""
    launch = state.launch
    if launch.mode == "resume" and (launch.output / "results.json").exists():
        take_up(state.results, launch.output)
    else:
        create_run_folder(launch.output, overwrite=launch.mode != "new")
    write_results(launch.output, state.results)


def _run_one(state: _Run, method: str, seed: int, reporter: Reporter, interrupts: Interrupts) -> None:
    """Train, evaluate and record one method with one seed; any failure becomes a record that says so."""
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
        _train_and_evaluate(state, record, checkpoint, reporter, interrupts)
    except BenchError:  # a damaged checkpoint, a dataset that is gone: the user's to mend, and no result of the method
        raise
    except Exception as error:
        logger.debug("%s", traceback.format_exc())
        if isinstance(error, OSError):
            raise RunFolderError(f"cannot write {state.output}: {error.strerror or error}") from error
        if accelerator.num_processes > 1 and not isinstance(error, _SHARED):
            # The others may be waiting for this process in a collective: going on would hang all of them.
            raise
        record.status, record.metrics, record.artifacts = "failed", {}, None
        record.error = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    record.peak_memory_mib = _peak_memory(accelerator.device)
    accelerator.wait_for_everyone()
    results.records.append(record)
    state.write()
    _on_main(accelerator, checkpoint.remove)
    reporter.result(_line(record))


def _train_and_evaluate(
    state: _Run, record: Record, checkpoint: Checkpoint, reporter: Reporter, interrupts: Interrupts
) -> None:
    suite, data, accelerator = state.suite, state.data, state.accelerator
    assert data is not None
    method, seed = record.method, record.seed

    def on_epoch(epoch: int, loss: float, values: Diagnostics) -> None:
        reporter.epoch(method, seed, epoch, suite.training.epochs, loss, str(values.get("verdict", "")))
        if state.launch.track:
            numbers = {key: value for key, value in values.items() if not isinstance(value, str)}
            accelerator.log({f"{method}/seed{seed}/{key}": v for key, v in {"loss": loss, **numbers}.items()}, epoch)

    set_seed(seed)
    module = _build(method, suite, data, seed).to(accelerator.device)
    if module.trains:
        reporter.stage(f"{method} seed {seed}: training")
        trace = state.output / "profile" / f"{method}-seed{seed}.json" if state.launch.profile else None
        with Clock(record.seconds)("pretrain"), interrupts.deferred(), profiled(trace, accelerator) as on_step:
            history = pretrain(
                module,
                data,
                suite.training,
                seed=seed,
                accelerator=accelerator,
                on_epoch=on_epoch,
                on_step=on_step,
                checkpoint=checkpoint,
                interrupts=interrupts,
            )
        record.history = [finite(values) for values in history]
        record.verdict, record.advice = str(history[-1]["verdict"]), str(history[-1]["advice"])
    elif METHODS[method].pretrained:
        record.verdict = PRETRAINED
    reporter.stage(f"{method} seed {seed}: evaluating")
    artifacts = evaluate(record, module, data, suite, accelerator)
    if accelerator.is_main_process:
        if artifacts:
            record.artifacts = f"artifacts/{method}-seed{seed}.safetensors"
            _save(artifacts, state.output / record.artifacts)
        if state.launch.track:
            accelerator.log({f"{method}/seed{seed}/{key}": v for key, v in record.metrics.items()})
        folder = state.output / "models" / f"{method}-seed{seed}"
        _save(module.state_dict(), folder / "model.safetensors")
        if module.config is not None:
            _write_text(folder / "preprocessor_config.json", module.views(data).preprocessing.to_json())
            _write_text(folder / "config.json", module.config.to_json())


def _run_synthetic(state: _Run, reporter: Reporter) -> None:
    """The synthetic tasks that are not finished, recorded one by one; on the main process alone."""
    from gmje_bench.alignment.engine import describe, units
    from gmje_bench.alignment.engine import run as run_units

    options, results = state.suite.synthetic, state.results
    assert options is not None
    finished = {(r.task, r.dim, r.seed) for r in results.alignment}
    work = [unit for unit in units(options, state.suite.seeds) if tuple(unit) not in finished]
    reporter.stage(f"synthetic tasks: {len(work)} to do, {len(finished)} finished before")
    jobs = state.launch.jobs or _cores()
    for found in run_units(options, work, jobs):
        if found.picture is not None and found.records[0].seed == state.suite.seeds[0]:
            _save(found.picture.tensors(), _picture_path(state.output, found.picture.task))
        results.alignment += found.records
        _write(state.output, results)
        for record in found.records:
            reporter.line(describe(record))


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _picture_path(output: Path, task: str) -> Path:
    return output / "artifacts" / f"synthetic-{task}.safetensors"


def _build(method: str, suite: Suite, data: ImageData, seed: int) -> JointEmbedding:
    try:
        return build_module(method, suite, data.channels, seed, classes=len(data.classes), image_size=data.image_size)
    except GMJEError as error:
        raise OptionError(str(error)) from error


def _epochs(suite: Suite) -> int:
    return suite.training.epochs * len(suite.methods) * len(suite.seeds)


def _only_cpus() -> bool:
    """Whether several processes were launched on a machine without a device that processes can be spread over.

    Accelerate must be told so: it would otherwise take every process for a run of its own. A single process may use
    any device that Accelerate finds.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    device = torch.accelerator.current_accelerator(check_available=True)
    return device is None or device.type == "mps"


def _check_world(accelerator: Accelerator, processes: int | None) -> None:
    """Raise unless all processes that were launched, and as many as were asked for, take part in this run."""
    launched, found = int(os.environ.get("WORLD_SIZE", "1")), accelerator.num_processes
    if launched > 1 and found != launched:
        raise OptionError(
            f"{launched} processes were launched, but Accelerate made a run of {found} process(es) of each; unset "
            "the variables ACCELERATE_* of the environment, or launch one process"
        )
    if processes is not None and processes != found:
        raise OptionError(
            f"--processes {processes} was asked for, but {found} process(es) were launched; start them with `torchrun "
            f"--standalone --nproc_per_node {processes} -m gmje_bench run ...`"
        )


def _describe(suite: Suite, launch: Launch, data: ImageData | None, accelerator: Accelerator) -> Results:
    device = accelerator.device
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    dataset = None
    if data is not None:
        dataset = DatasetRecord(
            name=data.name,
            fingerprint=data.fingerprint,
            fingerprint_of=data.fingerprint_of,
            train=len(data.train),
            test=len(data.test),
            classes=len(data.classes),
            class_names=list(data.classes),
            image_size=data.image_size,
        )
    return Results(
        suite=launch.name,
        options=suite.model_dump(),
        sources={name: METHODS[name].source for name in suite.methods if METHODS[name].source},
        protocol=PROTOCOL.to_dict(),
        dataset=dataset,
        versions={"python": platform.python_version()} | {package: metadata.version(package) for package in _PACKAGES},
        environment={
            "platform": platform.platform(),
            "device": str(device.type),
            "hardware": hardware,
            "cpus": os.cpu_count() or 1,
            "threads": torch.get_num_threads(),
        },
        command=launch.command,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        world_size=accelerator.num_processes,
    )


def _line(record: Record) -> str:
    head = f"{record.method} seed {record.seed}:"
    if record.status == "failed":
        return f"{head} FAILED {record.error}"
    m = record.metrics
    if not m:
        return head
    shown = {"linear_probe": "linear probe {:.1f} %", "knn": "kNN {:.1f} %", "effective_rank": "effective rank {:.1f}"}
    numbers = ", ".join(text.format(m[name]) for name, text in shown.items() if name in m)
    return f"{head} {numbers}, {record.verdict or 'untrained'} ({sum(record.seconds.values()):.0f} s)"


def _write(output: Path, results: Results) -> None:
    write_results(output, results)
    _write_text(output / "results.md", report.markdown(results))


def _draw(state: _Run) -> None:
    """Draw the figures of the run; one that cannot be drawn is a warning, because the results are already written."""
    output, results = state.output, state.results
    figures: dict[str, Callable[[], None]] = {}
    if any(record.status == "ok" for record in results.records):
        figures["accuracy.png"] = lambda: report.draw_accuracy(results, output / "accuracy.png")
        figures["diagnostics.png"] = lambda: report.draw_diagnostics(results, output / "diagnostics.png")
    if state.suite.synthetic is not None:
        figures["alignment.png"] = lambda: _draw_synthetic(state)
    for name, draw in figures.items():
        try:
            draw()
        except Exception as error:
            logger.debug("%s", traceback.format_exc())
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            warnings.warn(f"{name} was not drawn ({reason}); the results are not affected", stacklevel=2)


def _draw_synthetic(state: _Run) -> None:
    from safetensors.torch import load_file

    from gmje_bench.alignment.engine import Picture
    from gmje_bench.alignment.figure import draw_alignment

    assert state.suite.synthetic is not None
    paths = {task: _picture_path(state.output, task) for task in state.suite.synthetic.tasks}
    pictures = [Picture.from_tensors(task, load_file(path)) for task, path in paths.items() if path.exists()]
    if pictures:
        records = [r for r in state.results.alignment if r.seed == state.suite.seeds[0]]
        draw_alignment(pictures, records, state.output / "alignment.png")


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    write_atomic(path, lambda stream: stream.write(content))


def _write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda stream: stream.write(text.encode()))


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Nested options as a tracker's configuration takes them."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in options.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str | int | float | bool) else str(value)
    return flat


def _on_main(accelerator: Accelerator, action: Callable[[], None]) -> None:
    """Do something on the main process; where it fails, every process stops, none waits for ever."""
    failure = torch.zeros(1, device=accelerator.device)
    problem: BenchError | None = None
    if accelerator.is_main_process:
        try:
            action()
        except BenchError as error:
            problem = error
        except OSError as error:
            problem = RunFolderError(f"cannot write the run folder: {error.strerror or error}")
        failure += problem is not None
    failed = bool(torch.as_tensor(accelerator.reduce(failure, reduction="sum")) > 0)
    if problem is not None:
        raise problem
    if failed:
        raise BenchError("the main process stopped")


@contextmanager
def _warnings_to(reporter: Reporter) -> Iterator[None]:
    """Warnings as single lines of the report, each text once."""
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        text = f"warning: {message}"
        if text not in seen:
            seen.add(text)
            reporter.line(text)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show
        yield


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale, 1)
