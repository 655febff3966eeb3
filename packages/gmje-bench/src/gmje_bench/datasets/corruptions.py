"""Common corruptions of images (Hendrycks and Dietterich, 2019) at their fifth and strongest severity.

Strengths are those that the authors take for ImageNet; lengths are in proportion to the side of the image, so that a
small image is not wiped out.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torchvision.transforms.v2.functional import gaussian_blur

__all__ = ["CORRUPTIONS", "corrupt"]

# The side in pixels that the authors' lengths are of.
_SIDE = 224


def corrupt(images: Tensor, generator: Generator) -> Tensor:
    """Corrupt images, each by one of :data:`CORRUPTIONS` in turn.

    Args:
        images: uint8 ``(N, C, S, S)``.
        generator: The source of the noise, on the CPU.

    Returns:
        uint8 ``(N, C, S, S)``.

    Examples:
        >>> images = torch.full((5, 1, 16, 16), 200, dtype=torch.uint8)
        >>> corrupted = corrupt(images, torch.Generator().manual_seed(0))
        >>> corrupted.shape, corrupted.dtype
        (torch.Size([5, 1, 16, 16]), torch.uint8)
    """
    pixels, corrupted = images.float() / 255, torch.empty_like(images)
    for turn, function in enumerate(CORRUPTIONS.values()):
        rows = slice(turn, None, len(CORRUPTIONS))
        if len(pixels[rows]):
            corrupted[rows] = (255 * function(pixels[rows], generator)).round().clamp(0, 255).to(torch.uint8)
    return corrupted


def _gaussian_noise(pixels: Tensor, generator: Generator) -> Tensor:
    return pixels + 0.38 * torch.randn(pixels.shape, generator=generator)


def _impulse_noise(pixels: Tensor, generator: Generator) -> Tensor:
    """Salt and pepper on 27 % of the values."""
    hit = torch.rand(pixels.shape, generator=generator) < 0.27
    return torch.where(hit, torch.randint(0, 2, pixels.shape, generator=generator).float(), pixels)


def _blur(pixels: Tensor, generator: Generator) -> Tensor:
    side = pixels.shape[-1]
    sigma = 6 * side / _SIDE
    radius = min(max(1, round(3 * sigma)), side - 1)  # The kernel may not reach beyond the mirrored image.
    blurred: Tensor = gaussian_blur(pixels, [2 * radius + 1] * 2, [sigma, sigma])
    return blurred


def _contrast(pixels: Tensor, generator: Generator) -> Tensor:
    mean = pixels.mean(dim=(2, 3), keepdim=True)
    return mean + 0.05 * (pixels - mean)


def _pixelate(pixels: Tensor, generator: Generator) -> Tensor:
    size = pixels.shape[-2:]
    coarse = F.interpolate(pixels, (max(1, size[0] // 4), max(1, size[1] // 4)), mode="area")
    return F.interpolate(coarse, size, mode="nearest")


#: Functions from pixels ``(N, C, S, S)`` in [0, 1] and a generator to corrupted pixels, by name.
CORRUPTIONS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "gaussian noise": _gaussian_noise,
    "impulse noise": _impulse_noise,
    "blur": _blur,
    "contrast": _contrast,
    "pixelate": _pixelate,
}
