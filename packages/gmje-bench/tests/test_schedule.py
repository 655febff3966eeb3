"""The steps of a run: how many there are, and their learning rates."""

import math
from types import SimpleNamespace

import pytest

from gmje_bench.errors import OptionError
from gmje_bench.suites import Training
from gmje_bench.training.schedule import learning_rate, plan


def world(size: int = 1, accumulation: int = 1) -> SimpleNamespace:
    return SimpleNamespace(num_processes=size, gradient_accumulation_steps=accumulation)


@pytest.mark.parametrize("warmup", [0, 1, 10])
@pytest.mark.parametrize("total", [20, 100])
def test_learning_rate_is_a_ramp_then_half_a_cosine(total, warmup):
    for step in range(total):
        rate = learning_rate(step, total, 0.3, warmup)
        if step < warmup:
            assert rate == pytest.approx(0.3 * (step + 1) / warmup)
        else:
            angle = math.pi * (step - warmup) / (total - warmup)
            assert rate == pytest.approx(0.15 * (1 + math.cos(angle)))
        assert rate > 0


@pytest.mark.parametrize(
    ("images", "batch", "processes", "accumulation", "words"),
    [
        (100, 128, 1, 1, "larger than the 100 training images"),
        (100, 9, 2, 1, "does not divide evenly over 2 processes"),
        (100, 10, 1, 3, "accumulation over 3 steps"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(images, batch, processes, accumulation, words):
    with pytest.raises(OptionError, match=words):
        plan(images, Training(batch_size=batch), world(size=processes, accumulation=accumulation))
