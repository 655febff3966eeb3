"""Two views of every image, made in batches on the device, with parameters drawn for the global batch.

The random parameters of a batch are a pure function of ``(seed, epoch, step, view)``, drawn on the CPU for all
processes together and then sliced: results depend neither on the number of workers nor on that of processes.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmje_bench.errors import OptionError
from gmje_core.models.preprocessing import Preprocessing

__all__ = [
    "TwoViews",
    "ViewConfig",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "crop_resize",
    "gaussian_blur",
    "grayscale",
    "preset",
]

# Rec. 601 luminance, with the digits of torchvision.
_LUMA = (0.2989, 0.587, 0.114)
_ATTEMPTS = 10
_LARGE = 64
_CPU_CHUNK = 2**17


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How views are drawn.

    The operations and the distributions of their parameters are those of torchvision's v2 transforms
    ``RandomResizedCrop`` (antialiased), ``RandomHorizontalFlip``, ``RandomApply([ColorJitter])``, ``RandomGrayscale``
    and ``RandomApply([GaussianBlur])``, in that order, on float pixels in [0, 1]. One thing differs: the order of the
    colour operations is drawn once for a batch and view, not for each image. On grey images saturation, hue and
    grayscale change nothing and are left out.

    Args:
        size: Side of a view in pixels.
        mean: Per-channel mean that is subtracted, of pixels in [0, 1]; its length is the number of channels, 1 or 3.
        std: Per-channel standard deviation that is divided by.
        crop_scale: Area of the crop as a share of the image's, uniform in this range.
        crop_ratio: Width over height of the crop, log-uniform in this range.
        flip: Probability of a horizontal flip.
        jitter_probability: Of the four colour operations together.
        brightness: Factors are uniform in ``[max(0, 1 - b), 1 + b]``.
        contrast: Likewise.
        saturation: Likewise.
        hue: Shifts are uniform in ``[-h, h]`` turns, at most 0.5.
        grayscale: Probability of dropping colour.
        blur_probability: Of a Gaussian blur; 0 leaves it out.
        blur_kernel: Width of its kernel in pixels, odd, less than twice ``size``.
        blur_sigma: Its standard deviation in pixels, uniform in this range.

    Raises:
        OptionError: a value out of range.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter_probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grayscale: float = 0.2
    blur_probability: float = 0.0
    blur_kernel: int = 3
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        def require(good: bool, field: str, right: str) -> None:
            if not good:
                raise OptionError(f"{field} of the views must be {right}, got {getattr(self, field)}")

        require(self.size >= 1, "size", "at least 1 pixel")
        require(len(self.mean) in (1, 3), "mean", "of 1 or 3 channels")
        require(len(self.std) == len(self.mean) and min(self.std) > 0, "std", f"{len(self.mean)} positive numbers")
        require(0 < self.crop_scale[0] <= self.crop_scale[1] <= 1, "crop_scale", "a rising pair in (0, 1]")
        require(0 < self.crop_ratio[0] <= self.crop_ratio[1], "crop_ratio", "a rising pair of positive numbers")
        for field in ("flip", "jitter_probability", "grayscale", "blur_probability"):
            require(0 <= getattr(self, field) <= 1, field, "a probability in [0, 1]")
        for field in ("brightness", "contrast", "saturation"):
            require(0 <= getattr(self, field) < math.inf, field, "finite and not negative")
        require(0 <= self.hue <= 0.5, "hue", "in [0, 0.5]")
        kernel = self.blur_kernel
        require(kernel % 2 == 1 and 0 < kernel < 2 * self.size, "blur_kernel", f"odd and below {2 * self.size}")
        require(0 < self.blur_sigma[0] <= self.blur_sigma[1], "blur_sigma", "a rising pair of positive numbers")

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are presented when they are evaluated: the centre, normalised as the views are."""
        return Preprocessing(size=self.size, image_mean=self.mean, image_std=self.std)


