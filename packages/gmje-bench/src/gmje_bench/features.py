"""Frozen features of a split, the same numbers on any number of processes."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gmje_bench.datasets.base import ImageData, Split
from gmje_bench.protocol import PROTOCOL
from gmje_bench.views import evaluation_view, preset
from gmje_core.distributed import rank, world_size

__all__ = ["extract_features"]


@torch.no_grad()
def extract_features(
    backbone: nn.Module, split: Split, data: ImageData, *, device: torch.device, workers: int = 0
) -> Tensor:
    """Backbone features of every image, in order.

    Chunks of constant composition are dealt to the processes, so that no batch differs with their number.

    Args:
        backbone: In any mode; it is put in evaluation mode.
        split: Whose images.
        data: Says how images are presented.
        device: Where the backbone is.
        workers: Decoding processes.

    Returns:
        float32 ``(N, num_features)`` on the CPU, on every process.
    """
    backbone.eval()
    config = preset(data.image_size, data.channels)
    chunks = torch.arange(len(split)).split(PROTOCOL.feature_batch)
    own = list(chunks[rank() :: world_size()])
    features = torch.zeros(len(split), int(backbone.num_features))  # type: ignore[arg-type]
    for index, (images, *_) in zip(own, split.batches(own, workers), strict=True):
        features[index] = backbone(evaluation_view(images.to(device), config)).float().cpu()
    if world_size() > 1:  # every row is zero on all processes but one: the sum is exact
        shared = features.to(device)
        dist.all_reduce(shared)
        features = shared.cpu()
    return features
