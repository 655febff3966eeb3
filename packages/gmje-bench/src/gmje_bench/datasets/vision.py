"""The small benchmark sets, held in memory: fetched and checked by torchvision, read from their plain binary files.

CIFAR is read from its binary archive instead of torchvision's usual one, whose files are pickles: nothing is unpickled
here.
"""

import logging
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from gmje_bench.datasets.base import ImageData, ResidentImages, Split, check_classes, fingerprint
from gmje_bench.datasets.embedded import NAME as EMBEDDED
from gmje_bench.datasets.idx import read_idx
from gmje_bench.errors import DatasetError

__all__ = ["load"]

_log = logging.getLogger(__name__)

_FASHION = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_CIFAR_FILE = 10_000
_STL10 = {"train": 5_000, "test": 8_000}
_CIFAR = "https://www.cs.toronto.edu/~kriz/"
Part = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Recipe:
    """Where a set comes from and how it is read.

    Args:
        folder: Folder of the files, below the root.
        files: The files that must be there; their names may end in ``.gz``.
        classes: File with the names, or the names.
        read: A function that reads the training and the test part of a folder.
    """

    folder: str
    files: tuple[str, ...]
    classes: str | tuple[str, ...]
    read: Callable[[Path], tuple[Part, Part]]


def load(name: str, root: Path, image_size: int | None) -> ImageData:
    """A small benchmark set, downloaded where it is not there yet; the fingerprint covers every pixel.

    Args:
        name: ``fashion_mnist``, ``cifar10``, ``cifar100`` or ``stl10``.
        root: Folder of the files.
        image_size: Side in pixels that networks see; ``None`` for the images' own.

    Raises:
        DatasetError: files are damaged, or are missing and cannot be downloaded; the message says which belong where.
    """
    recipe = _RECIPES[name]
    folder = root / recipe.folder
    if _missing(folder, recipe):
        _fetch(name, root, recipe)
    try:
        (train, test), classes = recipe.read(folder), _classes(folder, recipe)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{name} in {folder} is damaged ({error}); remove that folder and run again") from error
    check_classes(name, train[1], test[1], classes)
    channels, side = train[0].shape[1:3]
    splits = [Split.whole(ResidentImages(images), labels) for images, labels in (train, test)]
    digest = fingerprint(*train, *test)
    return ImageData(name, splits[0], splits[1], classes, channels, image_size or side, digest, "content")


def _missing(folder: Path, recipe: _Recipe) -> list[str]:
    return [f for f in recipe.files if not ((folder / f).is_file() or (folder / f"{f}.gz").is_file())]


def _fetch(name: str, root: Path, recipe: _Recipe) -> None:
    """Download what is missing; archives put in place by hand are checked and used."""
    from torchvision.datasets.utils import download_and_extract_archive, download_url

    folder = root / recipe.folder
    archives = _archives(name)
    try:
        for url, md5 in archives:
            if name == "fashion_mnist":
                download_url(url, folder, md5=md5)
            else:
                download_and_extract_archive(url, root, md5=md5)
    except (OSError, URLError, RuntimeError, tarfile.TarError, EOFError) as error:
        wanted = ", ".join(url.rsplit("/", 1)[1] for url, _ in archives)
        place = folder if name == "fashion_mnist" else root
        raise DatasetError(
            f"{name} is not in {folder} and cannot be downloaded ({error}); put {wanted} into {place} by hand, or use "
            f"the embedded {EMBEDDED}, which needs no network"
        ) from error
    if missing := _missing(folder, recipe):
        raise DatasetError(f"{name}: the archive was unpacked, but {folder} has no {', '.join(missing)}")


def _archives(name: str) -> list[tuple[str, str]]:
    """Address and MD5 checksum of every archive."""
    from torchvision.datasets import STL10, FashionMNIST

    return {
        "fashion_mnist": [(FashionMNIST.mirrors[0] + file, md5) for file, md5 in FashionMNIST.resources],
        "cifar10": [(f"{_CIFAR}cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")],
        "cifar100": [(f"{_CIFAR}cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8")],
        "stl10": [(STL10.url, STL10.tgz_md5)],
    }[name]


