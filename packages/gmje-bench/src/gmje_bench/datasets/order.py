"""The order of an epoch: which images make up which batch, and which of them each process reads."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gmje_bench.datasets.blocks import block_order

__all__ = ["EpochOrder"]


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """The batches of an epoch, a pure function of these numbers, whatever reads them.

    Args:
        seed: Seed of the run.
        epoch: The epoch, from 0.
        steps: Number of steps of an epoch; images that do not fill a batch are left out.
        batch_size: Number of images in a global batch, over all processes.
        first_step: The step to begin with, where the epoch was stopped before.
        rank: The rank of this process.
        world_size: Number of processes; each gets a slice of every global batch.
        mixed_blocks: Of about so many blocks a batch takes its images, where these are read in blocks.

    Examples:
        >>> whole = EpochOrder(seed=0, epoch=3, steps=2, batch_size=4).batches(9)
        >>> [len(batch) for batch in whole]
        [4, 4]
        >>> second = EpochOrder(seed=0, epoch=3, steps=2, batch_size=4, first_step=1, rank=1, world_size=2).batches(9)
        >>> torch.equal(second[0], whole[1][2:])
        True
    """

    seed: int
    epoch: int
    steps: int
    batch_size: int
    first_step: int = 0
    rank: int = 0
    world_size: int = 1
    mixed_blocks: int = 32

    def batches(self, n: int, blocks: Tensor | None = None) -> list[Tensor]:
        """The images of each step that this process reads.

        Args:
            n: Number of images.
            blocks: int64 ``(n,)``, their blocks, where they are read in blocks; see :mod:`gmje_bench.datasets.blocks`.

        Returns:
            Indices int64 ``(batch_size / world_size,)`` of each step.
        """
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        if blocks is None:
            order = torch.randperm(n, generator=generator)
        else:
            order = block_order(blocks, self.batch_size, self.mixed_blocks, generator)
        share = self.batch_size // self.world_size
        start = self.rank * share
        batches = order[: self.steps * self.batch_size].split(self.batch_size)
        return [batch[start : start + share] for batch in batches[self.first_step :]]

    def place(self, step: int) -> dict[str, int]:
        """Epoch, step, rank and world size, by which views are drawn."""
        return {"epoch": self.epoch, "step": step, "rank": self.rank, "world_size": self.world_size}
