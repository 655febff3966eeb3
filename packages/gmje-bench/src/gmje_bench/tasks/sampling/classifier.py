"""A classifier of the images, whose features compare pictures where an Inception network has never seen such.

It is trained on the training split with a fixed seed and budget, on one process, and changes no other number.
"""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmje_bench.protocol import PROTOCOL
from gmje_core.seeds import seeded

__all__ = ["Classifier", "small", "train_classifier"]

_SIDE, _BATCH, _RATE = 32, 256, 2e-3


def small(images: Tensor) -> Tensor:
    """Images uint8 ``(n, C, S, S)`` at 32 pixels at most, float32 in [0, 1]."""
    pixels = images.float() / 255
    if images.shape[-1] <= _SIDE:
        return pixels
    return F.interpolate(pixels, (_SIDE, _SIDE), mode="bilinear", antialias=True)


class Classifier(nn.Module):
    """A small convolutional network.

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

    def maps(self, pixels: Tensor) -> Iterator[Tensor]:
        """Yield the feature maps ``(n, c, h, w)`` after each convolution, from fine to coarse; they have a gradient."""
        x = pixels
        for layer in self.body:
            if isinstance(layer, nn.AdaptiveAvgPool2d):
                return
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                yield x

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
    with seeded(seed), torch.enable_grad():
        network = Classifier(images.shape[1], classes)
        optimizer = torch.optim.Adam(network.parameters(), lr=_RATE)
        for rows in _batches(len(images), PROTOCOL.classifier_epochs, seed):
            loss = F.cross_entropy(network(small(images[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval().requires_grad_(False)


def _batches(count: int, epochs: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        yield from order.split(_BATCH) if count < _BATCH else order[: count // _BATCH * _BATCH].split(_BATCH)
