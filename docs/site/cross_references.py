"""References of docstrings: short names find their only definition, and names of other packages stay text.

A docstring says ``:class:`GaussianMixture``` where the class is imported, and ``Raises: ShapeError, ConfigError:``.
Sphinx looks for both where they are written. What is ours and is not found stays a warning, hence an error.
"""

import inspect
import pkgutil
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

#: Packages whose names must be found.
OURS = ("gmje_core", "gmje_bench", "gmje_hub")


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement
) -> nodes.Element | None:
    """Resolve what Sphinx did not; ``None`` makes it a warning."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if ", " not in target:
        found = _reference(app, env, node, target, content)
        missing = found is content and target.split(".")[0] in OURS and not _is_inner(target)
        return None if missing else found
    joined = nodes.inline()
    for number, name in enumerate(target.split(", ")):
        joined += [nodes.Text(", " if number else ""), _reference(app, env, node, name, nodes.literal(name, name))]
    return joined


def _is_inner(target: str) -> bool:
    """Whether this is a part of the harness that has no page because others should not build on it."""
    if not target.startswith("gmje_bench."):
        return False
    try:
        pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError):
        return False
    return True


def _reference(app: Sphinx, env: BuildEnvironment, node: Any, target: str, content: nodes.Node) -> nodes.Node:
    """A link around the content, or the content where there is nothing to link to."""
    known = _only(env, target)
    if known is None:
        return content
    entry = env.domains["py"].objects[known]
    uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
    return nodes.reference("", "", content, internal=True, refuri=f"{uri}#{entry.node_id}", reftitle=known)


def _only(env: BuildEnvironment, target: str) -> str | None:
    """The object of this name, or the only one of the same package that ends with it."""
    objects = env.domains["py"].objects
    if target in objects:
        return target
    package, _, last = target.rpartition(".") if target.split(".")[0] in OURS else ("", "", target)
    prefix = package.split(".")[0]
    found = {
        name for name, at in objects.items() if not at.aliased and name.endswith(f".{last}") and name.startswith(prefix)
    }
    return found.pop() if len(found) == 1 else None


def skip_member(app: Sphinx, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what Python writes into named tuples itself."""
    return True if (inspect.getdoc(member) or "").startswith("Alias for field number") else None


def document(app: Sphinx, what: str, name: str, member: Any, options: Any, lines: list[str]) -> None:
    """A constant without a comment has no documentation; that of its type is none of it."""
    if what == "data" and " ".join(" ".join(lines).split()) == " ".join((inspect.getdoc(type(member)) or "").split()):
        lines.clear()


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect to Sphinx."""
    app.connect("missing-reference", resolve)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-docstring", document)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
