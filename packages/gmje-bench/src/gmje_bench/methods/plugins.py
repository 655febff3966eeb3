'''Methods of your own: a Python file or an installed module with two functions.

.. code-block:: python

    """Alignment and uniformity (Wang and Isola, 2020)."""          # the first line is shown by `list`

    def options():                                                   # names and defaults; suites may change them
        return {"weight": 1.0}

    def build(setting, weight):                                      # a gmje_bench.methods.Objective
        return Objective(AlignUniform(weight))

A file is given with ``--method-file FILE.py`` and named by its stem; a package declares an entry point of the group
``gmje_bench.methods``, whose name is the method's. Such code runs as what it is, Python of the user's.
'''

import hashlib
import importlib.util
import inspect
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from gmje_bench.errors import OptionError
from gmje_bench.methods import METHODS, Build, Method, Objective, Setting, check_known

__all__ = ["GROUP", "import_file", "register_entry_points", "register_file", "summary_of"]

#: The group of the entry points.
GROUP = "gmje_bench.methods"


def register_file(path: Path) -> Method:
    """Add the method of a file to the registry, under the file's stem.

    Args:
        path: A Python file with ``options`` and ``build``.

    Returns:
        The entry, whose source is the SHA-256 of the file; results record it.

    Raises:
        OptionError: the file cannot be read or imported, lacks a function, or has the name of a method that is
            there already.
    """
    name = path.stem
    module, content = import_file(path, "method")
    source = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if METHODS.get(name, None) is not None:
        if METHODS[name].source == source:
            return METHODS[name]
        raise OptionError(f"the method file {path} is named {name!r} as a method that exists; rename the file")
    method = Method(name, summary_of(module), lambda: _build(name, module), source)
    _check(name, module, str(path))
    METHODS[name] = method
    return method


def import_file(path: Path, kind: str) -> tuple[ModuleType, bytes]:
    """Import a Python file of the user's.

    Args:
        path: The file.
        kind: What it holds, for messages.

    Returns:
        The module, and the content of the file.

    Raises:
        OptionError: the file cannot be read or imported.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OptionError(f"cannot read the {kind} file {path}: {error.strerror or error}") from error
    spec = importlib.util.spec_from_file_location(f"gmje_bench_{kind}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise OptionError(f"the {kind} file {path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # A user's file may raise any error.
        raise OptionError(f"the {kind} file {path} cannot be imported: {type(error).__name__}: {error}") from error
    return module, content


def register_entry_points() -> None:
    """Add the methods of installed packages; their modules are imported only when they are built."""
    for entry in metadata.entry_points(group=GROUP):
        if entry.name in METHODS:
            continue
        package = entry.dist.name if entry.dist else entry.value
        METHODS[entry.name] = Method(
            entry.name, f"of the package {package}", _loader(entry), f"{package}:{entry.value}"
        )


def _loader(entry: metadata.EntryPoint) -> Any:
    def load() -> Build:
        try:
            module = entry.load()
        except Exception as error:  # Another package may raise any error.
            raise OptionError(
                f"method {entry.name}: {entry.value} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        _check(entry.name, module, entry.value)
        return _build(entry.name, module)

    return load


def _check(name: str, module: ModuleType, place: str) -> None:
    for function in ("options", "build"):
        if not callable(getattr(module, function, None)):
            raise OptionError(
                f"method {name}: {place} has no function {function!r}; a method has options() and build()"
            )


def _build(name: str, module: ModuleType) -> Build:
    def build(setting: Setting, options: Mapping[str, Any]) -> Objective:
        defaults = dict(module.options())
        check_known(name, options, defaults)
        for key, value in options.items():
            if _kind(value) is not _kind(defaults[key]):
                raise OptionError(f"method {name}: {key} must be such as {defaults[key]!r}, got {value!r}")
        objective = module.build(setting, **(defaults | dict(options)))
        if not isinstance(objective, Objective):
            raise OptionError(f"method {name}: build() must return an Objective, got {type(objective).__name__}")
        return objective

    return build


def _kind(value: object) -> type:
    """The kind of a value; all numbers are of one kind, so that a suite may say 1 where the default is 1.0."""
    return float if isinstance(value, int) and not isinstance(value, bool) else type(value)


def summary_of(module: ModuleType) -> str:
    """The first line of a module's docstring, without its full stop."""
    return (inspect.getdoc(module) or "").split("\n", maxsplit=1)[0].rstrip(".")
