"""A profiler trace of the first steps of a run, and the trackers that Accelerate knows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from gmje_bench.errors import OptionError, did_you_mean

__all__ = ["check_trackers", "profiled"]

# Steps that are left out, warmed up on, and traced.
_SCHEDULE = {"wait": 1, "warmup": 1, "active": 3, "repeat": 1}


def check_trackers(name: str | None) -> None:
    """Raise unless Accelerate knows the tracker and its package is installed.

    Raises:
        OptionError: Accelerate does not know the tracker, or its package is not installed.

    Examples:
        >>> check_trackers("tensorbord")
        Traceback (most recent call last):
        gmje_bench.errors.OptionError: unknown tracker 'tensorbord'; did you mean tensorboard? ...
    """
    if name is None:
        return
    known = [str(key) for key in LOGGER_TYPE_TO_CLASS]
    if name not in known:
        raise OptionError(f"unknown tracker {name!r}{did_you_mean(name, known)}")
    if name not in [str(tracker) for tracker in get_available_trackers()]:
        raise OptionError(f"--track {name} needs its package, which is not installed: pip install {name}")


@contextmanager
def profiled(path: Path | None, accelerator: Accelerator) -> Iterator[Callable[[], None]]:
    """Trace the steps that the caller reports.

    Args:
        path: The file of the trace, in Chrome's format, which Perfetto opens; nothing is traced where it is ``None``.
        accelerator: Accelerate's object, whose main process is traced.

    Yields:
        A function to call after every step.
    """
    if path is None or not accelerator.is_main_process:
        yield lambda: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(profiler: torch.profiler.profile) -> None:
        profiler.export_chrome_trace(str(path))

    with torch.profiler.profile(schedule=torch.profiler.schedule(**_SCHEDULE), on_trace_ready=write) as profiler:
        yield profiler.step
