"""The pixels of the views that a subject's embeddings are of: what the context shows, and what is to be completed."""

from typing import NamedTuple

import torch
from torch import Tensor

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.sampling.conditional import view_pixels
from gmje_bench.tasks.subject import Embedded
from gmje_bench.views import TwoViews, ViewConfig

__all__ = ["Shown", "shown"]


class Shown(NamedTuple):
    """Pictures of two views at 32 pixels at most, float32 in [0, 1].

    Attributes:
        rows: int64 ``(n,)``, which images of the split.
        context: ``(n, C, s, s)``; a masked box has the colour of the images' mean.
        target: ``(n, C, s, s)``.
        box: The rows and columns ``(start, stop)`` of a picture that the target alone shows; all of it where views are
            not masked.
    """

    rows: Tensor
    context: Tensor
    target: Tensor
    box: tuple[tuple[int, int], tuple[int, int]]

    def hidden(self) -> Tensor:
        """The pixels that are to be completed, ``(n, P)``."""
        return self.cut(self.target).flatten(1)

    def cut(self, pictures: Tensor) -> Tensor:
        """The box of pictures ``(..., C, s, s)``, ``(..., C, h, w)``."""
        (top, bottom), (left, right) = self.box
        return pictures[..., top:bottom, left:right]

    def completed(self, rows: Tensor, pixels: Tensor) -> Tensor:
        """Contexts with their box filled.

        Args:
            rows: ``(m,)``, rows of ``context``.
            pixels: ``(m, S, P)``, ``S`` answers to each.

        Returns:
            ``(m, S, C, s, s)``.
        """
        pictures = self.context[rows, None].repeat(1, pixels.shape[1], 1, 1, 1)
        self.cut(pictures).copy_(pixels.view_as(self.cut(pictures)))
        return pictures


def shown(part: Embedded, config: ViewConfig, largest: int | None = None) -> Shown:
    """Draw the views of a split again, those whose embeddings the part holds.

    Args:
        part: The split with the embeddings of its views.
        config: How these were drawn.
        largest: Draw about so many images at most; chunks of them are then chosen at random, always the same.
    """
    views = TwoViews(config, PROTOCOL.view_seed)
    chunks = torch.arange(len(part.images)).split(PROTOCOL.feature_batch)
    numbers = torch.arange(len(chunks))
    if largest is not None and len(part.images) > largest:
        order = torch.randperm(len(chunks), generator=torch.Generator().manual_seed(0))
        numbers = order[: max(1, largest // PROTOCOL.feature_batch)].sort().values
    contexts, targets = [], []
    for number in numbers.tolist():
        context, target = views(part.images[chunks[number]], epoch=0, step=number)
        contexts.append(view_pixels(context, config))
        targets.append(view_pixels(target, config))
    context, target = torch.cat(contexts), torch.cat(targets)
    side = context.shape[-1]
    box = ((0, side), (0, side))
    if config.masked is not None:
        top, bottom, left, right = (round(edge * side / config.size) for pair in config.box for edge in pair)
        box = ((top, bottom), (left, right))
    return Shown(torch.cat([chunks[number] for number in numbers.tolist()]), context, target, box)
