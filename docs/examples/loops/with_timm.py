"""GMJE on a backbone of timm, and the trained backbone back in timm's hands."""

import timm
import torch
from fashion_pairs import CHANNELS, FashionPairs
from torch import nn
from torch.utils.data import DataLoader

from gmje_core import GMJE
from gmje_core.models.heads import ProjectionHead


def main(images: int = 1000, epochs: int = 1, name: str = "test_resnet") -> float:
    """Train, and return the last loss in nats a pair."""
    torch.manual_seed(0)
    backbone = timm.create_model(name, in_chans=CHANNELS, num_classes=0)  # pretrained=True starts from weights
    encoder = nn.Sequential(backbone, ProjectionHead(backbone.num_features, 256, 32))
    criterion = GMJE(dim=32, components=64)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3)
    loader = DataLoader(FashionPairs(images), batch_size=200, shuffle=True, drop_last=True)
    for epoch in range(epochs):
        for context, target in loader:
            loss = criterion(encoder(context), encoder(target))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, {criterion.diagnostics()['verdict']}")
    again = timm.create_model(name, in_chans=CHANNELS, num_classes=0)
    again.load_state_dict(backbone.state_dict())
    return loss.item()


if __name__ == "__main__":
    main()
