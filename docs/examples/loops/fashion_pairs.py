"""Two views of images that lie in the harness: what the examples train on, and what you replace by your own data."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

from gmje_bench.datasets import load_dataset
from gmje_core.models.backbones import build_backbone
from gmje_core.models.heads import ProjectionHead

__all__ = ["CHANNELS", "FashionPairs", "build_encoder"]

CHANNELS = 1
_AUGMENT = v2.Compose(
    [
        v2.RandomResizedCrop(28, scale=(0.3, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.286], [0.353]),
    ]
)


class FashionPairs(Dataset[tuple[Tensor, Tensor]]):
    """Two random views, float32 ``(1, 28, 28)`` each, of every image."""

    def __init__(self, n: int) -> None:
        split = load_dataset("fashion_mnist_12k", limit=n).train
        self.images = split[:]  # uint8 (n, 1, 28, 28)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        return _AUGMENT(image), _AUGMENT(image)


def build_encoder(dim: int) -> nn.Module:
    """A small network from images ``(B, 1, 28, 28)`` to embeddings ``(B, dim)`` of unit norm."""
    backbone = build_backbone("smallconv", in_channels=CHANNELS)
    return nn.Sequential(backbone, ProjectionHead(256, 256, dim))
