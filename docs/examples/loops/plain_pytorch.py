"""GMJE in a loop of plain PyTorch: an optimiser, a loader, and the density at the end."""

import torch
from fashion_pairs import FashionPairs, build_encoder
from torch.utils.data import DataLoader

from gmje_core import GMJE


def main(images: int = 2000, epochs: int = 2) -> float:
    """Train, ask the density, and return the last loss in nats a pair."""
    torch.manual_seed(0)
    loader = DataLoader(FashionPairs(images), batch_size=200, shuffle=True, drop_last=True)
    encoder = build_encoder(dim=32)
    criterion = GMJE(dim=32, components=64)
    # The criterion has nothing to optimise here; other options give it parameters, so they are always listed.
    optimizer = torch.optim.AdamW([*encoder.parameters(), *criterion.parameters()], lr=2e-3)
    for epoch in range(epochs):
        for context, target in loader:
            loss = criterion(encoder(context), encoder(target))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, {criterion.diagnostics()['verdict']}")

    # When training is over, the density that answers is fitted to pairs of the frozen encoder.
    encoder.eval()
    with torch.no_grad():
        pairs = [(encoder(context), encoder(target)) for context, target in loader]
    context, target = (torch.cat(views) for views in zip(*pairs, strict=True))
    held_out = len(context) // 10
    criterion.consolidate(
        context[held_out:], target[held_out:], (context[:held_out], target[:held_out]), exchangeable=True
    )
    answer = criterion.density().condition(context[:1])
    within, between = (float(c[0].trace()) for c in (answer.covariance_within, answer.covariance_between))
    print(f"the other view of one image: variance {within:.3f} within answers, {between:.3f} between them")
    return loss.item()


if __name__ == "__main__":
    main()
