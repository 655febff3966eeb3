"""The one face of every dataset: two splits of images that are read in batches of given indices."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from gmje_bench.errors import DatasetError

__all__ = ["ImageData", "ImageSource", "LazyImages", "ResidentImages", "Split", "fingerprint", "square", "subset"]

# Images of any size are kept a little larger than they are used, as is usual: 256 for 224.
STORAGE_FACTOR = 8 / 7


class ImageSource(Protocol):
    """Where a split's images come from."""

    def batches(self, index_batches: Sequence[Tensor], workers: int) -> Iterator[Tensor]:
        """Images uint8 ``(b, C, S, S)`` for each batch of indices, in order."""
        ...


@dataclass(frozen=True)
class ResidentImages:
    """Images that fit in memory, uint8 ``(N, C, S, S)``."""

    images: Tensor

    def batches(self, index_batches: Sequence[Tensor], workers: int = 0) -> Iterator[Tensor]:
        """Slices of the tensor; workers would only slow them down."""
        for index in index_batches:
            yield self.images[index]


@dataclass(frozen=True)
class LazyImages:
    """Images decoded when they are asked for, by worker processes.

    Args:
        read: Gives the image at a position, in any mode and size.
        side: Every image becomes a square of this many pixels, see :func:`square`.
    """

    read: Callable[[int], Image.Image]
    side: int

    def __getitem__(self, index: int) -> Tensor:
        return square(self.read(index), self.side)

    def batches(self, index_batches: Sequence[Tensor], workers: int = 0) -> Iterator[Tensor]:
        """Decoded batches; their content does not depend on the number of workers."""
        loader = torch.utils.data.DataLoader(
            self,  # type: ignore[arg-type]
            batch_sampler=[index.tolist() for index in index_batches],
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )
        yield from loader


@dataclass(frozen=True)
class Split:
    """Images with labels.

    Args:
        source: The images.
        labels: ``(N,)`` int64 class indices.
        positions: ``(N,)`` places in the source; a subset has fewer than the source.
    """

    source: ImageSource
    labels: Tensor
    positions: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, index_batches: Sequence[Tensor], workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """``(images uint8 (b, C, S, S), labels (b,))`` for each batch of indices into this split."""
        positions = [self.positions[index] for index in index_batches]
        for index, images in zip(index_batches, self.source.batches(positions, workers), strict=True):
            yield images, self.labels[index]


@dataclass(frozen=True)
class ImageData:
    """A dataset ready to use.

    Args:
        name: As given by the user.
        train: The only split that anything is fitted or chosen on.
        test: What is reported.
        classes: Names, in label order.
        channels: 1 or 3.
        image_size: Side in pixels that networks see.
        fingerprint: SHA-256 over what was read; see :func:`fingerprint`.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    channels: int
    image_size: int
    fingerprint: str


def square(image: Image.Image, side: int) -> Tensor:
    """RGB uint8 ``(3, side, side)``: the short side resized to ``side`` (antialiased), the centre cropped.

    Examples:
        >>> square(Image.new("L", (60, 30), 255), 16).shape
        torch.Size([3, 16, 16])
    """
    pixels = F.pil_to_tensor(image.convert("RGB"))
    resized = F.resize(pixels, [side], antialias=True)
    return F.center_crop(resized, [side, side])  # type: ignore[no-any-return]


def open_image(path: Path) -> Image.Image:
    """The decoded image file, or a :class:`DatasetError` that names it."""
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DatasetError(f"cannot read the image {path}: {error}") from error


def fingerprint(*parts: bytes | str | Tensor) -> str:
    """SHA-256 in hexadecimal over bytes, texts and tensors.

    Examples:
        >>> fingerprint("train", torch.arange(3))[:8]
        '...'
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = np.ascontiguousarray(part.numpy()).tobytes()
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def subset(data: ImageData, limit: int) -> ImageData:
    """At most ``limit`` training images and the same share of the test images, balanced over classes.

    Args:
        data: The whole dataset.
        limit: At least one image per class.

    Raises:
        DatasetError: fewer than two images per class.
    """
    if limit < 2 * len(data.classes):
        raise DatasetError(
            f"--limit {limit} leaves fewer than two images for each of the {len(data.classes)} classes of "
            f"{data.name}; use at least {2 * len(data.classes)}"
        )
    if limit >= len(data.train):
        return data
    share = limit / len(data.train)
    train = _balanced(data.train, limit)
    test = _balanced(data.test, max(len(data.classes), round(share * len(data.test))))
    return ImageData(
        data.name,
        train,
        test,
        data.classes,
        data.channels,
        data.image_size,
        fingerprint(data.fingerprint, train.positions, test.positions),
    )


def _balanced(split: Split, count: int) -> Split:
    """The first images of every class in turn: deterministic, and as even as the classes allow."""
    turn = torch.empty(len(split), dtype=torch.long)
    for label in split.labels.unique():
        members = (split.labels == label).nonzero().flatten()
        turn[members] = torch.arange(len(members))
    keep = torch.argsort(turn, stable=True)[:count].sort().values
    return Split(split.source, split.labels[keep], split.positions[keep])


def resident_split(images: Tensor, labels: Tensor) -> Split:
    """A split held in memory."""
    return Split(ResidentImages(images), labels.long(), torch.arange(len(labels)))


def check_classes(name: str, train: Tensor, test: Tensor, classes: Sequence[str]) -> None:
    """Raise a :class:`DatasetError` unless both splits hold images and every test class is trained on."""
    for split, labels in (("train", train), ("test", test)):
        if not len(labels):
            raise DatasetError(f"{name} has no images in its {split} split")
    unseen = sorted(set(test.tolist()) - set(train.tolist()))
    if unseen:
        names = ", ".join(classes[label] for label in unseen[:5])
        raise DatasetError(f"{name} tests on classes that it has no training images of: {names}")
