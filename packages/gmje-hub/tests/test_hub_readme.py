"""The code that the README shows runs as printed."""

import re
from pathlib import Path


def test_code_blocks_run():
    path = Path(__file__).parents[1] / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(path), "exec"), {})
