"""A least-squares network from embeddings to pixels, which expects of the pixels what the embedding says of them.

Decoded samples of a density differ by their embeddings alone: this network adds no noise of its own.
"""

import torch
from torch import Tensor, nn

from gmje_bench.protocol import PROTOCOL
from gmje_core.seeds import seeded

__all__ = ["PixelRegression", "train_regression"]

_HIDDEN, _BATCH, _RATE = 256, 128, 2e-3
# The rate of learning falls linearly to zero in this last part of the training.
_FALL = 1 / 3
_ROWS = 1000


class PixelRegression(nn.Module):
    """A network with two hidden layers from embeddings to pixels in [0, 1].

    Args:
        dim: Size of the embeddings.
        pixels: Number of pixels, over all channels.
    """

    def __init__(self, dim: int, pixels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(dim, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, pixels)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Pixels ``(n, P)`` of embeddings ``(n, dim)`` of unit scale."""
        pixels: Tensor = self.body(z).sigmoid()
        return pixels

    @torch.no_grad()
    def expected(self, z: Tensor) -> Tensor:
        """Expected pixels ``(*shape, P)`` of embeddings ``(*shape, dim)``, float32."""
        rows = z.float().flatten(0, -2)
        pixels: Tensor = torch.cat([self(part) for part in rows.split(_ROWS)]).unflatten(0, z.shape[:-1])
        return pixels


def train_regression(z: Tensor, pixels: Tensor, seed: int) -> PixelRegression:
    """Train the network.

    Args:
        z: ``(N, dim)`` embeddings of unit scale.
        pixels: ``(N, P)`` in [0, 1].
        seed: Seed of everything that is drawn.

    Examples:
        >>> z = torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
        >>> network = train_regression(z, z.sigmoid(), seed=0)
        >>> bool((network.expected(z) - z.sigmoid()).square().mean() < 1e-3)
        True
    """
    steps = PROTOCOL.regression_steps
    with seeded(seed), torch.enable_grad():
        network = PixelRegression(z.shape[1], pixels.shape[1])
        optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-4)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (1 - step / steps) / _FALL))
        z = z.float()
        for _ in range(steps):
            rows = torch.randint(len(z), (min(_BATCH, len(z)),))
            loss = (network(z[rows]) - pixels[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    return network.eval().requires_grad_(False)
