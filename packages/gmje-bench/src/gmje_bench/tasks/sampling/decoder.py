r"""A decoder shows what embeddings stand for: it draws images, as likely as those whose views have the embedding.

The embedding of a view does not determine the image, so that a least-squares decoder shows an average, which looks like
no image. This one takes noise beside the embedding and is trained by the energy score, which is least in the mean where
the images that it draws are distributed as the true ones are. Decoded samples of a perfect density of the embeddings of
views are then distributed as the images themselves.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.sampling.classifier import small
from gmje_core.seeds import seeded

__all__ = ["Decoder", "decode", "energy_score", "train_decoder"]

_NOISE, _HIDDEN, _BATCH, _RATE = 32, 768, 128, 2e-3
_ROWS = 256
# Pictures are moved by up to so many pixels before they are scored: a network with strides would else leave a pattern.
_SHIFT = 3
# The rate of learning falls linearly to zero in this last part of the training.
_FALL = 1 / 3


class Decoder(nn.Module):
    """A network from an embedding and noise to an image.

    Args:
        dim: Size of the embeddings.
        channels: Number of channels of the images.
        side: Side of the images in pixels.
    """

    def __init__(self, dim: int, channels: int, side: int) -> None:
        super().__init__()
        self.shape = channels, side, side
        self.body = nn.Sequential(
            nn.Linear(dim + _NOISE, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, channels * side**2),
        )

    def forward(self, z: Tensor, noise: Tensor) -> Tensor:
        """Images ``(n, C, side, side)`` in [0, 1].

        Args:
            z: ``(n, dim)``, of unit scale.
            noise: ``(n, 32)``, standard normal.
        """
        pixels: Tensor = self.body(torch.cat([z, noise], dim=1)).sigmoid()
        return pixels.view(-1, *self.shape)


def energy_score(first: Tensor, second: Tensor, truth: Tensor) -> Tensor:
    r"""Energy score of a distribution by two draws of it (Gneiting and Raftery, 2007), a strictly proper score.

    .. math::
        E|X - x| - \tfrac12 E|X - X'|

    Args:
        first: ``(..., d)``, draws :math:`X`.
        second: ``(..., d)``, other draws :math:`X'` of the same distributions.
        truth: ``(..., d)``, what was observed, :math:`x`.

    Returns:
        The mean over all leading dimensions, a scalar in units of the points.

    Examples:
        >>> sure, right = torch.zeros(1), torch.tensor([2.0])
        >>> float(energy_score(sure, sure, right)), float(energy_score(sure, right, right))
        (2.0, 0.0)
    """
    to_truth = (_length(first - truth) + _length(second - truth)) / 2
    return (to_truth - _length(first - second) / 2).mean()


def _length(x: Tensor) -> Tensor:
    """Norm of the last dimension, with a gradient of zero where it is zero."""
    squares = x.square().sum(dim=-1)
    return torch.where(squares > 0, squares.clamp_min(1e-12).sqrt(), squares)


def train_decoder(embeddings: Tensor, images: Tensor, maps: Callable[[Tensor], Iterable[Tensor]], seed: int) -> Decoder:
    """Train a decoder from embeddings of views to the images, without augmentation, that the views were made of.

    The energy scores of the pixels and of several feature maps are added, each in units of its own spread. A feature
    map is scored place by place.

    Args:
        embeddings: ``(V, N, d)``, float32, of unit scale: those of ``V`` views of each image.
        images: uint8 ``(N, C, S, S)``.
        maps: A function from pixels ``(n, C, s, s)`` to feature maps ``(n, c, h, w)``.
        seed: Seed of everything that is drawn.
    """
    pixels = small(images)
    with seeded(seed), torch.enable_grad():
        decoder = Decoder(embeddings.shape[2], *pixels.shape[1:3])
        optimizer = torch.optim.Adam(decoder.parameters(), lr=_RATE, betas=(0.9, 0.98))
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, _falling)
        for _ in range(PROTOCOL.decoder_steps):
            views, rows = (torch.randint(size, (min(_BATCH, len(pixels)),)) for size in embeddings.shape[:2])
            z = embeddings[views, rows].repeat(2, 1)
            drawn = decoder(z, torch.randn(len(z), _NOISE))
            loss = torch.stack(list(_scores(*_moved(drawn, pixels[rows]), maps))).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    return decoder.eval()


def _falling(step: int) -> float:
    """The share of the rate of learning at a step."""
    return min(1.0, (1 - step / max(PROTOCOL.decoder_steps, 1)) / _FALL)


def _moved(drawn: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures in a larger black frame, all at the same random place of it."""
    right, down = (int(torch.randint(_SHIFT + 1, ())) for _ in range(2))
    frame = right, _SHIFT - right, down, _SHIFT - down
    return F.pad(drawn, frame), F.pad(truth, frame)


def _scores(drawn: Tensor, truth: Tensor, maps: Callable[[Tensor], Iterable[Tensor]]) -> Iterator[Tensor]:
    """Yield the energy scores of the pixels, and of each map, where ``drawn`` holds two draws for each truth."""
    yield _in_units_of_spread(drawn.flatten(1), truth.flatten(1))
    for of_drawn, of_truth in zip(maps(drawn), maps(truth), strict=True):
        yield _in_units_of_spread(*(x.flatten(2).transpose(1, 2) for x in (of_drawn, of_truth)))


def _in_units_of_spread(drawn: Tensor, truth: Tensor) -> Tensor:
    truth = truth.detach()
    spread = _length(truth - truth.mean(dim=0)).mean().clamp_min(1e-6)
    first, second = drawn.chunk(2)
    return energy_score(first, second, truth) / spread


@torch.no_grad()
def decode(decoder: Decoder, embeddings: Tensor, seed: int, *, same_noise: bool = False) -> Tensor:
    """Draw an image of each embedding.

    Args:
        decoder: From :func:`train_decoder`.
        embeddings: ``(n, d)``, of unit scale.
        seed: Seed of the noise.
        same_noise: Draw all images with the same noise, so that they differ by their embeddings alone.

    Returns:
        Pixels ``(n, C, side, side)`` in [0, 1].
    """
    count = 1 if same_noise else len(embeddings)
    noise = torch.randn(count, _NOISE, generator=torch.Generator().manual_seed(seed)).expand(len(embeddings), -1)
    parts = zip(embeddings.float().split(_ROWS), noise.split(_ROWS), strict=True)
    return torch.cat([decoder(*part) for part in parts])
