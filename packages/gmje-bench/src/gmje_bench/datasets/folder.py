"""Image folders in ImageNet's layout, images of any size."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from gmje_bench.datasets.base import ImageData, Split, check_classes, fingerprint, unseen_classes
from gmje_bench.datasets.decoding import DEFAULT_SIZE, native_side
from gmje_bench.datasets.reading import LazyImages
from gmje_bench.datasets.selection import validation_split
from gmje_bench.errors import DatasetError, did_you_mean
from gmje_core.models.preprocessing import resize_side

__all__ = ["SUFFIXES", "Listing", "listings", "load"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})
_TEST_NAMES = ("val", "validation", "test")
_TEST_SHARE = 0.2


def load(name: str, path: Path, image_size: int | None) -> ImageData:
    """A folder of images, one folder a class.

    ``PATH/train/CLASS/*`` with ``PATH/val`` or ``PATH/test``; ``PATH/CLASS/*`` is split, 80 to 20 in every class.
    Hidden entries and files that are not images by their ending are passed over; folders inside a class belong to it.
    The fingerprint covers the relative paths and the sizes in bytes, not the pixels.

    Args:
        name: The name of the dataset.
        path: The folder.
        image_size: Side in pixels that networks see; ``None`` for 224.

    Raises:
        DatasetError: the folder is missing, unreadable or empty, or a test class has no training images.
    """
    train, test = listings(path)
    size = image_size or DEFAULT_SIZE
    side = native_side(*_FileReader(train).read(0)) or resize_side(size)
    if test is None:
        whole = Split.whole(LazyImages(_FileReader(train), side), train.labels_for(train.classes))
        splits = [whole.select(indices) for indices in validation_split(whole.labels, _TEST_SHARE)]
        parts = [("", train)]
    else:
        unseen = [c for c, n in zip(test.classes, test.counts, strict=True) if n and c not in train.classes]
        if unseen:
            raise unseen_classes(str(path), unseen)
        splits = [Split.whole(LazyImages(_FileReader(p), side), p.labels_for(train.classes)) for p in (train, test)]
        parts = [("train", train), ("test", test)]
    check_classes(str(path), splits[0].labels, splits[1].labels, train.classes)
    digest = fingerprint(*[item for label, part in parts for item in (label, part.description())])
    return ImageData(name, splits[0], splits[1], train.classes, 3, size, digest, "names and sizes")


def listings(path: Path) -> "tuple[Listing, Listing | None]":
    """The images of both parts of a folder; no second one where a single folder is to be split.

    Raises:
        DatasetError: the folder is missing, unreadable or empty.
    """
    try:
        train_folder, test_folder = _layout(path)
        train = _scan(train_folder)
        test = _scan(test_folder) if test_folder else None
    except OSError as error:
        raise DatasetError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    _check(path, train, train_folder)
    return train, test


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of a folder, in order; file names as one array of bytes, which a million of them need.

    Attributes:
        folder: The folder of the classes.
        classes: Names of the classes, in order.
        counts: Number of images of each class.
        names: Paths of the images below the folder, class after class.
        sizes: Bytes of the files.
    """

    folder: Path
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    names: npt.NDArray[np.bytes_]
    sizes: npt.NDArray[np.int64]

    def labels_for(self, classes: tuple[str, ...]) -> torch.Tensor:
        """Labels int64 ``(N,)`` by the order of other classes; -1 for a class that is not one of them."""
        place = {name: label for label, name in enumerate(classes)}
        labels = [place.get(name, -1) for name in self.classes]
        return torch.tensor(labels, dtype=torch.int64).repeat_interleave(torch.tensor(self.counts, dtype=torch.int64))

    def path(self, position: int) -> Path:
        """The file of an image."""
        return self.folder / os.fsdecode(bytes(self.names[position]))

    def description(self) -> bytes:
        """Names and sizes of all images."""
        return b"\n".join(b"%s\0%d" % (name, size) for name, size in zip(self.names, self.sizes, strict=True))


class _FileReader:
    """Gives the path of the image at a position."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing

    def read(self, position: int) -> tuple[Path, str]:
        path = self.listing.path(position)
        return path, str(path)


def _layout(path: Path) -> tuple[Path, Path | None]:
    """The folders of training and test classes; no second one where a single folder is to be split."""
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
        raise DatasetError(
            f"no folder {path}{did_you_mean(path.name, siblings[:20])}; "
            "imagefolder:PATH needs PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg"
        )
    if not path.is_dir():
        raise DatasetError(f"{path} is not a folder; imagefolder:PATH needs PATH/train/CLASS/*.jpg")
    test = next((path / name for name in _TEST_NAMES if (path / name).is_dir()), None)
    if (path / "train").is_dir():
        if test is None:
            raise DatasetError(
                f"{path} has a train folder but none of {', '.join(_TEST_NAMES)}; imagefolder:{path / 'train'} holds "
                "out a fifth of each class"
            )
        return path / "train", test
    if test is not None:
        raise DatasetError(f"{path} has a {test.name} folder but no train folder")
    return path, None


def _scan(folder: Path) -> Listing:
    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    found = [list(_images(folder / name, f"{name}/")) for name in classes]
    names = [os.fsencode(name) for members in found for name, _ in members]
    return Listing(
        folder,
        tuple(classes),
        tuple(len(members) for members in found),
        np.array(names, dtype=np.bytes_),
        np.array([size for members in found for _, size in members], dtype=np.int64),
    )


def _images(folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
    """Relative name and size in bytes of every image below a folder, in the order of names."""
    with os.scandir(folder) as entries:
        visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in visible:
        if entry.is_dir():
            yield from _images(Path(entry.path), f"{prefix}{entry.name}/")
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield f"{prefix}{entry.name}", entry.stat().st_size


def _check(path: Path, train: Listing, folder: Path) -> None:
    if not len(train.names):
        raise DatasetError(
            f"no images in {folder}; imagefolder:PATH needs PATH/train/CLASS/*.jpg or PATH/CLASS/*.jpg, and files "
            f"end in {', '.join(sorted(SUFFIXES))}"
        )
    empty = [name for name, count in zip(train.classes, train.counts, strict=True) if not count]
    if empty:
        raise DatasetError(f"class folders without images in {folder}: {', '.join(empty[:5])}; fill or remove them")
