"""Images that a density should find unusual, from near the data to far from it; none needs a network.

Every kind is the same for all methods and seeds of a run: it depends on the data alone.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Generator, Tensor

from gmje_bench.datasets.base import ImageData, ResidentImages, Split
from gmje_bench.datasets.corruptions import corrupt

__all__ = ["digit_images", "mixed_images", "noise_images", "outlier_splits"]


def outlier_splits(data: ImageData, count: int, seed: int = 0) -> dict[str, Split]:
    """Outliers by kind, the nearest first.

    - ``held_out``: test images of the classes that were held out of training; there only where some were.
    - ``corrupted``: test images through a common corruption, five of them in turn.
    - ``mixed``: means of two test images of different classes.
    - ``digits``: handwritten digits at the size of the data.
    - ``noise``: pixels drawn alone, half of the images uniformly, half from a Gaussian of the data's mean and spread.

    Args:
        data: The images, of which the test split is used.
        count: Largest number of images of a kind.
        seed: Seed of the choices and of the noise.

    Examples:
        >>> from gmje_bench.datasets import load_dataset
        >>> data = load_dataset("fashion_mnist_12k", limit=100, held_out_classes=["Bag"])
        >>> {kind: split.n for kind, split in outlier_splits(data, 10).items()}
        {'held_out': 10, 'corrupted': 10, 'mixed': 10, 'digits': 10, 'noise': 10}
    """
    generator = Generator().manual_seed(seed)
    order = torch.randperm(data.test.n, generator=generator)[:count]
    images = data.test.batch(order)
    kinds = {
        "corrupted": corrupt(images, generator),
        "mixed": mixed_images(images, data.test.labels[order], generator),
        "digits": digit_images(data.channels, data.image_size, count, seed),
        "noise": noise_images(images, generator),
    }
    splits = {kind: Split.whole(ResidentImages(made), torch.full((len(made),), -1)) for kind, made in kinds.items()}
    if data.held_out is None:
        return splits
    chosen = torch.randperm(data.held_out.n, generator=generator)[:count]
    return {"held_out": data.held_out.select(chosen.sort().values), **splits}


def digit_images(channels: int, size: int, count: int, seed: int) -> Tensor:
    """Handwritten digits that scikit-learn brings along, at the size of the data, grey.

    Args:
        channels: 1 or 3.
        size: Side in pixels.
        count: Largest number of images; there are 1,797.
        seed: Seed of the choice.

    Returns:
        uint8 ``(count, channels, size, size)``.

    Examples:
        >>> images = digit_images(3, 32, 5, seed=0)
        >>> images.shape, images.dtype, bool((images[:, 0] == images[:, 2]).all())
        (torch.Size([5, 3, 32, 32]), torch.uint8, True)
    """
    digits = torch.from_numpy(load_digits().images).float().unsqueeze(1) / 16  # Values are in [0, 16].
    chosen = digits[torch.randperm(len(digits), generator=Generator().manual_seed(seed))[:count]]
    resized = F.interpolate(chosen, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return (255 * resized).round().to(torch.uint8).expand(-1, channels, -1, -1).contiguous()


def mixed_images(images: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """The mean of each image and one of another class.

    Args:
        images: uint8 ``(N, C, S, S)``.
        labels: int64 ``(N,)``.
        generator: The source of the partners.

    Returns:
        uint8 ``(n, C, S, S)``; an image that all others share the class with has no partner and is left out.

    Examples:
        >>> images = torch.tensor([0, 100], dtype=torch.uint8).view(2, 1, 1, 1)
        >>> mixed_images(images, torch.tensor([0, 1]), torch.Generator()).flatten().tolist()
        [50, 50]
    """
    chance = torch.rand(len(images), len(images), generator=generator)
    chance[labels.unsqueeze(1) == labels] = -1.0
    best, partner = chance.max(dim=1)
    pairs = (best >= 0).nonzero().flatten()
    mean = (images[pairs].float() + images[partner[pairs]].float()) / 2
    return mean.round().to(torch.uint8)


def noise_images(images: Tensor, generator: Generator) -> Tensor:
    """Images without structure, as many and as large as those given; every other one is uniform, the rest Gaussian.

    Args:
        images: uint8 ``(N, C, S, S)``, whose mean and deviation the Gaussian pixels have before they are clipped.
        generator: The source of the noise.

    Returns:
        uint8 ``(N, C, S, S)``.

    Examples:
        >>> noise_images(torch.full((4, 1, 2, 2), 7, dtype=torch.uint8), torch.Generator())[1].flatten().tolist()
        [7, 7, 7, 7]
    """
    pixels = images.float()
    mean, deviation = pixels.mean(), pixels.std()
    del pixels  # A thousand images of 224 pixels take 602 MB.
    noise = torch.rand(images.shape, generator=generator).mul_(255)
    gaussian = torch.randn(images.shape, generator=generator)
    noise[1::2] = gaussian[1::2].mul_(deviation).add_(mean)
    return noise.round_().clamp_(0, 255).to(torch.uint8)
