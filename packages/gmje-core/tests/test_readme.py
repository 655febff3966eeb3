"""The code that the READMEs show runs as printed."""

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]
FILES = [PACKAGE / "README.md", PACKAGE.parents[1] / "README.md"]


@pytest.mark.parametrize("path", FILES, ids=["gmje-core", "gmje"])
def test_code_blocks_run(path):
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(path), "exec"), {})
