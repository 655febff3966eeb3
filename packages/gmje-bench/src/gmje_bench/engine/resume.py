"""A run takes up the finished records of an earlier one if all that its numbers depend on is the same."""

from pathlib import Path
from typing import Any

from gmje_bench.errors import RunFolderError
from gmje_bench.runs import AlignmentRecord, Results, describe_difference, read_results

__all__ = ["take_up"]


def take_up(results: Results, folder: Path) -> None:
    """Put the finished records of an earlier run into the results of the one that goes on with it.

    Args:
        results: The results of the run that starts; they are changed in place.
        folder: The folder of the earlier run.

    Raises:
        RunFolderError: the results cannot be read, or differ in options, data, versions or number of processes.
    """
    before = read_results(folder)
    # Results that are read back from JSON hold lists instead of tuples.
    now = Results.model_validate_json(results.model_dump_json())
    _check_same(before, now, folder)
    results.started = before.started
    results.records = [record for record in before.records if record.status == "ok"]
    results.alignment = _finished_units(before)


def _check_same(before: Results, now: Results, folder: Path) -> None:
    """Raise unless all that numbers depend on is the same; methods and seeds may be added."""
    pairs: dict[str, tuple[Any, Any]] = {
        "suite": (before.suite, now.suite),
        "protocol": (before.protocol, now.protocol),
        "versions": (before.versions, now.versions),
        "world size": (before.world_size, now.world_size),
        "source of methods and tasks": ({**now.sources, **before.sources}, {**before.sources, **now.sources}),
    }
    pairs |= {
        f"option {key}": (before.options.get(key), value)
        for key, value in now.options.items()
        if key not in ("methods", "seeds", "method")
    }
    # The data come last: options such as a limit change them, and the option is what the user has to see.
    pairs["dataset"] = (before.dataset, now.dataset)
    for what, (old, new) in pairs.items():
        if old != new:
            differing = describe_difference(old, new, " there, ", " here")
            raise RunFolderError(
                f"cannot resume {folder}: its {what} is not this run's ({differing}); repeat its command, or choose "
                "another --output"
            )
    for method in before.options["methods"]:
        if before.options["method"].get(method) != now.options["method"].get(method):
            raise RunFolderError(f"cannot resume {folder}: the options of method {method} are not this run's")
    for key in ("methods", "seeds"):
        if missing := [value for value in before.options[key] if value not in now.options[key]]:
            raise RunFolderError(f"cannot resume {folder} without its {key} {', '.join(map(str, missing))}")


def _finished_units(before: Results) -> list[AlignmentRecord]:
    """The synthetic records of units in which no method failed."""
    failed = {(r.task, r.dim, r.seed) for r in before.alignment if r.status == "failed"}
    return [r for r in before.alignment if (r.task, r.dim, r.seed) not in failed]
