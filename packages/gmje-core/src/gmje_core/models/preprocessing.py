"""Preprocessing of stored images for a backbone: their centre, at the size of the training, normalised."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gmje_core.errors import ConfigError, ShapeError
from gmje_core.models.config import GMJEConfig
from gmje_core.strict_json import StrictForm

__all__ = ["Preprocessing", "resize_side"]

#: Version of the JSON form and of what :meth:`Preprocessing.__call__` does.
SCHEMA_VERSION = 1

LARGEST_SIZE = 65_536
# Means and deviations of pixels in [0, 1] are small; a larger number is a mistake.
LARGEST_NUMBER = 1e6


@dataclass(frozen=True, kw_only=True)
class Preprocessing(StrictForm):
    """How images are presented to a trained model.

    Args:
        size: Side of the images that the model takes, in pixels.
        image_mean: Mean of the training images, one number for each channel, of pixels in [0, 1]; it is subtracted.
        image_std: Standard deviation of the training images, one number for each channel; pixels are divided by it.
        schema_version: Version of the JSON form.

    Raises:
        ConfigError: a value of the wrong type or out of range.

    Examples:
        >>> preprocess = Preprocessing(size=28, image_mean=(0.25,), image_std=(0.5,))
        >>> preprocess(torch.zeros(2, 1, 32, 40, dtype=torch.uint8)).shape
        torch.Size([2, 1, 28, 28])
        >>> Preprocessing.from_json(preprocess.to_json()) == preprocess
        True
    """

    size: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    schema_version: int = SCHEMA_VERSION
    what: ClassVar[str] = "the preprocessing"

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 1 <= self.size <= LARGEST_SIZE:
            raise ConfigError(f"size must be an integer in [1, {LARGEST_SIZE}], got {self.size!r}")
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not all(
                type(v) in (int, float) and abs(v) <= LARGEST_NUMBER for v in values
            ):
                raise ConfigError(
                    f"{name} must be finite numbers, one a channel, got {values!r}; none above {LARGEST_NUMBER:g}"
                )
        if not self.image_mean or len(self.image_mean) != len(self.image_std):
            raise ConfigError(
                f"image_mean and image_std must have a number for each channel, got {len(self.image_mean)} and "
                f"{len(self.image_std)}"
            )
        if min(self.image_std) <= 0:
            raise ConfigError(f"image_std must be positive, got {self.image_std!r}")
        if type(self.schema_version) is not int or self.schema_version != SCHEMA_VERSION:
            raise ConfigError(
                f"schema_version {self.schema_version!r} is not the one this version reads ({SCHEMA_VERSION}); "
                "a newer gmje-core may be needed"
            )

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return len(self.image_mean)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """The centre of each image, normalised.

        Images whose short side is :attr:`size` are cropped only. Others are resized first (bilinear, antialiased), to
        a short side of :func:`resize_side`.

        Args:
            images: uint8 ``(B, C, H, W)`` on any device.

        Returns:
            float32 ``(B, C, size, size)``.

        Raises:
            ShapeError: images of another dtype, shape or number of channels.
        """
        right = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] == self.channels
        if not right or 0 in images.shape[2:]:
            raise ShapeError(
                f"images must be uint8 of shape (B, {self.channels}, H, W), but are {images.dtype} of shape "
                f"{tuple(images.shape)}"
            )
        height, width = images.shape[-2:]
        short = min(height, width)
        side = short if short == self.size else resize_side(self.size)
        shape = (side * height // short, side * width // short)
        top, left = (round((length - self.size) / 2) for length in shape)
        centre = (..., slice(top, top + self.size), slice(left, left + self.size))
        if side == short:
            pixels = images[centre].float() / 255
        else:
            pixels = F.interpolate(images.float() / 255, shape, mode="bilinear", antialias=True).clamp_(0, 1)[centre]
        return self.normalize(pixels)

    def check_fits(self, config: GMJEConfig) -> None:
        """Check that a model of a configuration takes the images that this preprocessing gives.

        Raises:
            ConfigError: the model takes another size or another number of channels.
        """
        if (self.size, self.channels) != (config.image_size, config.in_channels):
            raise ConfigError(
                f"the preprocessing gives images of {self.size} pixels and {self.channels} channels; the model takes "
                f"{config.image_size} pixels and {config.in_channels} channels"
            )

    def normalize(self, pixels: Tensor) -> Tensor:
        """Pixels ``(B, C, H, W)`` in [0, 1] with the mean subtracted and the deviation divided by."""
        mean, std = (pixels.new_tensor(values).view(1, -1, 1, 1) for values in (self.image_mean, self.image_std))
        return (pixels - mean) / std


def resize_side(size: int) -> int:
    """Short side that images are resized to before a square of ``size`` is cut out: the usual 256 for 224.

    Examples:
        >>> resize_side(224)
        256
    """
    return round(size * 8 / 7)
