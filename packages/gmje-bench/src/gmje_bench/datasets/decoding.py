"""An encoded image of any size becomes an RGB square, so that images of all sizes can be stacked."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from gmje_bench.errors import DatasetError

__all__ = ["DEFAULT_SIZE", "SMALL_SIDE", "decode", "naming", "native_side", "square"]

#: Images without a common size are shown to networks as squares of this side, in pixels.
DEFAULT_SIZE = 224
#: Square images of at most this side, in pixels, keep their size.
SMALL_SIDE = 96


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
    with naming(what), Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        image.draft("RGB", (2 * side, 2 * side))
        return square(image, side)


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Turn what reading and decoding raise into one error that names the image.

    Args:
        what: Words that name the image.

    Raises:
        DatasetError: the image cannot be read or is damaged.

    Examples:
        >>> with naming("a.jpg"):
        ...     Image.open(io.BytesIO(b"text"))
        Traceback (most recent call last):
        ...
        gmje_bench.errors.DatasetError: cannot read the image a.jpg: cannot identify image file ...
    """
    try:
        yield
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
    with naming(what), Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        width, height = image.size
    return width if width == height <= SMALL_SIDE else None
