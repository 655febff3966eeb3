"""Image folders in ImageNet's layout, images of any size."""

from pathlib import Path

from gmje_bench.datasets.base import ImageData, Split, check_classes, fingerprint, unseen_classes
from gmje_bench.datasets.decoding import DEFAULT_SIZE, naming, native_side
from gmje_bench.datasets.listing import SUFFIXES, Listing, listed
from gmje_bench.datasets.reading import LazyImages
from gmje_bench.datasets.selection import validation_split
from gmje_bench.errors import DatasetError, did_you_mean
from gmje_core.models.preprocessing import resize_side

__all__ = ["SUFFIXES", "Listing", "listings", "load"]

_TEST_NAMES = ("val", "validation", "test")
_TEST_SHARE = 0.2


def load(name: str, path: Path, image_size: int | None, cache: Path | None = None) -> ImageData:
    """A folder of images, one folder a class.

    ``PATH/train/CLASS/*`` with ``PATH/val`` or ``PATH/test``; ``PATH/CLASS/*`` is split, 80 to 20 in every class.
    Hidden entries and files that are not images by their ending are passed over; folders inside a class belong to it.
    The fingerprint covers the relative paths and the sizes in bytes, not the pixels.

    Args:
        name: The name of the dataset.
        path: The folder.
        image_size: Side in pixels that networks see; ``None`` for 224.
        cache: The folder that listings of large folders are kept in; ``None`` keeps nothing.

    Raises:
        DatasetError: the folder is missing, unreadable or empty, or a test class has no training images.
    """
    train, test = listings(path, cache)
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


def listings(path: Path, cache: Path | None = None) -> tuple[Listing, Listing | None]:
    """The images of both parts of a folder; no second one where a single folder is to be split.

    Args:
        path: The folder.
        cache: The folder that listings of large folders are kept in; ``None`` keeps nothing.

    Raises:
        DatasetError: the folder is missing, unreadable or empty.
    """
    try:
        train_folder, test_folder = _layout(path)
        train = listed(train_folder, cache)
        test = listed(test_folder, cache) if test_folder else None
    except OSError as error:
        raise DatasetError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    _check(path, train, train_folder)
    return train, test


class _FileReader:
    """Gives the content of the image at a position, of the size that it was listed with."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing

    def read(self, position: int) -> tuple[bytes, str]:
        path, size = self.listing.path(position), int(self.listing.sizes[position])
        with naming(str(path)):
            content = path.read_bytes()
        if len(content) != size:
            self.listing.forget()
            raise DatasetError(
                f"{path} has {len(content)} bytes, but had {size} when the folder was listed: the images have changed "
                "under the run; start it anew"
            )
        return content, str(path)


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


def _check(path: Path, train: Listing, folder: Path) -> None:
    if not len(train.names):
        raise DatasetError(
            f"no images in {folder}; imagefolder:PATH needs PATH/train/CLASS/*.jpg or PATH/CLASS/*.jpg, and files "
            f"end in {', '.join(sorted(SUFFIXES))}"
        )
    empty = [name for name, count in zip(train.classes, train.counts, strict=True) if not count]
    if empty:
        raise DatasetError(f"class folders without images in {folder}: {', '.join(empty[:5])}; fill or remove them")
