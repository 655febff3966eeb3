"""What all stages of a run share: how it was started, what it reads, and the results so far."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from gmje_bench.datasets.base import ImageData
from gmje_bench.engine.output import write_text
from gmje_bench.methods import METHODS
from gmje_bench.processes import on_main
from gmje_bench.protocol import PROTOCOL
from gmje_bench.publishing import write_evaluations
from gmje_bench.report import markdown
from gmje_bench.runs import DatasetRecord, Results, write_results
from gmje_bench.suites import Suite
from gmje_bench.tasks import TASKS

__all__ = ["Launch", "RunState"]

PACKAGES = ("gmje-core", "gmje-bench", "torch", "torchvision", "accelerate", "lightly", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Launch:
    """How a run was started; none of it changes a number.

    Args:
        name: The name of the suite, for the results.
        output: The run folder.
        command: The command line, for the results.
        mode: ``new`` needs an empty folder, ``overwrite`` replaces an earlier run, ``resume`` goes on with one.
        processes: How many processes must take part; ``None`` allows any number.
        track: An Accelerate tracker to log to.
        profile: Whether to write a profiler trace of the first steps of every method.
        jobs: How many synthetic tasks run at a time; ``None`` means one for each core.
    """

    name: str
    output: Path
    command: str
    mode: Literal["new", "overwrite", "resume"] = "new"
    processes: int | None = None
    track: str | None = None
    profile: bool = False
    jobs: int | None = None


class RunState:
    """What all stages of a run share.

    Args:
        suite: What to run.
        launch: How the run was started.
        accelerator: Knows devices and processes.
        data: The images; ``None`` where all tasks are synthetic.

    Attributes:
        results: What is recorded so far, the same on every process.
    """

    def __init__(self, suite: Suite, launch: Launch, accelerator: Accelerator, data: ImageData | None) -> None:
        self.suite, self.launch, self.accelerator, self.data = suite, launch, accelerator, data
        self.results = describe(suite, launch, data, accelerator)

    @property
    def output(self) -> Path:
        """The run folder."""
        return self.launch.output

    def write(self) -> None:
        """Write the results and their table from the main process; every process must call this method."""
        on_main(self.accelerator, self.write_here)

    def write_here(self) -> None:
        """Write the results, their table and what models bring along; only the main process may call this method."""
        write_results(self.output, self.results)
        write_text(self.output / "results.md", markdown(self.results))
        write_evaluations(self.output, self.results)

    def identity(self, method: str, seed: int) -> dict[str, Any]:
        """What must be the same for the training of a method to go on from a checkpoint."""
        r = self.results
        assert r.dataset is not None
        options = {key: r.options[key] for key in ("held_out_classes", "image_size", "limit", "network", "training")}
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


def describe(suite: Suite, launch: Launch, data: ImageData | None, accelerator: Accelerator) -> Results:
    """Results without records: everything that the numbers of the run will depend on."""
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
        sources=sources_of(suite),
        protocol=PROTOCOL.to_dict(),
        dataset=dataset,
        versions={"python": platform.python_version()} | {package: metadata.version(package) for package in PACKAGES},
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


def sources_of(suite: Suite) -> dict[str, str]:
    """Where the methods and tasks of a suite come from, of those from outside this package."""
    tasks = {f"task {name}": TASKS[name].source for name in suite.tasks if TASKS[name].source}
    return {name: METHODS[name].source for name in suite.methods if METHODS[name].source} | tasks
