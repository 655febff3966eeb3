"""GMJE with lightly's transforms and heads: in a script of lightly, the criterion changes."""

import torch
import torch.nn.functional as F
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from gmje_bench.datasets import load_dataset
from gmje_core import GMJE
from gmje_core.models.backbones import build_backbone


class LightlyPairs(Dataset[list[Tensor]]):
    """Two views, float32 ``(3, 32, 32)`` each, by lightly's transform of SimCLR."""

    def __init__(self, n: int) -> None:
        self.images = load_dataset("fashion_mnist_12k", limit=n).train[:]
        self.transform = SimCLRTransform(input_size=32, min_scale=0.3, cj_prob=0.2, gaussian_blur=0.0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        views: list[Tensor] = self.transform(Image.fromarray(self.images[index, 0].numpy()).convert("RGB"))
        return views


def main(images: int = 1000, epochs: int = 1) -> float:
    """Train, and return the last loss in nats a pair."""
    torch.manual_seed(0)
    loader = DataLoader(LightlyPairs(images), batch_size=200, shuffle=True, drop_last=True)
    encoder = nn.Sequential(build_backbone("smallconv"), SimCLRProjectionHead(256, 256, 32))
    criterion = GMJE(dim=32, components=64)  # lightly: NTXentLoss(temperature=0.1), which normalises by itself
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3)
    for epoch in range(epochs):
        for context, target in loader:
            loss = criterion(F.normalize(encoder(context)), F.normalize(encoder(target)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, {criterion.diagnostics()['verdict']}")
    return loss.item()


if __name__ == "__main__":
    main()
