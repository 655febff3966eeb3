"""The code that the README shows runs as printed, in order, and gives what it says."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """The names that the blocks leave behind."""
    path = Path(__file__).parents[1] / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(path), "exec"), namespace)
    return namespace


def test_a_dataset_gets_the_models_columns(shown):
    model, dataset = shown["again"], shown["dataset"]
    pictures = dataset["image"][:]
    assert (pictures.dtype, pictures.shape) == (torch.uint8, (6, 1, 40, 32))
    x = model.preprocess(pictures)
    torch.testing.assert_close(dataset["embedding"][:], model.embed(x))
    expected = model.uncertainty(x)
    torch.testing.assert_close(dataset["log_density"][:], -expected.surprise)
    torch.testing.assert_close(dataset["uncertainty"][:], expected.within + expected.between)
    assert dataset["embedding"][:].shape == (6, 16)
