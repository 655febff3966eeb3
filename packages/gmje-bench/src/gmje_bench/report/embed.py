"""Figures and images become parts of a page: vector drawings inline, pictures as data URIs.

Drawings take the page's text colour and font, so that they follow the reader's theme; nothing is fetched.
"""

import base64
import io
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from gmje_bench.report.palette import COLORS, INK, PAPER

__all__ = ["Drawer", "data_uri", "png_uri", "tile"]

_RC = {
    "svg.fonttype": "none",  # text stays text: small, and in the reader's font
    "svg.hashsalt": "gmje",  # the same drawing gives the same bytes
    "text.parse_math": False,  # a method's name may hold a dollar
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.use_mathtext": False,
}
_LARGEST_PNG = 12_000


class Drawer:
    """Makes figures and turns them into inline SVG whose identifiers are unique on the page."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    @contextmanager
    def style(self) -> Iterator[None]:
        """The settings of matplotlib under which figures must be made and saved."""
        with mpl.rc_context(_RC):  # type: ignore[arg-type]  # matplotlib names every key there is
            yield

    def svg(self, figure: Figure, label: str) -> Markup:
        """The drawing as an ``svg`` element, as wide as its place.

        Args:
            figure: A figure that was made under :meth:`style`.
            label: Words for readers who cannot see the figure.
        """
        stream = io.StringIO()
        with self.style():
            figure.savefig(stream, format="svg", transparent=True, dpi=120, metadata={"Date": None})
        text = stream.getvalue()
        body = text[text.index("<svg") :]
        size = body.split('viewBox="', 1)[1].split('"', 1)[0]
        body = re.sub(r"<metadata>.*?</metadata>", "", body[body.index(">") + 1 :], flags=re.DOTALL)
        prefix = f"d{next(self._numbers)}-"
        body = re.sub(r'(\bid=")([^"]+")', rf"\1{prefix}\2", body)
        body = re.sub(r'(href="#|url\(#)', rf"\1{prefix}", body)
        body = re.sub(r"font: ([^;\"]*?px) [^;\"]+", r"font: \1 system-ui, sans-serif", body)
        body = body.replace(INK, "currentColor").replace(PAPER, "var(--paper)")
        title = escape(label, quote=True)
        return Markup(f'<svg role="img" aria-label="{title}" viewBox="{size}"><title>{title}</title>{body.strip()}')


def png_uri(content: bytes) -> str:
    """A PNG file as a data URI; a large one is reduced to 256 colours first."""
    if len(content) > 400_000:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            stream = io.BytesIO()
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
        content = min(content, stream.getvalue(), key=len)
    return _uri(content, "png")


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """An image as a data URI: PNG where that is small, else JPEG.

    Args:
        pixels: ``(H, W)`` or ``(H, W, 3)``.
    """
    image = Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    if len(stream.getvalue()) <= _LARGEST_PNG:
        return _uri(stream.getvalue(), "png")
    lossy = io.BytesIO()
    image.save(lossy, "JPEG", quality=85, optimize=True)
    if len(lossy.getvalue()) < len(stream.getvalue()):
        return _uri(lossy.getvalue(), "jpeg")
    return _uri(stream.getvalue(), "png")


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def tile(images: NDArray[np.uint8], columns: int, wrong: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Images side by side with a narrow gap, row by row.

    Args:
        images: ``(n, C, S, S)`` with one or three channels; larger than 48 pixels, they are reduced to that.
        columns: Number of columns of the grid.
        wrong: ``(n,)``, whether an image gets a frame and a filled corner.

    Returns:
        ``(H, W)``, or ``(H, W, 3)`` for colour or where anything is marked; gaps are mid-grey.

    Examples:
        >>> tile(np.zeros((5, 1, 4, 4), np.uint8), columns=3).shape
        (11, 16)
    """
    pictures = _small(images)
    if wrong is not None and pictures.shape[1] == 1:
        pictures = pictures.repeat(3, axis=1)
    count, channels, height, width = pictures.shape
    gap = 1 if wrong is None else 2
    rows = -(-count // columns)
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, channels)
    page = np.full(shape, 128, np.uint8)
    for index, picture in enumerate(pictures):
        top, left = (
            place * (side + gap) + gap for place, side in zip(divmod(index, columns), (height, width), strict=True)
        )
        page[top : top + height, left : left + width] = picture.transpose(1, 2, 0)
        if wrong is not None and wrong[index]:
            _mark(page, top - gap, left - gap, height + 2 * gap, width + 2 * gap, gap)
    return page[:, :, 0] if channels == 1 else page


def _mark(page: NDArray[np.uint8], top: int, left: int, height: int, width: int, gap: int) -> None:
    """Draw a frame and a filled corner, which can be seen by colour and by shape."""
    color = np.array([int(COLORS[5][i : i + 2], 16) for i in (1, 3, 5)], np.uint8)
    box = page[top : top + height, left : left + width]
    box[:gap] = box[-gap:] = color
    box[:, :gap] = box[:, -gap:] = color
    side = max(min(height, width) // 4, 3)
    for row in range(side):
        box[row, width - side + row :] = color


def _small(images: NDArray[np.uint8], side: int = 48) -> NDArray[np.uint8]:
    height, width = images.shape[-2:]
    if max(height, width) <= side:
        return images
    size = (max(width * side // max(height, width), 1), max(height * side // max(height, width), 1))
    reduced = [
        np.stack([np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.LANCZOS)) for channel in image])
        for image in images
    ]
    return np.stack(reduced)
