"""What the tests of the printed code share: a page's blocks, run as they stand."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


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


@pytest.fixture(name="run_page")
def _run_page() -> Callable[[Path], int]:
    return run_page


@pytest.fixture(name="seeded")
def _seeded() -> Iterator[None]:
    """Random numbers of torch that are the same whatever ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
