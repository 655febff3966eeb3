"""The run itself: every method with every seed, trained, evaluated and recorded, one failure not stopping the rest."""

import logging
import os
import platform
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed
from safetensors.torch import save

from gmje_bench import report
from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.base import ImageData
from gmje_bench.errors import BenchError, OptionError, RunFolderError
from gmje_bench.features import extract_features
from gmje_bench.module import JointEmbedding, build_module
from gmje_bench.pretrain import Diagnostics, DivergedError, plan, pretrain
from gmje_bench.progress import Reporter
from gmje_bench.protocol import PROTOCOL
from gmje_bench.runs import DatasetRecord, Record, Results, create_run_folder, finite, write_atomic, write_results
from gmje_bench.suite import Suite
from gmje_bench.tasks import linear_probe, weighted_knn
from gmje_core import GMJEError, diagnostics

__all__ = ["run"]

logger = logging.getLogger(__name__)

# Raised from numbers that all processes hold, hence by all of them.
_SHARED = (DivergedError, GMJEError, OptionError)

_PACKAGES = ("gmje-core", "gmje-bench", "torch", "torchvision", "accelerate", "lightly", "scikit-learn", "numpy")


@dataclass
class _Clock:
    """Wall-clock seconds of named stages."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)


def run(suite: Suite, name: str, output: Path, *, overwrite: bool, processes: int | None, command: str) -> Results:
    """Run a suite and write its folder.

    Args:
        suite: What to run, options applied.
        name: The suite's name, for the results.
        output: The run folder.
        overwrite: Whether an earlier run in the folder may be replaced.
        processes: How many processes must take part; ``None`` for any number.
        command: The command line, for the results.

    Returns:
        The results, the same on the main process and in the folder.

    Raises:
        BenchError: a mistake that the user can mend, before anything is trained.
    """
    try:
        accelerator = Accelerator(
            mixed_precision=suite.training.mixed_precision,
            # Other processes wait while the main one fits probes.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
        )
    except ValueError as error:  # a precision that the hardware lacks
        raise OptionError(str(error)) from error
    _check_world(accelerator, processes)
    with accelerator.local_main_process_first():  # one download, not one for each process
        data = load_dataset(suite.dataset, image_size=suite.image_size, limit=suite.limit)
    plan(len(data.train), suite.training, accelerator)
    for method in suite.methods:  # options are wrong before, not after, an hour of training
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _build(method, suite, data, suite.seeds[0])
    _on_main(accelerator, lambda: create_run_folder(output, overwrite=overwrite))
    results = _describe(suite, name, data, accelerator, command)
    epochs = suite.training.epochs * len(suite.methods) * len(suite.seeds)
    with Reporter(active=accelerator.is_main_process, total=epochs) as reporter, _warnings_to(reporter):
        for seed in suite.seeds:
            for method in suite.methods:
                record = _run_one(method, seed, suite, data, accelerator, reporter, output)
                results.records.append(record)
                reporter.result(_line(record))
                _on_main(accelerator, lambda: _write(output, results))
        _on_main(accelerator, lambda: _draw(output, results))
    accelerator.end_training()
    return results


def _run_one(
    method: str,
    seed: int,
    suite: Suite,
    data: ImageData,
    accelerator: Accelerator,
    reporter: Reporter,
    output: Path,
) -> Record:
    """Train and evaluate one method with one seed; any failure becomes a record that says so."""
    record = Record(method=method, seed=seed, status="ok")
    clock = _Clock(record.seconds)
    device = accelerator.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def on_epoch(epoch: int, loss: float, values: Diagnostics) -> None:
        reporter.epoch(method, seed, epoch, suite.training.epochs, loss, str(values.get("verdict", "")))

    try:
        set_seed(seed)
        module = _build(method, suite, data, seed).to(device)
        if module.trains:
            reporter.stage(f"{method} seed {seed}: training")
            with clock("pretrain"):
                history = pretrain(module, data, suite.training, seed=seed, accelerator=accelerator, on_epoch=on_epoch)
            record.history = [finite(values) for values in history]
            record.verdict, record.advice = str(history[-1]["verdict"]), str(history[-1]["advice"])
        reporter.stage(f"{method} seed {seed}: evaluating")
        _evaluate(record, module, data, suite, accelerator, clock)
        if accelerator.is_main_process:
            _save(module, output / "models" / f"{method}-seed{seed}.safetensors")
    except KeyboardInterrupt:
        raise
    except Exception as error:
        logger.debug("%s", traceback.format_exc())
        if isinstance(error, OSError):
            raise RunFolderError(f"cannot write {output}: {error.strerror or error}") from error
        if accelerator.num_processes > 1 and not isinstance(error, _SHARED):
            # The others may be waiting for this process in a collective: going on would hang all of them.
            raise
        record.status, record.metrics = "failed", {}
        record.error = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    record.peak_memory_mib = _peak_memory(device)
    accelerator.wait_for_everyone()
    return record


def _evaluate(
    record: Record,
    module: JointEmbedding,
    data: ImageData,
    suite: Suite,
    accelerator: Accelerator,
    clock: _Clock,
) -> None:
    """Features on all processes, scores on the main one."""
    workers = suite.training.workers
    with clock("features"):
        train, test = (
            extract_features(module.backbone, split, data, device=accelerator.device, workers=workers)
            for split in (data.train, data.test)
        )
    if not accelerator.is_main_process:
        return
    if not (torch.isfinite(train).all() and torch.isfinite(test).all()):
        raise GMJEError("the features hold NaN or infinity")
    labels = data.train.labels, data.test.labels
    with clock("knn"):
        record.metrics["knn"] = weighted_knn(train, labels[0], test, labels[1], len(data.classes))
    with clock("linear_probe"):
        probe = linear_probe(train, labels[0], test, labels[1])
    record.metrics["linear_probe"] = probe.accuracy
    record.metrics["effective_rank"] = float(diagnostics.effective_rank(test))
    record.choices = {"probe_c": probe.c, "probe_validation_accuracy": probe.validation_accuracy}


def _build(method: str, suite: Suite, data: ImageData, seed: int) -> JointEmbedding:
    try:
        return build_module(method, suite, data.channels, seed, data.image_size)
    except GMJEError as error:
        raise OptionError(str(error)) from error


def _check_world(accelerator: Accelerator, processes: int | None) -> None:
    found = accelerator.num_processes
    if processes is not None and processes != found:
        raise OptionError(
            f"--processes {processes} was asked for, but {found} process(es) were launched; on CPUs, `accelerate "
            "launch --cpu --num_processes N` starts one only: use `torchrun --standalone --nproc_per_node N -m "
            "gmje_bench`"
        )


def _describe(suite: Suite, name: str, data: ImageData, accelerator: Accelerator, command: str) -> Results:
    device = accelerator.device
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    return Results(
        suite=name,
        options=suite.model_dump(),
        protocol=PROTOCOL.to_dict(),
        dataset=DatasetRecord(
            name=data.name,
            fingerprint=data.fingerprint,
            fingerprint_of=data.fingerprint_of,
            train=len(data.train),
            test=len(data.test),
            classes=len(data.classes),
            image_size=data.image_size,
        ),
        versions={"python": platform.python_version()} | {package: metadata.version(package) for package in _PACKAGES},
        environment={
            "platform": platform.platform(),
            "device": str(device.type),
            "hardware": hardware,
            "cpus": os.cpu_count() or 1,
            "threads": torch.get_num_threads(),
        },
        command=command,
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
    return (
        f"{head} linear probe {m['linear_probe']:.1f} %, kNN {m['knn']:.1f} %, effective rank "
        f"{m['effective_rank']:.1f}, {record.verdict or 'untrained'} ({sum(record.seconds.values()):.0f} s)"
    )


def _write(output: Path, results: Results) -> None:
    write_results(output, results)
    write_atomic(output / "results.md", lambda stream: stream.write(report.markdown(results).encode()))


def _draw(output: Path, results: Results) -> None:
    if any(record.status == "ok" for record in results.records):
        report.draw_accuracy(results, output / "accuracy.png")
        report.draw_diagnostics(results, output / "diagnostics.png")


def _save(module: torch.nn.Module, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    content = save({key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()})
    write_atomic(path, lambda stream: stream.write(content))


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
