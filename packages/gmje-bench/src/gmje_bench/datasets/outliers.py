"""Images of no class of the data, without a network: handwritten digits that scikit-learn brings along."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

__all__ = ["outlier_images"]


def outlier_images(channels: int, size: int, count: int, seed: int) -> Tensor:
    """Digits at the size of the data, grey.

    Args:
        channels: 1 or 3.
        size: Side in pixels.
        count: Largest number of images; there are 1,797.
        seed: Seed of the choice.

    Returns:
        uint8 ``(count, channels, size, size)``.

    Examples:
        >>> images = outlier_images(3, 32, 5, seed=0)
        >>> images.shape, images.dtype, bool((images[:, 0] == images[:, 2]).all())
        (torch.Size([5, 3, 32, 32]), torch.uint8, True)
    """
    digits = torch.from_numpy(load_digits().images).float().unsqueeze(1) / 16  # Values are in [0, 16].
    chosen = digits[torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))[:count]]
    resized = F.interpolate(chosen, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return (255 * resized).round().to(torch.uint8).expand(-1, channels, -1, -1).contiguous()
