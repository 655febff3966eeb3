"""Reading and writing of ``results.json``. Heavy modules are imported where needed."""

import json
import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gmje_bench.errors import RunFolderError
from gmje_bench.runs.schema import Results

__all__ = ["RESULTS", "describe_difference", "finite", "read_results", "write_results"]

#: The name of the file in a run folder.
RESULTS = "results.json"


def write_results(folder: Path, results: Results) -> None:
    """Write ``results.json`` atomically.

    Args:
        folder: The run folder, which must exist.
        results: What to write.

    Raises:
        ValueError: a number is not finite; nothing is written.
        OSError: the file cannot be written.
    """
    from gmje_core.files import write_atomic

    text = json.dumps(results.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"
    write_atomic(folder / RESULTS, text.encode())


def read_results(folder: Path) -> Results:
    """Read the results of a run folder.

    Args:
        folder: The run folder.

    Raises:
        RunFolderError: the folder holds no results, or they do not follow the schema.
    """
    path = folder / RESULTS
    try:
        return Results.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RunFolderError(f"{folder} is not a run folder: cannot read {RESULTS} ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or RESULTS
        raise RunFolderError(f"{path} is not a results file: {key}: {first['msg']}") from error


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """Drop the entries that JSON cannot hold, such as the infinite gauges of a collapsed run.

    Examples:
        >>> finite({"a": 1.0, "b": float("-inf"), "c": "healthy"})
        {'a': 1.0, 'c': 'healthy'}
    """
    return {key: v for key, v in values.items() if not isinstance(v, float) or math.isfinite(v)}


def describe_difference(one: Any, two: Any, between: str, after: str = "") -> str:
    """The first entry in which two dictionaries differ, or both values, in words.

    Args:
        one: A part of the results of a run.
        two: The same part of another run's.
        between: Words that stand after the first value.
        after: Words that stand after the second one.

    Examples:
        >>> describe_difference({"limit": 5, "seeds": [0]}, {"limit": 7, "seeds": [0]}, " there, ", " here")
        'limit: 5 there, 7 here'
        >>> describe_difference(2, 3, " and ")
        '2 and 3'
    """
    if isinstance(one, dict) and isinstance(two, dict):
        key = next(key for key in [*one, *two] if one.get(key) != two.get(key))
        return f"{key}: {one.get(key)!r}{between}{two.get(key)!r}{after}"
    return f"{one!r}{between}{two!r}{after}"
