"""GMJE with Accelerate: ``accelerate launch docs/examples/loops/with_accelerate.py`` on any number of devices."""

import torch
from accelerate import Accelerator
from fashion_pairs import FashionPairs, build_encoder
from torch.utils.data import DataLoader

from gmje_core import GMJE


def main(images: int = 2000, epochs: int = 1) -> float:
    """Train, and return the last loss of the global batch in nats a pair."""
    accelerator = Accelerator()
    torch.manual_seed(0)  # the same start on every process
    loader = DataLoader(FashionPairs(images), batch_size=100, shuffle=True, drop_last=True)
    encoder = build_encoder(dim=32)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3)
    encoder, optimizer, loader = accelerator.prepare(encoder, optimizer, loader)
    # Not prepared: it has no parameters, gathers the batch itself, and keeps the same state on every process.
    criterion = GMJE(dim=32, components=64).to(accelerator.device)
    for epoch in range(epochs):
        for context, target in loader:
            z_context, z_target = encoder(torch.cat([context, target])).chunk(2)  # one pass, as DDP needs
            loss = criterion(z_context, z_target)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        accelerator.print(f"epoch {epoch + 1}: loss {loss.item():.3f}, {criterion.diagnostics()['verdict']}")
    accelerator.end_training()
    return loss.item()


if __name__ == "__main__":
    main()
