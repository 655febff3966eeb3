"""What the tests share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import printed_code
import pytest
import torch


@pytest.fixture(name="run_page")
def _run_page() -> Callable[[Path], int]:
    return printed_code.run_page


@pytest.fixture(name="seeded")
def _seeded() -> Iterator[None]:
    """Random numbers of torch that are the same whatever ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
