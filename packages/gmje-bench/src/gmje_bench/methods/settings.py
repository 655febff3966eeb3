"""The settings of every method, read from ``settings.toml``, the one place where they stand. Free of torch."""

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

__all__ = ["settings_of", "with_settings"]


@lru_cache(maxsize=1)
def read_settings() -> dict[str, dict[str, Any]]:
    """All tables of the file, by method."""
    return tomllib.loads((resources.files("gmje_bench.methods") / "settings.toml").read_text())


def settings_of(method: str) -> dict[str, Any]:
    """The settings of a method where nothing else is said; empty where it has none here.

    Args:
        method: The name of the method.

    Examples:
        >>> settings_of("simclr"), settings_of("random")
        ({'temperature': 0.1}, {})
    """
    return dict(read_settings().get(method, {}))


def with_settings(differences: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The full settings of all methods: those of the file, with the differences of a suite.

    Args:
        differences: What a suite says, by method.

    Examples:
        >>> with_settings({"simclr": {"temperature": 0.2}})["simclr"]
        {'temperature': 0.2}
    """
    names = dict.fromkeys([*read_settings(), *differences])
    return {name: settings_of(name) | dict(differences.get(name, {})) for name in names}
