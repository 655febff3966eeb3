"""Two views of a batch of small images beside torchvision's v2 transforms, image by image."""

import sys
from collections.abc import Iterator

import torch
from _measure import Call, Case, main
from torch import Tensor
from torchvision.transforms import v2

from gmje_bench.views import TwoViews, ViewConfig, preset

BATCH, SIDE = 512, 32
GOAL = 12.0


def cases() -> Iterator[Case]:
    """Both draw the same distribution; the moments of the pixels are compared, in deviations of a pixel."""
    yield Case(
        f"two views, {BATCH} images of {SIDE} x {SIDE}",
        "torchvision v2 per image",
        GOAL,
        build,
        bytes=2.0 * BATCH * 3 * SIDE * SIDE * (1 + 4),
        difference=difference,
        tolerance=0.1,
    )


def build() -> tuple[Call, Call]:
    """Both augment the same random images, which are smooth as photographs are."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(BATCH, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=SIDE, mode="bilinear")
    images = (255 * smooth).to(torch.uint8)
    config, step = preset(SIDE, 3), [0]
    views, transform = TwoViews(config, seed=0), peer(config)

    def ours() -> Tensor:
        step[0] += 1
        return torch.cat(views(images, epoch=0, step=step[0]))

    def theirs() -> Tensor:
        return torch.stack([transform(image) for _ in range(2) for image in images])

    return ours, theirs


def peer(config: ViewConfig) -> v2.Compose:
    """The transforms that a view is defined by, with the same distributions."""
    jitter = v2.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
    return v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomResizedCrop(config.size, scale=config.crop_scale, ratio=config.crop_ratio, antialias=True),
            v2.RandomHorizontalFlip(config.flip),
            v2.RandomApply([jitter], config.jitter_probability),
            v2.RandomGrayscale(config.grayscale),
            v2.Normalize(config.mean, config.std),
        ]
    )


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference of the channels' means and deviations."""
    moments = [(x.mean(dim=(0, 2, 3)), x.std(dim=(0, 2, 3))) for x in (ours, theirs)]
    return max(float((a - b).abs().max()) for a, b in zip(*moments, strict=True))


if __name__ == "__main__":
    sys.exit(main(__doc__, cases()))
