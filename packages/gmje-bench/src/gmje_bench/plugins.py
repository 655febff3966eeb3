"""Methods and tasks of your own, registered together: what a command does before it looks up a name."""

from collections.abc import Iterable
from pathlib import Path

from gmje_bench.methods.plugins import register_entry_points, register_file
from gmje_bench.tasks.plugins import register_task_entry_points, register_task_file

__all__ = ["register_plugins"]


def register_plugins(method_files: Iterable[Path] | None = None, task_files: Iterable[Path] | None = None) -> list[str]:
    """Add the methods and tasks of installed packages and of files to the registries; twice is once.

    Args:
        method_files: Python files, see :mod:`gmje_bench.methods.plugins`.
        task_files: Python files, see :mod:`gmje_bench.tasks.plugins`.

    Returns:
        The names of the tasks of the files.

    Raises:
        OptionError: a file cannot be read or imported, lacks a part, or has a name that is there already.

    Examples:
        >>> register_plugins()
        []
    """
    register_entry_points()
    register_task_entry_points()
    for path in method_files or ():
        register_file(path)
    return [register_task_file(path).name for path in task_files or ()]
