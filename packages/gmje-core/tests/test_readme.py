"""The code that the READMEs show runs as printed."""

from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]
FILES = [PACKAGE / "README.md", PACKAGE.parents[1] / "README.md"]


@pytest.mark.parametrize("path", FILES, ids=["gmje-core", "gmje"])
def test_code_blocks_run(path, run_page):
    assert run_page(path)
