"""The context and the target view of a batch."""

import torch
from torch import Tensor

from gmje_bench.views.config import ViewConfig
from gmje_bench.views.crops import CropDraws
from gmje_bench.views.operations import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    crop_resize,
    gaussian_blur,
    grayscale,
)
from gmje_bench.views.parameters import Draws, draw_parameters, generator_for

__all__ = ["TwoViews"]

# Pixels that are processed at a time on a CPU: intermediate results then stay in the cache.
CPU_CHUNK = 2**17


class TwoViews:
    """Draws the context and the target view of a batch.

    Args:
        config: How views are drawn.
        seed: The seed of all random parameters.

    Examples:
        >>> from gmje_bench.views import preset
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
        """Draw two views of this process's share of the global batch.

        Args:
            images: uint8 ``(b, C, H, W)`` on any device; or ``(2, b, C, size, size)``, the boxes that :meth:`crops`
                gave, already cut out and resized.
            epoch: The epoch of training, from 0.
            step: The step within the epoch, from 0.
            rank: The rank of this process.
            world_size: Number of processes, each with ``b`` images; rank ``r`` holds images ``r b .. (r + 1) b - 1`` of
                the global batch.

        Returns:
            ``(context, target)``, float32 ``(b, C, size, size)`` each, normalised.

        Raises:
            TypeError: images that are not uint8.
            ValueError: images of another shape or number of channels, or a rank outside the world.
        """
        check_images(images, self.config)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0 .. {world_size - 1}, got {rank}")
        b, _, height, width = images.shape[-4:]
        cut = images.ndim == 5
        drawn = []
        for view in range(1 if self.config.masked else 2):
            generator = generator_for(self.seed, epoch, step, view)
            draws = draw_parameters(self.config, b * world_size, height, width, generator)
            seen = images[view] if cut else images
            drawn.append(augmented(seen, draws.share(rank * b, (rank + 1) * b), self.config, cut))
        return divided(drawn[0], self.config) if self.config.masked else (drawn[0], drawn[1])

    def crops(self, batch: int, *, epoch: int, step: int, rank: int = 0, world_size: int = 1) -> CropDraws:
        """Draw the boxes of both views, for images that are cut before they come here.

        Args:
            batch: Number of images of this process.
            epoch: The epoch of training, from 0.
            step: The step within the epoch, from 0.
            rank: The rank of this process.
            world_size: Number of processes, each with ``batch`` images.
        """
        where = {"epoch": epoch, "step": step, "rank": rank, "world_size": world_size}
        return CropDraws.of_step(self.config, self.seed, batch, **where)


def divided(view: Tensor, config: ViewConfig) -> tuple[Tensor, Tensor]:
    """A view ``(b, C, size, size)`` without the masked box, and the box alone; what is not shown is zero."""
    (top, bottom), (left, right) = config.box
    inside = torch.zeros(config.size, config.size, dtype=torch.bool, device=view.device)
    inside[top:bottom, left:right] = True
    return view.masked_fill(inside, 0), view.masked_fill(~inside, 0)


def augmented(images: Tensor, draws: Draws, config: ViewConfig, cut: bool) -> Tensor:
    """One view, float32 ``(b, C, size, size)``."""
    b, channels, height, width = images.shape
    views = torch.empty(b, channels, config.size, config.size, device=images.device)
    draws, normalize = draws.to(images.device), config.preprocessing.normalize
    # Intermediate results that leave the cache of a CPU cost more than the arithmetic.
    largest = channels * max(height * width, config.size**2)
    step = max(1, CPU_CHUNK // largest) if images.device.type == "cpu" else max(1, b)
    with torch.autocast(images.device.type, enabled=False):
        for start in range(0, b, step):
            part = slice(start, start + step)
            pixels = images[part].contiguous().float().div_(255)
            x = augment(pixels, draws.share(start, start + step), config, cut)
            views[part] = normalize(x)
    return views


def augment(pixels: Tensor, draws: Draws, config: ViewConfig, cut: bool) -> Tensor:
    p = draws.numbers
    flip = p["flip"] > 0.5
    if cut:
        x = torch.where(flip.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    else:
        x = crop_resize(pixels, p["top"], p["left"], p["height"], p["width"], config.size, flip)
    colour = pixels.shape[1] == 3
    if config.jitter_probability > 0:
        for name in draws.order:
            if getattr(config, name) > 0 and (colour or name in ("brightness", "contrast")):
                x = ADJUST[name](x, p[name])
    if colour and len(chosen := draws.grey.nonzero().flatten()):
        chosen = chosen.to(x.device)
        x[chosen] = grayscale(x[chosen])
    if len(chosen := draws.blurred.nonzero().flatten()):
        chosen = chosen.to(x.device)
        x[chosen] = gaussian_blur(x[chosen], p["sigma"][chosen], config.blur_kernel)
    return x


ADJUST = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def check_images(images: Tensor, config: ViewConfig) -> None:
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8 with values 0 .. 255, got {images.dtype}")
    channels, side = len(config.mean), config.size
    if images.ndim == 5:
        if images.shape[0] != 2 or images.shape[2:] != (channels, side, side):
            raise ValueError(
                f"views that were cut must have shape (2, b, {channels}, {side}, {side}), got {tuple(images.shape)}"
            )
        return
    if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape[1:]:
        raise ValueError(
            f"images must have shape (b, {channels}, H, W) for views of {channels} channels, got {tuple(images.shape)}"
        )
