"""Make the embedded dataset from Fashion-MNIST's four original files; the same bytes on every run.

    python make_embedded.py FOLDER [OUTPUT.npz]

FOLDER holds train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the two t10k files. The first 1,000 training and
200 test images of each class are taken, in the original order. The compressed bytes are those of zlib at level 9.
"""

import argparse
import hashlib
import sys
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gmje_bench.datasets import embedded
from gmje_bench.datasets.idx import read_idx
from gmje_bench.errors import DatasetError

PER_CLASS = {"train": 1000, "test": 200}
PREFIX = {"train": "train", "test": "t10k"}
CLASSES = 10
OUTPUT = Path(embedded.__file__).parent / "data" / embedded.FILE

Bytes = npt.NDArray[np.uint8]


def balanced(labels: Bytes, per_class: int) -> npt.NDArray[np.intp]:
    """Sorted indices of the first images of every class."""
    members = [np.flatnonzero(labels == label) for label in range(CLASSES)]
    if min(map(len, members)) < per_class:
        raise DatasetError(f"fewer than {per_class} images of a class: {[len(m) for m in members]}")
    return np.sort(np.concatenate([m[:per_class] for m in members]))


def choose(folder: Path, per_class: dict[str, int]) -> dict[str, Bytes]:
    """The chosen images and labels of both parts."""
    arrays = {}
    for part, prefix in PREFIX.items():
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DatasetError(f"{prefix}: images {images.shape} do not go with labels {labels.shape}")
        keep = balanced(labels, per_class[part])
        arrays |= {f"{part}_images": images[keep], f"{part}_labels": labels[keep]}
    return arrays


def write(arrays: dict[str, Bytes], output: Path) -> str:
    """Write an npz file whose bytes depend on the arrays alone; its SHA-256."""
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            # numpy.savez writes the date and the system into the entries.
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            with archive.open(entry, "w") as stream:
                np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    return hashlib.sha256(output.read_bytes()).hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Make the file and say its checksum, which ``embedded.SHA256`` must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path, nargs="?", default=OUTPUT)
    options = parser.parse_args(arguments)
    try:
        digest = write(choose(options.folder, PER_CLASS), options.output)
    except (DatasetError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{options.output} {options.output.stat().st_size} bytes, SHA-256 {digest}\n")
    if digest != embedded.SHA256:
        sys.stderr.write(f"embedded.SHA256 is {embedded.SHA256}: the package expects another file\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
