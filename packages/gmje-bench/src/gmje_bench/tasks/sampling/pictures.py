"""What embeddings look like: a small decoder from embeddings to images, and a classifier whose features compare them.

Both are trained on the training split with a fixed seed and budget, on one process, and change no other number.
"""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmje_bench.protocol import PROTOCOL

__all__ = ["Classifier", "decode", "small", "train_classifier", "train_decoder"]

_SIDE, _HIDDEN, _BATCH, _RATE = 32, 512, 256, 2e-3


def small(images: Tensor) -> Tensor:
    """Images uint8 ``(n, C, S, S)`` at 32 pixels at most, float32 in [0, 1]."""
    pixels = images.float() / 255
    if images.shape[-1] <= _SIDE:
        return pixels
    return F.interpolate(pixels, (_SIDE, _SIDE), mode="bilinear", antialias=True)


class Classifier(nn.Module):
    """A small convolutional network; its features compare pictures where an Inception network has never seen such.

    Args:
        channels: Number of channels of the images.
        classes: Number of classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = (channels, 32, 64, 64)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(64 * 4, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits ``(n, classes)`` of pixels ``(n, C, S, S)`` in [0, 1]."""
        logits: Tensor = self.head(self.body(pixels))
        return logits

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Features ``(n, 256)``."""
        return torch.cat([self.body(part) for part in pixels.split(_BATCH)])


def train_classifier(images: Tensor, labels: Tensor, classes: int, seed: int = 0) -> Classifier:
    """Train the classifier of a dataset.

    Args:
        images: uint8 ``(N, C, S, S)``.
        labels: int64 ``(N,)``.
        classes: Number of classes.
        seed: Seed of everything that is drawn.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = Classifier(images.shape[1], classes)
        optimizer = torch.optim.Adam(network.parameters(), lr=_RATE)
        for rows in _batches(len(images), PROTOCOL.classifier_epochs, seed):
            loss = F.cross_entropy(network(small(images[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def train_decoder(embeddings: Tensor, images: Tensor, seed: int) -> nn.Module:
    """Train a decoder from embeddings to the pixels that least squares expects.

    Args:
        embeddings: ``(N, d)``, float32, of unit scale.
        images: uint8 ``(N, C, S, S)``.
        seed: Seed of everything that is drawn.

    Returns:
        A network from embeddings ``(n, d)`` to logits of pixels ``(n, C * side * side)``.
    """
    pixels = small(images).flatten(1)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(embeddings.shape[1], _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, pixels.shape[1]),
        )
        optimizer = torch.optim.Adam(network.parameters(), lr=_RATE)
        for rows in _batches(len(embeddings), PROTOCOL.decoder_epochs, seed):
            loss = F.mse_loss(network(embeddings[rows]).sigmoid(), pixels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


@torch.no_grad()
def decode(decoder: nn.Module, embeddings: Tensor, channels: int) -> Tensor:
    """Pixels ``(n, C, side, side)`` in [0, 1] of embeddings ``(n, d)``."""
    pixels: Tensor = torch.cat([decoder(part) for part in embeddings.float().split(_BATCH)]).sigmoid()
    side = round((pixels.shape[1] / channels) ** 0.5)
    return pixels.view(-1, channels, side, side)


def _batches(count: int, epochs: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        yield from order.split(_BATCH) if count < _BATCH else order[: count // _BATCH * _BATCH].split(_BATCH)
