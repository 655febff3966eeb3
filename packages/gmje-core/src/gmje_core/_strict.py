"""Strict JSON objects: nothing unknown, nothing twice, nothing missing, no number that JSON does not have."""

import json
from collections.abc import Sequence
from typing import Any

from gmje_core.errors import ConfigError, unknown_name

__all__ = ["check_keys", "parse_json"]


def parse_json(text: str, what: str) -> Any:
    """The JSON value that a text holds.

    Args:
        text: JSON.
        what: What it should be, for messages.

    Raises:
        ConfigError: not JSON, a key given twice, NaN or infinity.
    """

    def refuse_constant(name: str) -> float:
        raise ConfigError(f"{what} holds {name}, which is not a JSON number")

    def refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated = sorted({key for key in keys if keys.count(key) > 1})
            raise ConfigError(f"{what} holds a key more than once: {', '.join(repeated)}")
        return values

    try:
        return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=refuse_repeats)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:  # also an integer of more digits than Python reads
        raise ConfigError(f"{what} is not valid JSON: {error}") from error


def check_keys(values: object, names: Sequence[str], what: str) -> None:
    """Check that something is an object with these keys and no others.

    Raises:
        ConfigError: it is not; the first key that is unknown, with close names, or all that are missing.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{what} must be a JSON object, got {type(values).__name__}")
    for key in values:
        if key not in names:
            raise ConfigError(unknown_name("key", key, names))
    missing = [name for name in names if name not in values]
    if missing:
        raise ConfigError(f"missing keys: {', '.join(missing)}")
