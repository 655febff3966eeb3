"""Make the embedded dataset from Fashion-MNIST's four original files; the same bytes on every run.

    python make_embedded.py FOLDER_WITH_IDX_GZ OUTPUT.npz

FOLDER holds train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the two t10k files.
"""

import gzip
import hashlib
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np

PER_CLASS = {"train": 1000, "test": 200}
PREFIX = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    content = gzip.decompress(path.read_bytes())
    magic, *_ = struct.unpack(">I", content[:4])
    ndim = magic & 0xFF
    shape = struct.unpack(f">{ndim}I", content[4 : 4 + 4 * ndim])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def balanced(labels: np.ndarray, per_class: int) -> np.ndarray:
    """The first images of every class, in the original order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in range(10)]))


def main(folder: Path, output: Path) -> None:
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for part, prefix in PREFIX.items():
            labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
            images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
            keep = balanced(labels, PER_CLASS[part])
            for name, array in ((f"{part}_images", images[keep]), (f"{part}_labels", labels[keep])):
                # A fixed date and no extra fields: the bytes depend on the pixels alone.
                entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(entry, "w") as stream:
                    np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    print(hashlib.sha256(output.read_bytes()).hexdigest(), output.stat().st_size)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
