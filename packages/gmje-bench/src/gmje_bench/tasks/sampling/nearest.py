"""Images nearest to samples: what a picture of a sample is like without a decoder."""

import torch
from torch import Tensor

from gmje_bench.protocol import PROTOCOL

__all__ = ["nearest_images"]

_ROWS = 256


def nearest_images(samples: Tensor, embeddings: Tensor, seed: int) -> Tensor:
    """Draw for each sample one of the images whose views have the nearest embeddings.

    With ever more images, what is drawn is distributed as images given the embedding of a view are. It is always a real
    image, even for a sample that is far from all embeddings.

    Args:
        samples: ``(n, d)``.
        embeddings: ``(V, N, d)``, those of ``V`` views of each image.
        seed: Seed of the choice between the nearest five views.

    Returns:
        Indices ``(n,)`` of images, int64 in ``[0, N)``.

    Examples:
        >>> views = torch.tensor([[[0.0], [9.0]], [[1.0], [8.0]], [[0.5], [9.5]], [[0.2], [7.0]], [[0.1], [8.5]]])
        >>> nearest_images(torch.tensor([[0.3], [8.6]]), views, seed=0)
        tensor([0, 1])
    """
    every = embeddings.flatten(0, 1).float()
    count = min(PROTOCOL.neighbours, len(every))
    parts = samples.float().split(_ROWS)
    nearest = torch.cat([torch.cdist(part, every).topk(count, largest=False).indices for part in parts])
    chosen = torch.randint(count, (len(nearest), 1), generator=torch.Generator().manual_seed(seed))
    return nearest.gather(1, chosen)[:, 0] % embeddings.shape[1]
