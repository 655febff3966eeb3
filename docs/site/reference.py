"""The API reference: a page for each room of the code, with everything that its modules name in ``__all__``.

Modules are read, not imported. A name stands where it is defined; where it is exported again, a table leads there.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: Modules of the harness that others may build on. The rest of it may change without notice.
BENCH = (
    "gmje_bench.evaluation.api",
    "gmje_bench.evaluation.models",
    "gmje_bench.evaluation.cache",
    "gmje_bench.training.module",
    "gmje_bench.methods",
    "gmje_bench.methods.plugins",
    "gmje_bench.plugins",
    "gmje_bench.tasks",
    "gmje_bench.tasks.plugins",
    "gmje_bench.tasks.subject",
    "gmje_bench.tasks.rows",
    "gmje_bench.tasks.probe",
    "gmje_bench.tasks.logistic",
    "gmje_bench.datasets",
    "gmje_bench.datasets.base",
    "gmje_bench.datasets.outliers",
    "gmje_bench.views.config",
    "gmje_bench.runs.metrics",
    "gmje_bench.runs.schema",
    "gmje_bench.runs.files",
    "gmje_bench.runs.reading",
    "gmje_bench.compare",
    "gmje_bench.doctor",
    "gmje_bench.protocol",
    "gmje_bench.errors",
)
#: The rooms of the core in the order of reading; modules of the ground floor share the last page.
ROOMS = ("criteria", "densities", "objectives", "estimator", "estimation", "models", "diagnostics", "errors")
GROUND = "ground"
#: How each kind of definition is documented.
OPTIONS = {
    "class": "   :members:\n",
    "subclass": "   :members:\n   :show-inheritance:\n",
    "function": "",
    "data": "   :no-value:\n",
}


@dataclass
class Module:
    """What a module exports.

    Attributes:
        name: Its dotted name.
        own: Names defined there, with ``"class"``, ``"subclass"``, ``"function"`` or ``"data"``.
        passed_on: Names that it exports and others define.
    """

    name: str
    own: dict[str, str] = field(default_factory=dict)
    passed_on: list[str] = field(default_factory=list)


def read_module(path: Path, source: Path) -> Module:
    """Read the exports of a file; ``source`` is the folder that holds the package."""
    parts = path.relative_to(source).with_suffix("").parts
    module = Module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    defined: dict[str, str] = {}
    exported: list[str] = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            defined[node.name] = "subclass" if node.bases else "class"
        elif isinstance(node, ast.FunctionDef):
            defined[node.name] = "function"
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and target.id == "__all__" and node.value is not None:
                    exported = ast.literal_eval(node.value)
                elif isinstance(target, ast.Name):
                    defined[target.id] = "data"
    module.own = {name: defined[name] for name in exported if name in defined}
    module.passed_on = [name for name in exported if name not in defined]
    return module


def modules_of(source: Path, package: str) -> Iterator[Module]:
    """All modules of a package that export something, in the order of their names."""
    for path in sorted((source / package).rglob("*.py")):
        module = read_module(path, source)
        if module.own or module.passed_on:
            yield module


def heading(text: str, line: str) -> str:
    """A heading of reStructuredText."""
    return f"{text}\n{line * len(text)}\n"


def section(module: Module) -> str:
    """The section of a module: its docstring, then what it defines."""
    parts = [heading(f"``{module.name}``", "-"), f".. automodule:: {module.name}\n"]
    for name, kind in module.own.items():
        directive = "class" if kind == "subclass" else kind
        parts.append(f".. auto{directive}:: {module.name}.{name}\n{OPTIONS[kind]}")
    return "\n".join(parts)


def page(title: str, modules: Iterable[Module]) -> str:
    """A page of several modules."""
    return "\n".join([heading(title, "="), *(section(module) for module in modules if module.own)])


def index(title: str, said: str, module: Module, pages: Iterable[str], homes: dict[str, str]) -> str:
    """The first page of a package: what can be imported from its top, and its other pages."""
    lines = [heading(title, "="), said, ""]
    if module.passed_on:
        lines += [".. list-table::", "   :widths: auto", ""]
        for name in module.passed_on:
            home = homes.get(name, f"{module.name}.{name}")
            role = "mod" if name not in homes else "class" if name[0].isupper() else "func"
            lines += [f"   * - ``from {module.name} import {name}``", f"     - :{role}:`{home}`"]
    return "\n".join([*lines, "", ".. toctree::", "   :maxdepth: 1", "", *(f"   {name}" for name in pages), ""])


def reference_pages(root: Path) -> dict[str, str]:
    """All pages of the reference by their place on the site."""
    sources = {name: root / "packages" / f"gmje-{name}" / "src" for name in ("core", "bench", "hub")}
    core = {module.name: module for module in modules_of(sources["core"], "gmje_core")}
    rooms: dict[str, list[Module]] = {room: [] for room in (*ROOMS, GROUND)}
    for name, module in core.items():
        room = name.split(".")[1] if "." in name else ""
        if room:
            rooms[room if room in rooms else GROUND].append(module)
    harness = {module.name: module for module in modules_of(sources["bench"], "gmje_bench")}
    bench = [harness[name] for name in BENCH]
    hub = [module for module in modules_of(sources["hub"], "gmje_hub") if module.name != "gmje_hub.cli"]
    homes = {name: f"{module.name}.{name}" for module in [*core.values(), *bench, *hub] for name in module.own}

    pages = {
        f"api/core/{room}.rst": page(f"``gmje_core.{room}``" if room != GROUND else "The ground floor", modules)
        for room, modules in rooms.items()
    }
    pages["api/core/index.rst"] = index(
        "gmje_core",
        "What the top of the package has; each name leads to its definition.",
        core["gmje_core"],
        rooms,
        homes,
    )
    pages["api/bench.rst"] = page("gmje_bench", bench)
    pages["api/hub.rst"] = page("gmje_hub", hub)
    return pages
