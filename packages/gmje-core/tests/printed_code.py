"""The Python blocks of Markdown pages, run as they stand."""

import re
from pathlib import Path
from typing import Any

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def python_blocks(path: Path) -> list[str]:
    """The ``python`` blocks of a page."""
    return _BLOCK.findall(path.read_text(encoding="utf-8"))


def imports_package(path: Path, *packages: str) -> bool:
    """Whether the blocks of a page import one of these packages."""
    names = "|".join(packages)
    return re.search(rf"^\s*(?:from|import) (?:{names})\b", "\n".join(python_blocks(path)), re.MULTILINE) is not None


def run_page(path: Path) -> int:
    """Run the ``python`` blocks of a Markdown page in order, in one namespace; returns how many there are.

    Each block keeps the line numbers of its page, so that a traceback shows the line of the page that failed.
    """
    text = path.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": path.stem}
    blocks = list(_BLOCK.finditer(text))
    for block in blocks:
        line = text.count("\n", 0, block.start(1)) + 1
        try:
            exec(compile("\n" * (line - 1) + block[1], str(path), "exec"), namespace)
        except Exception as error:
            error.add_note(f"in the code block that begins at {path.name}:{line}")
            raise
    return len(blocks)
