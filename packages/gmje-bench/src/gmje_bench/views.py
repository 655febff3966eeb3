"""Two views of every image, made in batches on the device, with parameters drawn for the global batch.

The random parameters of a batch are a pure function of ``(seed, epoch, step, view)``, drawn on the CPU for all
processes together and then sliced: results depend neither on the number of workers nor on that of processes.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from gmje_bench.errors import OptionError

__all__ = ["TwoViews", "ViewConfig", "evaluation_view", "preset"]

_LUMA = (0.2989, 0.587, 0.114)


@dataclass(frozen=True)
class ViewConfig:
    """How views are drawn; the semantics are those of torchvision's v2 transforms.

    Args:
        size: Side of a view in pixels.
        mean: Per-channel mean that is subtracted, of pixels in [0, 1].
        std: Per-channel standard deviation that is divided by.
        crop_scale: Area of the crop, as a share of the image's.
        crop_ratio: Width over height of the crop, log-uniform.
        flip: Probability of a horizontal flip.
        jitter: Probability of colour jitter.
        brightness: Factors are uniform in ``[1 - b, 1 + b]``.
        contrast: Likewise.
        saturation: Likewise; colour images only.
        hue: Shifts are uniform in ``[-h, h]``; colour images only.
        grayscale: Probability of dropping colour; colour images only.
        blur: Probability of a Gaussian blur.
        blur_sigma: Its standard deviation in pixels is uniform in this range.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grayscale: float = 0.2
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)


