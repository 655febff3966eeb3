"""The idx format of MNIST and its descendants, plain or gzipped."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gmje_bench.errors import DatasetError

__all__ = ["read_idx"]

_UINT8 = 0x08


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The array of bytes in an idx file.

    The format: two zero bytes, the type (8 for unsigned bytes), the number of dimensions, each dimension as a
    big-endian 32-bit integer, then the bytes in row-major order.

    Args:
        path: The file; one that ends in ``.gz`` is decompressed.

    Returns:
        uint8, read-only.

    Raises:
        DatasetError: the file cannot be read or does not have the idx format.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error
    if len(content) < 4 or content[:3] != bytes([0, 0, _UINT8]):
        raise DatasetError(f"{path} is not an idx file of bytes: it begins with {content[:4].hex() or 'nothing'}")
    start = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:start]) if len(content) >= start else (0,)
    if len(content) != start + math.prod(shape):
        raise DatasetError(
            f"{path} is damaged: {len(content)} bytes, but shape {shape} needs {start + math.prod(shape)}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