def preset(image_size: int, channels: int) -> ViewConfig:
    """The recommended views for images of that kind.

    Grey images get crop, flip, brightness and contrast. Colour images up to 64 pixels get SimCLR's views of CIFAR-10
    (colour strength 0.5, no blur), larger ones those of ImageNet (strength 1, blur with a kernel of a tenth of the
    side). Means and deviations are those of Fashion-MNIST, CIFAR-10 and ImageNet.

    Args:
        image_size: Side of a view in pixels.
        channels: 1 or 3.

    Raises:
        OptionError: another number of channels.

    Examples:
        >>> preset(28, 1).blur_probability, preset(32, 3).blur_probability, preset(224, 3).blur_kernel
        (0.0, 0.0, 23)
    """
    if channels not in (1, 3):
        raise OptionError(f"images must have 1 or 3 channels, got {channels}")
    large = image_size > _LARGE
    blur = {"blur_probability": 0.5, "blur_kernel": 2 * (image_size // 20) + 1} if large else {}
    if channels == 1:
        return ViewConfig(size=image_size, mean=(0.286,), std=(0.353,), saturation=0.0, hue=0.0, grayscale=0.0, **blur)  # type: ignore[arg-type]
    strength = 1.0 if large else 0.5
    return ViewConfig(
        size=image_size,
        mean=(0.485, 0.456, 0.406) if large else (0.4914, 0.4822, 0.4465),
        std=(0.229, 0.224, 0.225) if large else (0.2470, 0.2435, 0.2616),
        crop_scale=(0.08, 1.0),
        brightness=0.8 * strength,
        contrast=0.8 * strength,
        saturation=0.8 * strength,
        hue=0.2 * strength,
        **blur,  # type: ignore[arg-type]
    )


class TwoViews:
    """Draws the context and the target view of a batch.

    Args:
        config: How views are drawn.
        seed: Of all random parameters.

    Examples:
        >>> views = TwoViews(preset(28, 1), seed=0)
        >>> images = torch.randint(256, (4, 1, 28, 28), dtype=torch.uint8)
        >>> context, target = views(images, epoch=0, step=0)
        >>> context.shape, context.dtype, torch.equal(context, target)
        (torch.Size([4, 1, 28, 28]), torch.float32, False)
        >>> half, _ = views(images[2:], epoch=0, step=0, rank=1, world_size=2)
        >>> torch.allclose(half, context[2:])
        True
    """

    def __init__(self, config: ViewConfig, seed: int) -> None:
        self.config, self.seed = config, seed

    @torch.no_grad()
    def __call__(
        self, images: Tensor, *, epoch: int, step: int, rank: int = 0, world_size: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Two views of this process's share of the global batch.

        Args:
            images: uint8 ``(b, C, H, W)`` on any device.
            epoch: Of training.
            step: Within the epoch.
            rank: Of this process.
            world_size: Number of processes, each with ``b`` images; rank ``r`` holds images ``r b .. (r + 1) b - 1`` of
                the global batch.

        Returns:
            ``(context, target)``, float32 ``(b, C, size, size)`` each, normalised.

        Raises:
            TypeError: images that are not uint8.
            ValueError: images of another shape or number of channels, or a rank outside the world.
        """
        _check(images, self.config)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0 .. {world_size - 1}, got {rank}")
        b, _, height, width = images.shape
        generators = (_generator(self.seed, epoch, step, view) for view in range(2))
        draws = [_draw(self.config, b * world_size, height, width, generator) for generator in generators]
        context, target = (_augmented(images, d.share(rank * b, (rank + 1) * b), self.config) for d in draws)
        return context, target


def crop_resize(
    x: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int, flip: Tensor | None = None
) -> Tensor:
    """Each image's own box, resized to a square; the numbers of ``resized_crop(..., antialias=True)``.

    Bilinear resampling is separable: rows and columns are weighted by a matrix for each image, whose triangles widen
    with the box where it is scaled down, so that one pair of batched products serves boxes of all sizes.

    Args:
        x: float ``(b, C, H, W)``.
        top: Upper edge of the boxes ``(b,)`` in pixels; boxes lie inside their image.
        left: Left edge ``(b,)``.
        height: Of the boxes ``(b,)``.
        width: Of the boxes ``(b,)``.
        size: Side of the result.
        flip: bool ``(b,)``, which results to mirror left to right.

    Returns:
        ``(b, C, size, size)``.
    """
    rows = _resize_weights(top, height, x.shape[-2], size)
    columns = _resize_weights(left, width, x.shape[-1], size)
    if flip is not None:
        columns = torch.where(flip.view(-1, 1, 1), columns.flip(1), columns)
    return _separable(x, rows, columns)


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Scale pixels ``(b, C, H, W)`` in [0, 1] by ``factor`` (b,)."""
    return (x * _column(factor)).clamp_(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend pixels ``(b, C, H, W)`` in [0, 1] with their image's mean luminance; ``factor`` (b,) weighs the image."""
    return _blend(x, _luminance(x).mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blend pixels ``(b, 3, H, W)`` in [0, 1] with their luminance; ``factor`` (b,) weighs the image."""
    return _blend(x, _luminance(x), factor)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue of pixels ``(b, 3, H, W)`` in [0, 1] by ``shift`` (b,) turns."""
    r, g, b = x.unbind(dim=1)
    high, low = torch.maximum(torch.maximum(r, g), b), torch.minimum(torch.minimum(r, g), b)
    chroma = high - low
    # The hue in sixths of a turn; of grey pixels it is arbitrary, as their chroma is zero.
    per_chroma = chroma.clamp_min(1e-12).reciprocal_()
    green = torch.add((b - r).mul_(per_chroma), 2)
    blue = torch.add((r - g).mul_(per_chroma), 4)
    sixths = torch.where(high == r, (g - b).mul_(per_chroma), torch.where(high == g, green, blue))
    sixths += 6 * shift.view(-1, 1, 1)
    sixths -= 6 * torch.floor(sixths / 6)
    # Back in closed form: red is low + chroma clamp(|h - 3| - 1), green with 2 - |h - 2|, blue with 2 - |h - 4|.
    centre, sign, offset = x.new_tensor([[3.0, 2.0, 4.0], [1.0, -1.0, -1.0], [-1.0, 2.0, 2.0]]).view(3, 1, 3, 1, 1)
    share = (sixths.unsqueeze(1) - centre).abs_().mul_(sign).add_(offset).clamp_(0, 1)
    return torch.addcmul(low.unsqueeze(1), chroma.unsqueeze(1), share)


def grayscale(x: Tensor) -> Tensor:
    """Pixels ``(b, 3, H, W)`` with their luminance in every channel."""
    return _luminance(x).expand_as(x)


def gaussian_blur(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Blur each image by its own standard deviation, reflected at the border.

    Args:
        x: float ``(b, C, H, W)``.
        sigma: ``(b,)`` in pixels.
        kernel: Width of the kernel in pixels, odd, less than twice each side of the images.

    Returns:
        ``(b, C, H, W)``.
    """
    return _separable(x, *(_blur_weights(sigma, side, kernel // 2) for side in x.shape[-2:]))


@dataclass(frozen=True, eq=False)
class _Draws:
    """Random parameters of a view: float32 ``(n,)`` each for its images, and the order of the colour operations."""

    numbers: dict[str, Tensor]
    order: tuple[str, ...]
    grey: Tensor
    blurred: Tensor

    def share(self, start: int, stop: int) -> "_Draws":
        numbers = {name: values[start:stop] for name, values in self.numbers.items()}
        return _Draws(numbers, self.order, self.grey[start:stop], self.blurred[start:stop])

    def to(self, device: torch.device) -> "_Draws":
        """The numbers on the device, in one transfer; the masks stay, so that choosing by them never waits."""
        together = torch.stack(list(self.numbers.values())).to(device, non_blocking=True)
        return _Draws(dict(zip(self.numbers, together, strict=True)), self.order, self.grey, self.blurred)


def _generator(*key: int) -> torch.Generator:
    """A generator for a tuple of numbers; hashed, so that neighbouring ones share no stream."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _draw(config: ViewConfig, n: int, height: int, width: int, generator: torch.Generator) -> _Draws:
    """Parameters of ``n`` images; all are drawn whether used or not, so that one option does not move the others."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, generator=generator) * (high - low) + low

    numbers = _draw_boxes(config, n, height, width, generator)
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
    return _Draws(numbers, tuple(("brightness", "contrast", "saturation", "hue")[i] for i in order), grey, blurred)


def _draw_boxes(config: ViewConfig, n: int, height: int, width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Boxes in whole pixels as torchvision draws them: the first of ten that fits, else the largest in the middle."""
    low, high = config.crop_ratio
    chance = torch.rand(4, n, _ATTEMPTS, generator=generator, dtype=torch.float64)
    area = height * width * (config.crop_scale[0] + (config.crop_scale[1] - config.crop_scale[0]) * chance[0])
    ratio = torch.exp(math.log(low) + (math.log(high) - math.log(low)) * chance[1])
    w, h = torch.round((area * ratio).sqrt()), torch.round((area / ratio).sqrt())
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    top, left = torch.floor(chance[2] * (height - h + 1)), torch.floor(chance[3] * (width - w + 1))
    # argmax over what fits is the first attempt that does.
    first = fits.int().argmax(dim=1, keepdim=True)
    middle_w = min(width, max(1, round(height * high)))
    middle_h = min(height, max(1, round(width / low)))
    fallback = ((height - middle_h) // 2, (width - middle_w) // 2, middle_h, middle_w)
    boxes = [
        torch.where(fits.any(dim=1), values.gather(1, first).squeeze(1), float(other)).float()
        for values, other in zip((top, left, h, w), fallback, strict=True)
    ]
    return dict(zip(("top", "left", "height", "width"), boxes, strict=True))


def _augmented(images: Tensor, draws: _Draws, config: ViewConfig) -> Tensor:
    """One view, float32 ``(b, C, size, size)``."""
    b, channels, height, width = images.shape
    views = torch.empty(b, channels, config.size, config.size, device=images.device)
    draws, normalize = draws.to(images.device), config.preprocessing.normalize
    # On the CPU, intermediate results that leave the cache cost more than the arithmetic.
    largest = channels * max(height * width, config.size**2)
    step = max(1, _CPU_CHUNK // largest) if images.device.type == "cpu" else max(1, b)
    with torch.autocast(images.device.type, enabled=False):
        for start in range(0, b, step):
            part = slice(start, start + step)
            x = _augment(images[part].float().div_(255), draws.share(start, start + step), config)
            views[part] = normalize(x)
    return views


def _augment(pixels: Tensor, draws: _Draws, config: ViewConfig) -> Tensor:
    p = draws.numbers
    x = crop_resize(pixels, p["top"], p["left"], p["height"], p["width"], config.size, p["flip"] > 0.5)
    colour = pixels.shape[1] == 3
    if config.jitter_probability > 0:
        for name in draws.order:
            if getattr(config, name) > 0 and (colour or name in ("brightness", "contrast")):
                x = _ADJUST[name](x, p[name])
    if colour and len(chosen := draws.grey.nonzero().flatten()):
        chosen = chosen.to(x.device)
        x[chosen] = grayscale(x[chosen])
    if len(chosen := draws.blurred.nonzero().flatten()):
        chosen = chosen.to(x.device)
        x[chosen] = gaussian_blur(x[chosen], p["sigma"][chosen], config.blur_kernel)
    return x


_ADJUST = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def _check(images: Tensor, config: ViewConfig) -> None:
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8 with values 0 .. 255, got {images.dtype}")
    channels = len(config.mean)
    if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape[1:]:
        raise ValueError(
            f"images must have shape (b, {channels}, H, W) for views of {channels} channels, got {tuple(images.shape)}"
        )


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ x @ columns^T``: ``(b, S, H)``, ``(b, C, H, W)`` and ``(b, T, W)`` give ``(b, C, S, T)``."""
    return _along_last(_along_last(x, columns).mT, rows).mT


def _along_last(x: Tensor, weights: Tensor) -> Tensor:
    b, channels, height, width = x.shape
    return torch.bmm(x.reshape(b, channels * height, width), weights.mT).view(b, channels, height, -1)


def _resize_weights(start: Tensor, extent: Tensor, full: int, size: int) -> Tensor:
    """Weights ``(b, size, full)`` that resample the pixels ``start .. start + extent`` of ``full`` to ``size``."""
    start, extent = start.view(-1, 1, 1), extent.view(-1, 1, 1)
    scale = extent / size
    centre = scale * (torch.arange(size, device=start.device).view(1, -1, 1) + 0.5)
    pixel = torch.arange(full, device=start.device).view(1, 1, -1) + 0.5 - start
    weights = (1 - (pixel - centre).abs_() / scale.clamp_min(1)).clamp_min_(0)
    weights *= (pixel > 0) & (pixel < extent)
    return weights / weights.sum(dim=-1, keepdim=True)


def _blur_weights(sigma: Tensor, side: int, radius: int) -> Tensor:
    """Weights ``(b, side, side)`` of a truncated Gaussian; what falls outside is folded back at the border."""
    here = torch.arange(side, device=sigma.device, dtype=sigma.dtype)
    p, q = here.view(1, -1, 1), here.view(1, 1, -1)

    def kernel(distance: Tensor) -> Tensor:
        density = torch.exp(-0.5 * (distance / sigma.view(-1, 1, 1)) ** 2)
        return density * (distance.abs() <= radius)

    weights = kernel(q - p) + kernel(-q - p) * (q > 0) + kernel(2 * (side - 1) - q - p) * (q < side - 1)
    return weights / weights.sum(dim=-1, keepdim=True)


def _luminance(x: Tensor) -> Tensor:
    """``(b, 1, H, W)``."""
    if x.shape[1] == 1:
        return x
    r, g, b = (x[:, i : i + 1] for i in range(3))
    return (r * _LUMA[0]).add_(g, alpha=_LUMA[1]).add_(b, alpha=_LUMA[2])


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    weight = _column(factor)
    return torch.addcmul((1 - weight) * other, weight, x).clamp_(0, 1)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
