"""The random parameters of a view, drawn on the CPU for the global batch."""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmje_bench.views.config import ViewConfig

__all__ = ["Draws", "draw_parameters", "generator_for"]

# So many boxes are tried before the largest one in the middle is taken, as in torchvision.
ATTEMPTS = 10


@dataclass(frozen=True, eq=False)
class Draws:
    """Random parameters of a view: float32 ``(n,)`` of each kind, and the order of the colour operations."""

    numbers: dict[str, Tensor]
    order: tuple[str, ...]
    grey: Tensor
    blurred: Tensor

    def share(self, start: int, stop: int) -> "Draws":
        """The parameters of the images ``start .. stop - 1``."""
        numbers = {name: values[start:stop] for name, values in self.numbers.items()}
        return Draws(numbers, self.order, self.grey[start:stop], self.blurred[start:stop])

    def to(self, device: torch.device) -> "Draws":
        """Move the numbers in one transfer; the masks stay on the CPU, so that choosing images by them never waits."""
        together = torch.stack(list(self.numbers.values())).to(device, non_blocking=True)
        return Draws(dict(zip(self.numbers, together, strict=True)), self.order, self.grey, self.blurred)


def generator_for(*key: int) -> torch.Generator:
    """A generator for a tuple of numbers, which are hashed so that neighbouring ones share no stream."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def draw_parameters(config: ViewConfig, n: int, height: int, width: int, generator: torch.Generator) -> Draws:
    """Draw all parameters of ``n`` images, used or not, so that changing one option does not move the others."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    numbers = draw_boxes(config, n, height, width, generator)
    numbers["flip"] = (uniform(0, 1) < config.flip).float()
    jittered = uniform(0, 1) < config.jitter_probability
    for name in ("brightness", "contrast", "saturation"):
        strength = getattr(config, name)
        numbers[name] = torch.where(jittered, uniform(max(0.0, 1 - strength), 1 + strength), 1.0)
    numbers["hue"] = torch.where(jittered, uniform(-config.hue, config.hue), 0.0)
    grey = uniform(0, 1) < config.grayscale
    blurred = uniform(0, 1) < config.blur_probability
    numbers["sigma"] = uniform(*config.blur_sigma)
    order = torch.randperm(4, generator=generator).tolist()
    return Draws(numbers, tuple(("brightness", "contrast", "saturation", "hue")[i] for i in order), grey, blurred)


def draw_boxes(config: ViewConfig, n: int, height: int, width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw boxes in whole pixels as torchvision does: the first of ten that fits, else the largest in the middle."""
    sides = torch.tensor([[height], [width]], dtype=torch.float64).expand(2, n)
    boxes = boxes_from(config, box_chances(n, generator), sides[0], sides[1]).float()
    return dict(zip(("top", "left", "height", "width"), boxes.unbind(dim=-1), strict=True))


def box_chances(n: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers, float64 ``(4, n, 10)``, that boxes in ``n`` images are made of, whatever the images' sizes."""
    return torch.rand(4, n, ATTEMPTS, generator=generator, dtype=torch.float64)


def boxes_from(config: ViewConfig, chances: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
    """Boxes in images of given sizes.

    Args:
        config: The distribution of area and ratio.
        chances: What :func:`box_chances` drew, ``(4, n, 10)``.
        heights: float64 ``(n,)``, in pixels.
        widths: float64 ``(n,)``, in pixels.

    Returns:
        float64 ``(n, 4)``, whole numbers: top, left, height and width in pixels.
    """
    low, high = config.crop_ratio
    height, width = heights.unsqueeze(1), widths.unsqueeze(1)
    area = height * width * (config.crop_scale[0] + (config.crop_scale[1] - config.crop_scale[0]) * chances[0])
    ratio = torch.exp(math.log(low) + (math.log(high) - math.log(low)) * chances[1])
    w, h = torch.round((area * ratio).sqrt()), torch.round((area / ratio).sqrt())
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    top, left = torch.floor(chances[2] * (height - h + 1)), torch.floor(chances[3] * (width - w + 1))
    # argmax over what fits is the first attempt that does.
    first = fits.int().argmax(dim=1, keepdim=True)
    drawn = torch.stack([values.gather(1, first).squeeze(1) for values in (top, left, h, w)], dim=1)
    middle_h = torch.minimum(heights, (widths / low).round().clamp_min(1))
    middle_w = torch.minimum(widths, (heights * high).round().clamp_min(1))
    corner = [((heights - middle_h) / 2).floor(), ((widths - middle_w) / 2).floor()]
    return torch.where(fits.any(dim=1, keepdim=True), drawn, torch.stack([*corner, middle_h, middle_w], dim=1))
