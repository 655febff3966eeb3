"""Operations on batches of images in which every image has parameters of its own; the numbers are torchvision's."""

import torch
from torch import Tensor

__all__ = [
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "crop_resize",
    "gaussian_blur",
    "grayscale",
]

# The weights of red, green and blue in the luminance of Rec. 601, with the digits of torchvision.
LUMA = (0.2989, 0.587, 0.114)


def crop_resize(
    x: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, size: int, flip: Tensor | None = None
) -> Tensor:
    """Cut a box of its own from each image and resize it to a square, as ``resized_crop(..., antialias=True)`` does.

    Bilinear resampling is separable: rows and columns are weighted by a matrix for each image, whose triangles widen
    with the box where it is scaled down, so that one pair of batched products serves boxes of all sizes.

    Args:
        x: float ``(b, C, H, W)``.
        top: Upper edge of the boxes ``(b,)`` in pixels; boxes lie inside their image.
        left: Left edge ``(b,)``.
        height: Height of the boxes ``(b,)``.
        width: Width of the boxes ``(b,)``.
        size: Side of the result in pixels.
        flip: bool ``(b,)``, whether a result is mirrored left to right.

    Returns:
        ``(b, C, size, size)``.
    """
    rows = resize_weights(top, height, x.shape[-2], size)
    columns = resize_weights(left, width, x.shape[-1], size)
    if flip is not None:
        columns = torch.where(flip.view(-1, 1, 1), columns.flip(1), columns)
    return separable(x, rows, columns)


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Scale pixels ``(b, C, H, W)`` in [0, 1] by ``factor`` (b,)."""
    return (x * column(factor)).clamp_(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend pixels ``(b, C, H, W)`` in [0, 1] with their image's mean luminance; ``factor`` (b,) weighs the image."""
    return blend(x, luminance(x).mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blend pixels ``(b, 3, H, W)`` in [0, 1] with their luminance; ``factor`` (b,) weighs the image."""
    return blend(x, luminance(x), factor)


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
    return luminance(x).expand_as(x)


def gaussian_blur(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Blur each image by its own standard deviation, reflected at the border.

    Args:
        x: float ``(b, C, H, W)``.
        sigma: ``(b,)`` in pixels.
        kernel: Width of the kernel in pixels, odd, less than twice each side of the images.

    Returns:
        ``(b, C, H, W)``.
    """
    return separable(x, *(blur_weights(sigma, side, kernel // 2) for side in x.shape[-2:]))


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ x @ columns^T``: ``(b, S, H)``, ``(b, C, H, W)`` and ``(b, T, W)`` give ``(b, C, S, T)``."""
    return along_last(along_last(x, columns).mT, rows).mT


def along_last(x: Tensor, weights: Tensor) -> Tensor:
    b, channels, height, width = x.shape
    return torch.bmm(x.reshape(b, channels * height, width), weights.mT).view(b, channels, height, -1)


def resize_weights(start: Tensor, extent: Tensor, full: int, size: int) -> Tensor:
    """Weights ``(b, size, full)`` that resample the pixels ``start .. start + extent`` of ``full`` to ``size``."""
    start, extent = start.view(-1, 1, 1), extent.view(-1, 1, 1)
    scale = extent / size
    centre = scale * (torch.arange(size, device=start.device).view(1, -1, 1) + 0.5)
    pixel = torch.arange(full, device=start.device).view(1, 1, -1) + 0.5 - start
    weights = (1 - (pixel - centre).abs_() / scale.clamp_min(1)).clamp_min_(0)
    weights *= (pixel > 0) & (pixel < extent)
    return weights / weights.sum(dim=-1, keepdim=True)


def blur_weights(sigma: Tensor, side: int, radius: int) -> Tensor:
    """Weights ``(b, side, side)`` of a truncated Gaussian; what falls outside is folded back at the border."""
    here = torch.arange(side, device=sigma.device, dtype=sigma.dtype)
    p, q = here.view(1, -1, 1), here.view(1, 1, -1)

    def kernel(distance: Tensor) -> Tensor:
        density = torch.exp(-0.5 * (distance / sigma.view(-1, 1, 1)) ** 2)
        return density * (distance.abs() <= radius)

    weights = kernel(q - p) + kernel(-q - p) * (q > 0) + kernel(2 * (side - 1) - q - p) * (q < side - 1)
    return weights / weights.sum(dim=-1, keepdim=True)


def luminance(x: Tensor) -> Tensor:
    """Luminance ``(b, 1, H, W)`` of pixels ``(b, C, H, W)``."""
    if x.shape[1] == 1:
        return x
    r, g, b = (x[:, i : i + 1] for i in range(3))
    return (r * LUMA[0]).add_(g, alpha=LUMA[1]).add_(b, alpha=LUMA[2])


def blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    weight = column(factor)
    return torch.addcmul((1 - weight) * other, weight, x).clamp_(0, 1)


def column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