def _classes(folder: Path, recipe: _Recipe) -> tuple[str, ...]:
    if isinstance(recipe.classes, tuple):
        return recipe.classes
    return tuple((folder / recipe.classes).read_text().split())


def _read_fashion(folder: Path) -> tuple[Part, Part]:
    parts = []
    for files, count in ((_FASHION[:2], 60_000), (_FASHION[2:], 10_000)):
        images, labels = (torch.tensor(read_idx(_either(folder / file))) for file in files)
        if images.shape != (count, 28, 28) or labels.shape != (count,) or int(labels.max()) > 9:
            raise ValueError(f"images {tuple(images.shape)} and labels {tuple(labels.shape)}, expected {count} of each")
        parts.append((images.unsqueeze(1), labels.long()))
    return parts[0], parts[1]


def _either(path: Path) -> Path:
    return path if path.is_file() else path.with_name(f"{path.name}.gz")


def _read_cifar10(folder: Path) -> tuple[Part, Part]:
    parts = [_records(folder / f"data_batch_{i}.bin", _CIFAR_FILE, label_bytes=1, classes=10) for i in range(1, 6)]
    train = torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])
    return train, _records(folder / "test_batch.bin", _CIFAR_FILE, label_bytes=1, classes=10)


def _read_cifar100(folder: Path) -> tuple[Part, Part]:
    train = _records(folder / "train.bin", 5 * _CIFAR_FILE, label_bytes=2, classes=100)
    return train, _records(folder / "test.bin", _CIFAR_FILE, label_bytes=2, classes=100)


def _records(path: Path, count: int, label_bytes: int, classes: int) -> Part:
    """CIFAR's records: the labels, of which the last is the finest, then 3072 bytes of red, green and blue planes."""
    records = _bytes(path, count * (label_bytes + 3072)).view(count, -1)
    labels = records[:, label_bytes - 1].long()
    if int(labels.max()) >= classes:
        raise ValueError(f"{path.name} has label {int(labels.max())} of {classes} classes")
    return records[:, label_bytes:].reshape(count, 3, 32, 32), labels


def _read_stl10(folder: Path) -> tuple[Part, Part]:
    parts = []
    for part, count in _STL10.items():
        # STL-10 stores images column by column.
        images = _bytes(folder / f"{part}_X.bin", count * 3 * 96 * 96).view(count, 3, 96, 96).mT.contiguous()
        labels = _bytes(folder / f"{part}_y.bin", count).long() - 1
        if not 0 <= int(labels.min()) <= int(labels.max()) <= 9:
            raise ValueError(f"{part}_y.bin has labels from {int(labels.min()) + 1} to {int(labels.max()) + 1}")
        parts.append((images, labels))
    return parts[0], parts[1]


def _bytes(path: Path, count: int) -> Tensor:
    content = np.fromfile(path, np.uint8)
    if len(content) != count:
        raise ValueError(f"{path.name} has {len(content)} bytes, expected {count}")
    return torch.from_numpy(content)


_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR10_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin", "batches.meta.txt")
_STL10_FILES = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "class_names.txt")
_RECIPES = {
    "fashion_mnist": _Recipe("FashionMNIST/raw", _FASHION, _FASHION_CLASSES, _read_fashion),
    "cifar10": _Recipe("cifar-10-batches-bin", _CIFAR10_FILES, "batches.meta.txt", _read_cifar10),
    "cifar100": _Recipe(
        "cifar-100-binary", ("train.bin", "test.bin", "fine_label_names.txt"), "fine_label_names.txt", _read_cifar100
    ),
    "stl10": _Recipe("stl10_binary", _STL10_FILES, "class_names.txt", _read_stl10),
}
