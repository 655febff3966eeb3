"""Boxes of both views for images that are cut where they are decoded, before their sizes are known."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gmje_bench.views.config import ViewConfig
from gmje_bench.views.parameters import box_chances, boxes_from, generator_for

__all__ = ["CropDraws"]


@dataclass(frozen=True, eq=False)
class CropDraws:
    """What is drawn for the boxes of some images; the boxes follow when the images' sizes are known.

    Args:
        config: How views are drawn.
        chances: float64 ``(2, 4, b, 10)``, uniform numbers for the context and the target of ``b`` images.

    Examples:
        >>> from gmje_bench.views import preset
        >>> draws = CropDraws.of_step(preset(224, 3), seed=0, batch=2, epoch=0, step=0)
        >>> draws.boxes([375, 500], [500, 375]).shape
        torch.Size([2, 2, 4])
        >>> half = CropDraws.of_step(preset(224, 3), seed=0, batch=1, epoch=0, step=0, rank=1, world_size=2)
        >>> torch.equal(half.boxes([500], [375]), draws.boxes([375, 500], [500, 375])[:, 1:])
        True
    """

    config: ViewConfig
    chances: Tensor

    @classmethod
    def of_step(
        cls,
        config: ViewConfig,
        seed: int,
        batch: int,
        *,
        epoch: int,
        step: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> "CropDraws":
        """The draws for this process's share of the global batch of a step.

        Args:
            config: How views are drawn.
            seed: The seed of all random parameters.
            batch: Number of images of this process.
            epoch: The epoch of training, from 0.
            step: The step within the epoch, from 0.
            rank: The rank of this process.
            world_size: Number of processes, each with ``batch`` images.
        """
        share = slice(rank * batch, (rank + 1) * batch)
        generators = (generator_for(seed, epoch, step, view) for view in range(2))
        return cls(config, torch.stack([box_chances(batch * world_size, g)[:, share] for g in generators]))

    def __len__(self) -> int:
        return self.chances.shape[2]

    def at(self, places: Tensor | slice) -> "CropDraws":
        """The draws of some of the images."""
        return CropDraws(self.config, self.chances[:, :, places])

    def boxes(self, heights: list[int], widths: list[int]) -> Tensor:
        """Boxes inside images of these sizes, distributed as those of torchvision's ``RandomResizedCrop``.

        Args:
            heights: Of the ``b`` images, in pixels.
            widths: Of the ``b`` images, in pixels.

        Returns:
            int64 ``(2, b, 4)``: top, left, height and width in pixels, of the context and of the target.
        """
        sides = [torch.tensor(sides, dtype=torch.float64) for sides in (heights, widths)]
        return torch.stack([boxes_from(self.config, chances, *sides) for chances in self.chances]).long()
