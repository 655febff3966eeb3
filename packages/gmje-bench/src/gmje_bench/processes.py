"""The processes of a run: how they find each other, and what the main one does while the others wait."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast

from gmje_bench.errors import BenchError, OptionError, RunFolderError
from gmje_core import GMJEError
from gmje_core.errors import CollapsedError

__all__ = ["MainProcessError", "agreed_folder", "made_on_main", "on_main", "set_tf32", "start_accelerator"]

Made = TypeVar("Made")

#: Longest path in bytes that Linux takes.
LONGEST_PATH = 4096


class MainProcessError(RuntimeError):
    """What the main process made for all failed there; every process knows, so that none waits for it."""


def start_accelerator(mixed_precision: str, *, tracker: str | None, folder: Path, processes: int | None) -> Accelerator:
    """Let Accelerate find the devices and the other processes, and check that all of them take part.

    Args:
        mixed_precision: ``no``, ``bf16`` or ``fp16``.
        tracker: The name of an Accelerate tracker, or ``None``.
        folder: The run folder, where trackers that write files put them.
        processes: How many processes must take part; ``None`` allows any number.

    Raises:
        OptionError: the hardware lacks the precision, or the number of processes is wrong.
    """
    check_devices()
    try:
        accelerator = Accelerator(
            cpu=needs_cpu_backend(),
            mixed_precision=mixed_precision,
            log_with=tracker,
            project_dir=str(folder) if tracker else None,
            # The other processes wait while the main one fits probes.
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=6))],
        )
    except ValueError as error:  # Accelerate raises it for a precision that the hardware lacks.
        raise OptionError(str(error)) from error
    check_world(accelerator, processes)
    return accelerator


def agreed_folder(accelerator: Accelerator, folder: Path) -> Path:
    """The run folder of the main process, for all processes: its name may hold a time, which they read apart.

    Args:
        accelerator: Knows the processes, all of which must call this function.
        folder: The folder that this process was given.
    """
    if accelerator.num_processes == 1:
        return folder
    # A tensor of bytes, because Accelerate would send an object as a pickle.
    name = os.fsencode(folder)[:LONGEST_PATH].ljust(LONGEST_PATH, b"\0")
    agreed = torch.as_tensor(broadcast(torch.tensor(list(name), device=accelerator.device), from_process=0))
    return Path(os.fsdecode(bytes(agreed.tolist()).rstrip(b"\0")))


def set_tf32(allowed: bool) -> None:
    """Say whether GPUs may compute float32 convolutions in TF32; matrix products, which densities need, never are."""
    torch.backends.cudnn.allow_tf32 = allowed


def launched_processes() -> int:
    """How many processes the launcher says it started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def needs_cpu_backend() -> bool:
    """Whether several processes were launched on a machine whose devices they cannot be spread over.

    Accelerate must be told so: it would otherwise take every process for a run of its own. A single process may use
    any device that Accelerate finds.
    """
    if launched_processes() == 1:
        return False
    device = torch.accelerator.current_accelerator(check_available=True)
    return device is None or device.type == "mps"


def check_devices() -> None:
    """Raise an :class:`OptionError` where this machine runs more processes than it has GPUs."""
    local, devices = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    forced = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1", "yes", "y", "t", "on")
    if 0 < devices < local and not forced:
        raise OptionError(
            f"{local} processes were launched on a machine with {devices} GPU(s), and each process needs one of its "
            f"own; launch {devices}, or set CUDA_VISIBLE_DEVICES= to run them on CPUs"
        )


def check_world(accelerator: Accelerator, processes: int | None) -> None:
    """Raise an :class:`OptionError` unless the processes that were launched and asked for are those that take part."""
    launched, found = launched_processes(), accelerator.num_processes
    if launched > 1 and found != launched:
        raise OptionError(
            f"{launched} processes were launched, but Accelerate found {found} in the run; unset the environment's "
            "variables ACCELERATE_*, or launch one process"
        )
    if processes is not None and processes != found:
        raise OptionError(
            f"--processes {processes} was asked for, but {found} process(es) were launched; launch as many, or start "
            f"them with `python -m gmje_bench run --processes {processes} ...` without a launcher"
        )


def on_main(accelerator: Accelerator, action: Callable[[], None]) -> None:
    """Do something on the main process; where it fails, every process stops, and none waits for ever.

    Args:
        accelerator: Knows the processes, all of which must call this function.
        action: What the main process does.

    Raises:
        BenchError: the action failed in a way that the user can correct.
    """
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


def made_on_main(accelerator: Accelerator, make: Callable[[], Made | None]) -> Made | None:
    """What a function makes on the main process, ``None`` on the others; where it fails, every process raises.

    Args:
        accelerator: Knows the processes, all of which must call this function.
        make: What the main process does; it takes no part in collectives.

    Raises:
        CollapsedError: it was raised on the main process; every process raises it.
        GMJEError: another error of the core, on the main process alone.
        MainProcessError: any other error on the main process; on the other processes, any error.
    """
    if accelerator.num_processes == 1:
        return make()
    made, problem = None, None
    if accelerator.is_main_process:
        try:
            made = make()
        except Exception as error:
            problem = error
    kind = 0 if problem is None else 1 if isinstance(problem, CollapsedError) else 2
    # The others add zero to the kind of the main process's error.
    kind = int(torch.as_tensor(accelerator.reduce(torch.tensor([kind], device=accelerator.device), reduction="sum")))
    if isinstance(problem, GMJEError):
        raise problem
    if problem is not None:
        raise MainProcessError(f"{type(problem).__name__}: {problem}") from problem
    if kind:
        raise (CollapsedError if kind == 1 else MainProcessError)("the main process has the reason")
    return made
