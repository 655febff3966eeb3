'''Tasks of your own: a Python file or an installed module.

.. code-block:: python

    """Mean norm of the embeddings."""                                # the first line is shown by `list`

    METRICS = {"norm": Metric(title="norm", higher_is_better=True, task="norm")}
    VIEWS = True                                                     # embeddings of views too; False where missing
    PAIRS = False                                                    # pairs of views of the training images as well

    def measure(subject):                                            # a Subject; gives a TaskResult
        return TaskResult({"norm": float(subject.test.embeddings.norm(dim=1).mean())})

    def section(run, drawer):                                        # optional: blocks for the report, or None
        ...

A file is given with ``--task-file FILE.py`` and named by its stem; a package declares an entry point of the group
``gmje_bench.tasks``, whose name is the task's. Such code runs as what it is, Python of the user's. Numbers must be
finite; what cannot be measured is left out.
'''

import hashlib
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from gmje_bench.errors import OptionError
from gmje_bench.methods.plugins import import_file, summary_of
from gmje_bench.runs.metrics import METRICS, Metric
from gmje_bench.tasks import TASKS, Task

__all__ = ["GROUP", "register_task_entry_points", "register_task_file"]

#: The group of the entry points.
GROUP = "gmje_bench.tasks"


def register_task_file(path: Path) -> Task:
    """Add the task of a file to the registry, under the file's stem.

    Args:
        path: A Python file with ``METRICS`` and ``measure``.

    Returns:
        The entry, whose source is the SHA-256 of the file.

    Raises:
        OptionError: the file cannot be read or imported, lacks a part, or has a name that is there already.
    """
    module, content = import_file(path, "task")
    return register(path.stem, module, f"sha256:{hashlib.sha256(content).hexdigest()}", str(path))


def register_task_entry_points() -> None:
    """Add the tasks of installed packages; one that cannot be imported, or lacks a part, is left out with a warning."""
    for entry in metadata.entry_points(group=GROUP):
        package = entry.dist.name if entry.dist else entry.value
        source = f"{package}:{entry.value}"
        if entry.name in TASKS and TASKS[entry.name].source == source:
            continue
        try:
            register(entry.name, entry.load(), source, entry.value)
        except Exception as error:  # Another package may raise any error.
            what = "" if isinstance(error, OptionError) else f"task {entry.name}: {type(error).__name__}: "
            warnings.warn(f"an installed task is left out: {what}{error}", stacklevel=2)


def register(name: str, module: ModuleType, source: str, place: str) -> Task:
    """Add the task of a module, and its metrics."""
    if name in TASKS:
        if TASKS[name].source == source:
            return TASKS[name]
        raise OptionError(f"{place} has the name {name!r} of a task that exists; rename it")
    if not callable(getattr(module, "measure", None)):
        raise OptionError(f"task {name}: {place} has no function 'measure'; a task has METRICS and measure(subject)")
    metrics = checked_metrics(name, getattr(module, "METRICS", None), place)
    section: Any = getattr(module, "section", "")
    title = name.replace("_", " ").capitalize() if section else ""
    views, pairs = (bool(getattr(module, need, False)) for need in ("VIEWS", "PAIRS"))
    task = Task(
        name, summary_of(module), module.measure, views or pairs, pairs, section=section, title=title, source=source
    )
    TASKS[name] = task
    METRICS.update(metrics)
    return task


def checked_metrics(name: str, metrics: object, place: str) -> dict[str, Metric]:
    """The metrics that a module declares.

    Raises:
        OptionError: they are not a mapping from names to metrics of this task, or a name is taken.
    """
    if not isinstance(metrics, Mapping) or not all(isinstance(metric, Metric) for metric in metrics.values()):
        raise OptionError(f"task {name}: METRICS of {place} must be a dictionary from names to gmje_bench.runs.Metric")
    for key, metric in metrics.items():
        if metric.task != name:
            raise OptionError(f"task {name}: the metric {key!r} of {place} says task={metric.task!r}")
        if key in METRICS:
            raise OptionError(f"task {name}: the metric {key!r} of {place} exists; choose another name")
    return dict(metrics)
