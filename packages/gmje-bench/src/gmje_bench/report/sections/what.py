"""What was run, as lists of names and values: the last part of the page."""

from collections.abc import Iterator, Mapping
from typing import Any

from gmje_bench.runs.reading import Run

__all__ = ["what"]


def what(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """Lists of names and values that say what was run, with their headings."""
    results = run.results
    made = [("Run", [("suite", results.suite), ("started", results.started), ("processes", str(results.world_size))])]
    if results.dataset is not None:
        made.append(("Dataset", [(key, plain(value)) for key, value in results.dataset.model_dump().items()]))
    for title, values in (
        ("Options", of_methods(results.options)),
        ("Protocol", results.protocol),
        ("Versions", results.versions),
        ("Hardware", results.environment),
    ):
        made.append((title, list(flat(values))))
    return [(title, rows) for title, rows in made if rows]


def of_methods(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without the settings of methods that were not asked for.

    Examples:
        >>> of_methods({"methods": ["gje"], "method": {"gje": {"noise": 1}, "moco": {"queue": 2}}})
        {'methods': ['gje'], 'method': {'gje': {'noise': 1}}}
        >>> of_methods({"methods": [], "synthetic": None})
        {'methods': [], 'synthetic': None, 'method': {}}
    """
    synthetic = options.get("synthetic") or {}  # A suite without synthetic tasks has none.
    asked = {*(options.get("methods") or ()), *(synthetic.get("methods") or ())}
    settings = {name: values for name, values in (options.get("method") or {}).items() if name in asked}
    return dict(options) | {"method": settings}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", plain(value)


def plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
