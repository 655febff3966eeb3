"""The closing stage of training: a criterion's density is fitted to pairs of views of the frozen encoder.

In the default vision suite (10,000 images, four passes of views, 128 dimensions a view) the embeddings take 8 seconds
of one core and 41 MB, and the fit takes what :mod:`gmje_core.estimation.scaled` says.
"""

import torch
from torch import Tensor

from gmje_bench.datasets.base import ImageData
from gmje_bench.evaluation.features import embed_views
from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.subject import TrainingPairs
from gmje_bench.training.module import JointEmbedding
from gmje_core import Criterion
from gmje_core.distributed import rank
from gmje_core.estimation.scaled import ScaledFit

__all__ = ["consolidate", "needs_consolidation", "training_pairs"]


def needs_consolidation(module: JointEmbedding) -> bool:
    """Whether the module has a criterion with room for a density of its own."""
    return isinstance(module.criterion, Criterion) and module.criterion.density_components > 0


def consolidate(
    module: JointEmbedding, data: ImageData, *, seed: int, device: torch.device, workers: int | None = 0
) -> ScaledFit | None:
    """Fit the density of a trained module's criterion to views of the training images, in place.

    It is fitted to the :func:`training_pairs`; those of the images that are set aside choose its
    shrinkage and its scales. All processes
    embed, and the main one fits: it is the one that evaluates and saves.

    Args:
        module: The trained module.
        data: The images, of which the training split is used.
        seed: Seed of the division of the images and of the fit.
        device: The device of the module.
        workers: Number of processes that decode images; ``None`` for the cores to spare.

    Returns:
        The fit, on the main process; ``None`` on the others.
    """
    pairs = training_pairs(module, data, seed=seed, device=device, workers=workers)
    if pairs is None:
        return None
    assert isinstance(module.criterion, Criterion)
    return module.criterion.cpu().consolidate(
        pairs.context,
        pairs.target,
        pairs.validation,
        passes=pairs.passes,
        exchangeable=pairs.exchangeable,
        seed=seed,
    )


def training_pairs(
    module: JointEmbedding, data: ImageData, *, seed: int, device: torch.device, workers: int | None = 0
) -> TrainingPairs | None:
    """Pairs of views of the training images by a frozen module, on the main process; every process must call it.

    Nine tenths of the images give the pairs to fit to, several views of each; the rest give those to choose by. The
    test images play no part.

    Args:
        module: The trained module.
        data: The images, of which the training split is used.
        seed: Seed of the division of the images.
        device: The device of the module.
        workers: Number of processes that decode images; ``None`` for the cores to spare.

    Returns:
        The pairs on the main process; ``None`` on the others.
    """
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    aside = order[: max(1, round(PROTOCOL.consolidation_validation * len(order)))]
    held_out = torch.zeros(len(order), dtype=torch.bool).index_fill_(0, aside, True)
    passes = [
        embed_views(module, data.train, data, PROTOCOL.consolidation_seed + index, device=device, workers=workers)
        for index in range(PROTOCOL.consolidation_passes)
    ]
    if rank() > 0:
        return None

    def pairs(rows: Tensor) -> tuple[Tensor, Tensor]:
        context, target = (torch.cat([views[rows] for views in part]) for part in zip(*passes, strict=True))
        return context, target

    exchangeable = module.target_encoder is None
    return TrainingPairs(*pairs(~held_out), pairs(held_out), passes=len(passes), exchangeable=exchangeable)