def preset(image_size: int, channels: int) -> ViewConfig:
    """The usual augmentation for images of that kind: SimCLR's, with blur from 64 pixels on.

    Examples:
        >>> preset(28, 1).blur, preset(224, 3).blur
        (0.0, 0.5)
    """
    if channels == 1:
        return ViewConfig(image_size, mean=(0.286,), std=(0.353,))
    config = ViewConfig(image_size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return replace(config, blur=0.5) if image_size >= 64 else config


class TwoViews:
    """Draws the context and the target view of a batch.

    Args:
        config: How views are drawn.
        seed: Of all random parameters.

    Examples:
        >>> views = TwoViews(preset(28, 1), seed=0)
        >>> images = torch.randint(256, (4, 1, 28, 28), dtype=torch.uint8)
        >>> context, target = views(images, epoch=0, step=0)
        >>> context.shape, context.dtype, bool((context == target).all())
        (torch.Size([4, 1, 28, 28]), torch.float32, False)
    """

    def __init__(self, config: ViewConfig, seed: int) -> None:
        self.config, self.seed = config, seed

    def __call__(
        self, images: Tensor, *, epoch: int, step: int, rank: int = 0, world_size: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Two views, float32 ``(b, C, size, size)``, normalised.

        Args:
            images: uint8 ``(b, C, H, W)``, this process's share of the global batch, on any device.
            epoch: Of training.
            step: Within the epoch.
            rank: Of this process.
            world_size: Number of processes, each with a share of the same size.

        Raises:
            OptionError: images that are not uint8 ``(b, C, H, W)``.
        """
        _check(images)
        pixels = images.float() / 255
        parts = []
        for view in range(2):
            generator = torch.Generator().manual_seed(_mix(self.seed, epoch, step, view))
            draws = _draw(self.config, len(images) * world_size, *images.shape[-2:], generator)
            share = slice(rank * len(images), (rank + 1) * len(images))
            parts.append(_augment(pixels, {k: v[share].to(images.device) for k, v in draws.items()}, self.config))
        return parts[0], parts[1]


def evaluation_view(images: Tensor, config: ViewConfig) -> Tensor:
    """The centre of each image at the training size, normalised: float32 ``(b, C, size, size)``.

    Images stored larger than ``size`` lose a border, as is usual (the centre 224 of 256).

    Examples:
        >>> evaluation_view(torch.zeros(2, 3, 256, 256, dtype=torch.uint8), preset(224, 3)).shape
        torch.Size([2, 3, 224, 224])
    """
    _check(images)
    top, left = (images.shape[-2] - config.size) // 2, (images.shape[-1] - config.size) // 2
    if top < 0 or left < 0:
        pixels = F.interpolate(images.float() / 255, size=(config.size, config.size), mode="bilinear", antialias=True)
    else:
        pixels = images[..., top : top + config.size, left : left + config.size].float() / 255
    return _normalise(pixels, config)


def _check(images: Tensor) -> None:
    if images.ndim != 4 or images.dtype != torch.uint8:
        raise OptionError(f"images must be uint8 (b, C, H, W), but are {images.dtype} of shape {tuple(images.shape)}")


def _mix(*values: int) -> int:
    """One seed from several numbers, so that neighbouring ones share no stream."""
    seed = 0x9E3779B97F4A7C15
    for value in values:
        seed = ((seed ^ value) * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**63
        seed ^= seed >> 31
    return seed


def _draw(config: ViewConfig, n: int, height: int, width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random parameters of ``n`` images; every one is drawn whether used or not, so that streams stay aligned."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(n).uniform_(low, high, generator=generator)

    area = uniform(*config.crop_scale) * height * width
    ratio = torch.exp(uniform(math.log(config.crop_ratio[0]), math.log(config.crop_ratio[1])))
    crop_width, crop_height = (area * ratio).sqrt().clamp(max=width), (area / ratio).sqrt().clamp(max=height)
    jittered = uniform(0, 1) < config.jitter

    def factor(strength: float) -> Tensor:
        return torch.where(jittered, uniform(max(0.0, 1 - strength), 1 + strength), torch.ones(n))

    return {
        "width": crop_width,
        "height": crop_height,
        "left": uniform(0, 1) * (width - crop_width),
        "top": uniform(0, 1) * (height - crop_height),
        "flip": uniform(0, 1) < config.flip,
        "brightness": factor(config.brightness),
        "contrast": factor(config.contrast),
        "saturation": factor(config.saturation),
        "hue": torch.where(jittered, uniform(-config.hue, config.hue), torch.zeros(n)),
        "gray": uniform(0, 1) < config.grayscale,
        "blur": uniform(0, 1) < config.blur,
        "sigma": uniform(*config.blur_sigma),
    }


def _augment(pixels: Tensor, draws: dict[str, Tensor], config: ViewConfig) -> Tensor:
    """One view: crop and flip, colour, blur, normalise. The order of the colour operations is fixed."""
    # From the configuration alone: the same on every process, whatever boxes it drew.
    smallest = min(pixels.shape[-2:]) * math.sqrt(
        config.crop_scale[0] * min(config.crop_ratio[0], 1 / config.crop_ratio[1])
    )
    boxes = (draws["left"], draws["top"], draws["width"], draws["height"])
    x = crop(pixels, *boxes, config.size, draws["flip"], reduce=max(1, int(smallest // config.size)))
    x = adjust_brightness(x, draws["brightness"])
    x = adjust_contrast(x, draws["contrast"])
    if x.shape[1] == 3:
        x = adjust_saturation(x, draws["saturation"])
        if config.hue > 0:
            x = adjust_hue(x, draws["hue"])
        x = torch.where(_column(draws["gray"]), _gray(x).expand_as(x), x)
    if config.blur > 0:
        chosen = draws["blur"].nonzero().flatten()
        if len(chosen):
            x = x.index_copy(0, chosen, gaussian_blur(x[chosen], draws["sigma"][chosen], config.blur_sigma[1]))
    return _normalise(x, config)


def crop(
    x: Tensor,
    left: Tensor,
    top: Tensor,
    width: Tensor,
    height: Tensor,
    size: int,
    flip: Tensor | None = None,
    reduce: int = 1,
) -> Tensor:
    """Boxes ``(b,)`` in pixels resized to ``size`` by bilinear interpolation, each its own.

    Torchvision's antialiasing filter has the width of each box; here large images are averaged down beforehand by
    one whole factor ``reduce`` for the batch, so that one gather serves all boxes.
    """
    if reduce > 1:
        x = F.avg_pool2d(x, reduce, ceil_mode=True, count_include_pad=False)
        left, top, width, height = (value / reduce for value in (left, top, width, height))
    full_height, full_width = x.shape[-2:]
    theta = x.new_zeros(len(x), 2, 3)
    theta[:, 0, 0] = width / full_width
    theta[:, 0, 2] = (2 * left + width) / full_width - 1
    theta[:, 1, 1] = height / full_height
    theta[:, 1, 2] = (2 * top + height) / full_height - 1
    if flip is not None:
        theta[:, 0, 0] *= 1 - 2 * flip.to(theta.dtype)
    grid = F.affine_grid(theta, [len(x), x.shape[1], size, size], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Pixels in [0, 1] times ``factor`` (b,)."""
    return (x * _column(factor)).clamp(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean luminance of each image."""
    return _blend(x, _gray(x).mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the luminance of each pixel."""
    return _blend(x, _gray(x), factor)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue by ``shift`` (b,) turns."""
    high, low = x.max(dim=1).values, x.min(dim=1).values
    chroma = (high - low).clamp_min(1e-12)
    r, g, b = x.unbind(dim=1)
    sector = torch.where(
        high == r, (g - b) / chroma, torch.where(high == g, 2 + (b - r) / chroma, 4 + (r - g) / chroma)
    )
    hue = (sector / 6 + shift.view(-1, 1, 1)) % 1.0
    # The closed form of HSV to RGB: channel n is v - v s max(0, min(k, 4 - k, 1)), k = (n + 6 h) mod 6.
    offset = x.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    k = (offset + 6 * hue.unsqueeze(1)) % 6
    drop = torch.minimum(k, 4 - k).clamp(0, 1)
    return high.unsqueeze(1) - (high - low).unsqueeze(1) * drop


def gaussian_blur(x: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Separable blur with a standard deviation in pixels for each image, reflected at the border."""
    radius = max(1, min(math.ceil(3 * largest), min(x.shape[-2:]) - 1))
    position = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (position / sigma.view(-1, 1)) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(x.shape[1], dim=0)
    planes = x.flatten(0, 1).unsqueeze(0)
    planes = F.pad(planes, (radius,) * 4, mode="reflect")
    planes = F.conv2d(planes, kernel[:, None, None, :], groups=len(kernel))
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=len(kernel))
    return planes.view_as(x)


def _gray(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    return (x * x.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    weight = _column(factor)
    return (weight * x + (1 - weight) * other).clamp(0, 1)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _normalise(x: Tensor, config: ViewConfig) -> Tensor:
    mean, std = x.new_tensor(config.mean).view(1, -1, 1, 1), x.new_tensor(config.std).view(1, -1, 1, 1)
    return (x - mean) / std
