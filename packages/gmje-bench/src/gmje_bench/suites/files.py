"""Suites as files: TOML that may extend another suite, read into plain data and written from it. Free of torch."""

import json
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from gmje_bench.errors import SuiteError, did_you_mean

__all__ = ["read_suite", "suite_names", "to_toml"]


def suite_names() -> list[str]:
    """Names of the suites in the package.

    Examples:
        >>> {"all", "imagenet-resnet50", "smoke", "vision"} <= set(suite_names())
        True
    """
    folder = resources.files("gmje_bench.suites")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_suite(name: str) -> dict[str, Any]:
    """Read a suite and those that it extends; nothing is validated but the chain of files.

    The key ``extends`` names a suite of the package, or a path that ends in ``.toml`` and begins at the folder of the
    file that says it. Tables are merged key by key, and what the file itself says has the last word; lists are replaced
    as a whole.

    Args:
        name: The name of a suite, or a path that ends in ``.toml``.

    Raises:
        SuiteError: a suite is unknown or unreadable, or extends itself.

    Examples:
        >>> read_suite("smoke")["training"]["optimizer"], read_suite("smoke")["limit"]
        ('adamw', 1000)
    """
    chain: list[str] = []
    found: dict[str, Any] = {}
    folder = Path()
    while True:
        is_file = name.endswith(".toml")
        path = folder / Path(name).expanduser()
        key = str(path.resolve()) if is_file else name
        said_by = f"suite {chain[-1]} extends " if chain else ""
        if key in chain:
            raise SuiteError(f"{said_by}a suite that extends it: {' -> '.join([*chain, key])}")
        if not is_file and name not in suite_names():
            what = f"an unknown suite {name!r}" if chain else f"unknown suite {name!r}"
            raise SuiteError(f"{said_by}{what}{did_you_mean(name, suite_names())}")
        chain.append(key)
        own = _parse(path if is_file else resources.files("gmje_bench.suites") / f"{name}.toml", name, said_by)
        parent = own.pop("extends", None)
        found = _merged(own, found)
        if parent is None:
            return found
        if not isinstance(parent, str):
            raise SuiteError(f"suite {name}: extends must be the name of a suite or a path, got {parent!r}")
        folder = path.parent if is_file else folder
        name = parent


def _parse(path: Any, name: str, said_by: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        where = f"{said_by}{name}, which cannot be read" if said_by else f"cannot read the suite file {name}"
        raise SuiteError(f"{where}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuiteError(f"suite {name} is not valid TOML: {error}") from error


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the changes, tables key by key.

    Examples:
        >>> _merged({"a": 1, "t": {"x": 1, "y": 2}}, {"t": {"y": 3}, "b": [1]})
        {'a': 1, 't': {'x': 1, 'y': 3}, 'b': [1]}
    """
    both = dict(base)
    for key, value in changes.items():
        before = both.get(key)
        both[key] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return both


def to_toml(values: Mapping[str, Any]) -> str:
    """A suite's values as TOML that :func:`read_suite` reads back; values of ``None`` and empty tables are left out.

    Args:
        values: Scalars, lists of scalars, and tables of such.

    Examples:
        >>> print(to_toml({"limit": None, "seeds": [0, 1], "training": {"tf32": True}, "method": {"gje": {"k": 1e-3}}}))
        seeds = [0, 1]
        <BLANKLINE>
        [training]
        tf32 = true
        <BLANKLINE>
        [method.gje]
        k = 0.001
    """
    return "\n".join(_table(values, ())).strip()


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"{_key(key)} = {_value(v)}" for key, v in values.items() if v is not None and not isinstance(v, dict)]
    if path and lines:
        lines = ["", f"[{'.'.join(map(_key, path))}]", *lines]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _table(value, (*path, key))
    return lines


def _key(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else _value(text)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON escapes what TOML's basic strings escape, except for one control character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
