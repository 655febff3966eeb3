"""Pairs of views of the training images by a frozen module, which densities are fitted to.

The images are those of :func:`gmje_bench.evaluation.splits.viewed`, so that the pairs are bounded: with the protocol's
60,000 images, two passes and 128 dimensions a view they take 123 MB, whatever the size of the dataset.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gmje_bench.datasets.base import ImageData
from gmje_bench.evaluation.features import embed_views
from gmje_bench.evaluation.splits import viewed
from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.subject import TrainingPairs
from gmje_bench.training.module import JointEmbedding
from gmje_core.distributed import rank

__all__ = ["PairsOf"]


@dataclass(eq=False)
class PairsOf:
    """Pairs of views of a module, embedded when they are first asked for and kept for whoever asks again.

    Attributes:
        module: The trained module, which must not change from then on.
        data: The images, of which the training split is used.
        seed: Seed of the division of the images.
        device: The device of the module.
        workers: Number of processes that decode images.
    """

    module: JointEmbedding
    data: ImageData
    seed: int
    device: torch.device
    workers: int | None = 0

    @cached_property
    def pairs(self) -> TrainingPairs | None:
        """The pairs on the main process, ``None`` on the others; every process must ask for them.

        Nine tenths of the images give the pairs to fit to, several views of each; the rest give those to choose by. The
        test images play no part.

        Raises:
            NonFiniteError: the embeddings hold NaN or infinity.
        """
        split = viewed(self.data, "train").split
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(self.seed))
        aside = order[: max(1, round(PROTOCOL.consolidation_validation * len(order)))]
        held_out = torch.zeros(len(order), dtype=torch.bool).index_fill_(0, aside, True)
        passes = [
            embed_views(
                self.module,
                split,
                self.data,
                PROTOCOL.consolidation_seed + index,
                device=self.device,
                workers=self.workers,
            )
            for index in range(PROTOCOL.passes(len(split)))
        ]
        if rank() > 0:
            return None

        def pairs(rows: Tensor) -> tuple[Tensor, Tensor]:
            context, target = (torch.cat([views[rows] for views in part]) for part in zip(*passes, strict=True))
            return context, target

        masked = self.module.views(self.data).masked is not None
        exchangeable = self.module.target_encoder is None and not masked
        return TrainingPairs(*pairs(~held_out), pairs(held_out), passes=len(passes), exchangeable=exchangeable)
