"""The steps of a run and their learning rates. Free of torch."""

import math
from dataclasses import dataclass
from typing import Protocol

from gmje_bench.errors import OptionError
from gmje_bench.suites import Training

__all__ = ["Schedule", "World", "learning_rate", "plan"]


@dataclass(frozen=True)
class Schedule:
    """The number of steps of a run.

    Args:
        epochs: Number of passes over the data.
        steps_per_epoch: Number of global batches in a pass; the last incomplete one is dropped.
    """

    epochs: int
    steps_per_epoch: int

    @property
    def total(self) -> int:
        """The number of all steps."""
        return self.epochs * self.steps_per_epoch


def learning_rate(step: int, total: int, peak: float, warmup: int) -> float:
    """Linear warm-up to ``peak``, then a cosine to zero.

    Args:
        step: The step, counted from 0.
        total: Number of steps of the run.
        peak: The highest learning rate.
        warmup: Number of steps of the warm-up.

    Examples:
        >>> [round(learning_rate(s, 10, 1.0, 2), 3) for s in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


class World(Protocol):
    """What a plan depends on of the processes; Accelerate's object has it."""

    @property
    def num_processes(self) -> int:
        """Number of processes that the batch is divided over."""

    @property
    def gradient_accumulation_steps(self) -> int:
        """Number of batches whose gradients are added up."""


def plan(images: int, training: Training, accelerator: World) -> Schedule:
    """Check that the batch fits the data and the processes, and count the steps of the run."""
    batch, processes = training.batch_size, accelerator.num_processes
    if accelerator.gradient_accumulation_steps > 1:
        raise OptionError(
            f"gradient accumulation over {accelerator.gradient_accumulation_steps} steps was asked for, but these "
            "losses compare the pairs of a batch with each other: accumulating small batches is not the loss of the "
            "large one. Use more processes or a smaller --batch-size"
        )
    if batch % processes:
        raise OptionError(f"--batch-size {batch} does not divide evenly over {processes} processes")
    if batch > images:
        raise OptionError(f"--batch-size {batch} is larger than the {images} training images")
    return Schedule(training.epochs, images // batch)
