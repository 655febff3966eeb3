"""Encoded images of any size are decoded when they are asked for, in this process or by others.

Every image becomes an RGB square of one size, so that batches can be stacked.
"""

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2 import functional as F

from gmje_bench.datasets.base import ImageData, ResidentImages, Split
from gmje_bench.errors import DatasetError

__all__ = ["DEFAULT_SIZE", "LazyImages", "decode", "native_side", "resident", "square"]

#: Images without a common size are shown to networks as squares of this side, in pixels.
DEFAULT_SIZE = 224
_SMALL_SIDE = 96
_RESIDENT_BYTES = 2 * 2**30
_PREFETCH = 4

_log = logging.getLogger(__name__)


class Reader(Protocol):
    """Gives the bytes of images; picklable, so that other processes can take it along."""

    def read(self, position: int) -> tuple[bytes | Path, str]:
        """The encoded image, or the file that holds it, and what to call it in a message."""
        ...


@dataclass(frozen=True, eq=False)
class LazyImages:
    """Images decoded when they are asked for.

    Args:
        reader: What gives the encoded images.
        side: Every image becomes a square of this many pixels, see :func:`square`.
    """

    reader: Reader
    side: int

    def batch(self, positions: Tensor) -> Tensor:
        """uint8 ``(b, 3, side, side)``."""
        return torch.stack([decode(*self.reader.read(position), self.side) for position in positions.tolist()])

    def batches(self, position_batches: Sequence[Tensor], workers: int = 0) -> Iterator[Tensor]:
        """Batches in order; with workers, each decodes whole batches ahead of their use and stays for the next call."""
        if not workers:
            yield from (self.batch(positions) for positions in position_batches)
            return
        loader, positions = _readers(self, workers)
        positions.ahead = position_batches
        for batch in loader:
            if isinstance(batch, str):
                raise DatasetError(batch)
            yield batch


class _Ahead(Sampler[Tensor]):
    """The positions of the batches that are read next; they change from call to call, and the readers stay."""

    def __init__(self) -> None:
        self.ahead: Sequence[Tensor] = ()

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.ahead)

    def __len__(self) -> int:
        return len(self.ahead)


@lru_cache(maxsize=2)
def _readers(source: LazyImages, workers: int) -> tuple[DataLoader[Tensor | str], _Ahead]:
    """The readers of a source, and what tells them what to read; those of the last two sources stay alive."""
    positions = _Ahead()
    loader: DataLoader[Tensor | str] = DataLoader(
        _Batches(source),
        batch_size=None,
        sampler=positions,
        num_workers=workers,
        prefetch_factor=_PREFETCH,
        persistent_workers=True,
        generator=torch.Generator(),  # A generator of its own leaves the global random state alone.
    )
    return loader, positions


class _Batches(Dataset[Tensor | str]):
    """Batches by positions, or the text of an error: a raised one would come back with a worker's traceback."""

    def __init__(self, source: LazyImages) -> None:
        self.source = source

    def __getitem__(self, positions: Tensor) -> Tensor | str:
        try:
            return self.source.batch(positions)
        except DatasetError as error:
            return str(error)


def decode(source: bytes | Path, what: str, side: int) -> Tensor:
    """An encoded image as uint8 ``(3, side, side)``, see :func:`square`.

    A JPEG much larger than ``side`` is decoded at a half, quarter or eighth of its size, never below ``2 * side``.

    Args:
        source: The file, or its content.
        what: Words that name the image in a message.
        side: Side of the square in pixels.

    Raises:
        DatasetError: the image cannot be read or is damaged.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.draft("RGB", (2 * side, 2 * side))
            return square(image, side)
    # Pillow's decoders raise all of these on damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DatasetError(f"cannot read the image {what}: {error}") from error


def square(image: Image.Image, side: int) -> Tensor:
    """RGB, the short side resized to ``side`` (bilinear, antialiased), the centre cropped.

    Args:
        image: An image of any mode and size.
        side: Side of the square in pixels.

    Returns:
        uint8 ``(3, side, side)``.

    Examples:
        >>> square(Image.new("L", (60, 30), 255), 16).shape
        torch.Size([3, 16, 16])
    """
    image = image.convert("RGB")
    if image.size != (side, side):
        image = F.center_crop(F.resize(image, [side], antialias=True), [side, side])
    pixels: Tensor = F.pil_to_tensor(image)
    return pixels


def native_side(source: bytes | Path, what: str) -> int | None:
    """The side of a square image of at most 96 pixels, ``None`` for other images; only the header is read.

    Raises:
        DatasetError: the image cannot be read.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"cannot read the image {what}: {error}") from error
    return width if width == height <= _SMALL_SIDE else None


def resident(data: ImageData) -> ImageData:
    """Decode images into memory once, where they are stored at 96 pixels or less and fit into 2 GiB."""
    splits = (data.train, data.test)
    sources = [split.source for split in splits]
    if not all(isinstance(source, LazyImages) and source.side <= _SMALL_SIDE for source in sources):
        return data
    if sum(3 * source.side**2 * s.n for source, s in zip(sources, splits, strict=True)) > _RESIDENT_BYTES:  # type: ignore[attr-defined]
        return data
    _log.info("decoding %d small images of %s into memory", data.train.n + data.test.n, data.name)
    train, test = (Split.whole(ResidentImages(split.batch(torch.arange(split.n))), split.labels) for split in splits)
    return replace(data, train=train, test=test)
