r"""A decoder shows what embeddings stand for: it draws images, as likely as those whose views have the embedding.

An embedding of a view does not determine the image, so that a least-squares decoder shows an average, which is like no
image. This one takes noise beside the embedding and is trained by the energy score, which is least in the mean where
the images that it draws are distributed as the true ones are. Decoded samples of a perfect density of the embeddings
are then distributed as the images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Decoder", "decode", "energy_score", "train_decoder"]

_NOISE, _WIDTHS, _BATCH, _RATE = 32, (48, 32, 16), 128, 2e-3
_ROWS = 256
# These cells of 8 x 8 pixels, half over each other, are scored apart, so that each of them has to look like its kind.
_CELL = 8
_MAPS = (32, 64, 64)
# The rate of learning falls linearly to zero in this last part of the training.
_FALL = 1 / 3


class Decoder(nn.Module):
    """A convolutional network from an embedding and noise to an image.

    Args:
        dim: Size of the embeddings.
        channels: Number of channels of the images.
        side: Side of the images in pixels.
    """

    def __init__(self, dim: int, channels: int, side: int) -> None:
        super().__init__()
        first, second, third = _WIDTHS
        self.side, self.base = side, -(-side // 4)
        self.start = nn.Linear(dim + _NOISE, first * self.base**2)
        self.double = nn.ModuleList(
            nn.Conv2d(before, 4 * after, 3, padding=1) for before, after in ((first, second), (second, third))
        )
        self.end = nn.Conv2d(third, channels, 3, padding=1)

    def forward(self, z: Tensor, noise: Tensor) -> Tensor:
        """Images ``(n, C, side, side)`` in [0, 1].

        Args:
            z: ``(n, dim)``, of unit scale.
            noise: ``(n, 32)``, standard normal.
        """
        x = F.relu(self.start(torch.cat([z, noise], dim=1))).view(len(z), -1, self.base, self.base)
        for convolution in self.double:
            x = F.relu(F.pixel_shuffle(convolution(x), 2))
        pixels: Tensor = self.end(x).sigmoid()[..., : self.side, : self.side]
        return pixels


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
    """The norm of the last dimension; its gradient at zero is zero, not NaN."""
    squares = x.square().sum(dim=-1)
    return torch.where(squares > 0, squares.clamp_min(1e-12).sqrt(), squares)
