"""Which views are drawn: the distribution of their parameters, and what is recommended for a kind of images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gmje_bench.errors import OptionError
from gmje_core.models.preprocessing import Preprocessing

__all__ = ["ViewConfig", "configured", "preset"]

# Images with a longer side get the views of ImageNet, others those of CIFAR-10.
LARGE = 64


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """The distribution that views are drawn from.

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
        jitter_probability: Probability of the four colour operations together.
        brightness: Brightness factors are uniform in ``[max(0, 1 - b), 1 + b]``.
        contrast: Contrast factors are drawn in the same way.
        saturation: Saturation factors are drawn in the same way.
        hue: Hue shifts are uniform in ``[-h, h]`` turns, at most 0.5.
        grayscale: Probability of dropping colour.
        blur_probability: Probability of a Gaussian blur; 0 leaves it out.
        blur_kernel: Width of the blur's kernel in pixels, odd, less than twice ``size``.
        blur_sigma: Standard deviation of the blur in pixels, uniform in this range.
        masked: Top, bottom, left and right of a box, in shares of the side. The context is then a view without the box,
            and the target is the box of the same view; what a view does not show is zero. ``None`` for two views of the
            whole image, drawn apart.

    Raises:
        OptionError: a value is out of range.
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
    masked: tuple[float, float, float, float] | None = None

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
        if self.masked is not None:
            box = self.masked
            rising = len(box) == 4 and 0 <= box[0] < box[1] <= 1 and 0 <= box[2] < box[3] <= 1
            require(rising, "masked", "top, bottom, left and right of a box, each pair rising in [0, 1]")
            height, width = (stop - start for start, stop in self.box)
            divides = 0 < height * width < self.size**2
            require(divides, "masked", f"a box that divides the {self.size} x {self.size} pixels in two parts")

    @property
    def box(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """The rows and the columns ``(start, stop)`` of the masked box, in whole pixels of a view.

        Examples:
            >>> configured(28, 1, {"masked": [0.5, 1.0, 0.0, 1.0]}).box
            ((14, 28), (0, 28))
        """
        assert self.masked is not None
        top, bottom, left, right = (round(share * self.size) for share in self.masked)
        return (top, bottom), (left, right)

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
        OptionError: there is another number of channels.

    Examples:
        >>> preset(28, 1).blur_probability, preset(32, 3).blur_probability, preset(224, 3).blur_kernel
        (0.0, 0.0, 23)
    """
    if channels not in (1, 3):
        raise OptionError(f"images must have 1 or 3 channels, got {channels}")
    large = image_size > LARGE
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


def configured(image_size: int, channels: int, changes: Mapping[str, Any]) -> ViewConfig:
    """The recommended views with changes.

    Args:
        image_size: Side of a view in pixels.
        channels: 1 or 3.
        changes: Values by the names of :class:`ViewConfig`; lists stand for pairs, and ``None`` changes nothing.

    Raises:
        OptionError: there is another number of channels, or a value is out of range.

    Examples:
        >>> configured(32, 3, {"crop_scale": [0.3, 1.0], "hue": None}).crop_scale
        (0.3, 1.0)
    """
    wanted: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in changes.items()}
    return replace(preset(image_size, channels), **{key: value for key, value in wanted.items() if value is not None})
