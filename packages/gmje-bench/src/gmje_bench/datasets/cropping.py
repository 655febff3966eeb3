"""Views are cut out of whole encoded images: one decoding, two boxes, two squares of uint8 pixels.

What is left to do, flips and colours, needs no more than the squares and is done in batches on the device.
"""

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from gmje_bench.datasets.decoding import naming
from gmje_bench.views.crops import CropDraws

__all__ = ["read_views"]

# A JPEG can be decoded to so many times fewer rows and columns.
_REDUCTIONS = (2, 4, 8)
# The operator that torchvision registers. Its own function of that name warns at every call that a later version will
# lack it; without it, Pillow decodes everything.
_RGB = 3
_decode_jpeg = getattr(torch.ops.image, "decode_jpeg", None)


def read_views(encoded: Sequence[tuple[bytes | Path, str]], draws: CropDraws) -> Tensor:
    """The context and the target of every image, cut from the whole image and resized (bilinear, antialiased).

    Args:
        encoded: Of each of ``b`` images the content or the file, and the words that name it in a message.
        draws: What was drawn for the boxes of these images.

    Returns:
        uint8 ``(2, b, 3, size, size)``, in channels-last order of memory.

    Raises:
        DatasetError: an image cannot be read or is damaged; the text names it.

    Examples:
        >>> from gmje_bench.views import preset
        >>> stream = io.BytesIO()
        >>> Image.new("RGB", (50, 40), (255, 0, 0)).save(stream, "png")
        >>> draws = CropDraws.of_step(preset(32, 3), seed=0, batch=1, epoch=0, step=0)
        >>> views = read_views([(stream.getvalue(), "red.png")], draws)
        >>> views.shape, views[1, 0, :, 16, 16].tolist()
        (torch.Size([2, 1, 3, 32, 32]), [255, 0, 0])
    """
    opened = [_Encoded(source, what) for source, what in encoded]
    boxes = draws.boxes([image.height for image in opened], [image.width for image in opened])
    size = draws.config.size
    views = torch.empty(2, len(opened), size, size, 3, dtype=torch.uint8).permute(0, 1, 4, 2, 3)
    for place, image in enumerate(opened):
        pixels, reduction = image.decoded(fewer=int(boxes[:, place, 2:].min()) // size)
        for view, box in enumerate(boxes[:, place].tolist()):
            views[view, place] = cut(pixels, box, reduction, size)
    return views


def cut(pixels: Tensor, box: Sequence[int], reduction: int, size: int) -> Tensor:
    """A box of an image, resized to a square.

    Args:
        pixels: uint8 ``(3, H, W)``.
        box: Top, left, height and width in pixels of the whole image.
        reduction: How many pixels of the whole image a side of one of ``pixels`` stands for.
        size: Side of the square in pixels.

    Returns:
        uint8 ``(3, size, size)``.
    """
    top, left, height, width = box
    bottom, right = (round(edge / reduction) for edge in (top + height, left + width))
    part = pixels[:, round(top / reduction) : bottom, round(left / reduction) : right]
    if part.shape[1:] == (size, size):
        return part
    return F.interpolate(part.unsqueeze(0), (size, size), mode="bilinear", antialias=True).squeeze(0)


class _Encoded:
    """An image of which the header has been read."""

    def __init__(self, source: bytes | Path, what: str) -> None:
        self.what = what
        with naming(what):
            self.content = source if isinstance(source, bytes) else source.read_bytes()
            self.image = Image.open(io.BytesIO(self.content))
        self.width, self.height = self.image.size

    def decoded(self, fewer: int) -> tuple[Tensor, int]:
        """Pixels uint8 ``(3, H, W)``, and how many pixels of a side each stands for: at most ``fewer``, or 1."""
        reduction = max((r for r in _REDUCTIONS if r <= fewer), default=1)
        with naming(self.what):
            if self.image.format == "JPEG" and reduction > 1:
                self.image.draft("RGB", (self.width // reduction, self.height // reduction))
            elif self.image.format == "JPEG" and _decode_jpeg is not None:
                # torchvision is faster where all pixels are wanted; what it refuses, Pillow reads or says why not.
                with suppress(RuntimeError):
                    content = torch.frombuffer(bytearray(self.content), dtype=torch.uint8)
                    return _decode_jpeg(content, _RGB), 1
            pixels = torch.from_numpy(np.array(self.image.convert("RGB")))
        return pixels.permute(2, 0, 1), round(self.width / pixels.shape[1])
