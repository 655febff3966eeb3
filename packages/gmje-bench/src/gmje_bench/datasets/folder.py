"""Image folders in ImageNet's layout, images of any size."""

from pathlib import Path

import torch

from gmje_bench.datasets.base import (
    STORAGE_FACTOR,
    ImageData,
    LazyImages,
    Split,
    check_classes,
    fingerprint,
    open_image,
)
from gmje_bench.errors import DatasetError

__all__ = ["SUFFIXES", "load"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})
# Of a folder without a test part, every fifth image of a class is held out.
_HOLD_OUT = 5


def load(name: str, path: Path, image_size: int | None) -> ImageData:
    """``PATH/train/CLASS/*`` with ``PATH/val`` or ``PATH/test``, or ``PATH/CLASS/*`` split 80 to 20.

    The fingerprint covers the relative paths and sizes in bytes, not the pixels.
    """
    try:
        parts = _parts(path)
    except PermissionError as error:
        raise DatasetError(f"cannot read {error.filename}: permission denied") from error
    classes = sorted({file.parent.name for file in parts["train"]})
    if not classes:
        raise DatasetError(
            f"no images in {path}: expected {path}/train/CLASS/*.jpg, with endings {', '.join(sorted(SUFFIXES))}"
        )
    unknown = sorted({file.parent.name for file in parts["test"]} - set(classes))
    if unknown:
        raise DatasetError(f"{path} tests on classes that it has no training images of: {', '.join(unknown[:5])}")
    size = image_size or 224
    splits = {part: _split(files, classes, round(size * STORAGE_FACTOR)) for part, files in parts.items()}
    check_classes(name, splits["train"].labels, splits["test"].labels, classes)
    described = [f"{part}/{f.parent.name}/{f.name}:{f.stat().st_size}\n" for part, fs in parts.items() for f in fs]
    return ImageData(name, splits["train"], splits["test"], tuple(classes), 3, size, fingerprint("".join(described)))


def _parts(path: Path) -> dict[str, list[Path]]:
    if not path.is_dir():
        raise DatasetError(f"no folder {path}; imagefolder:PATH needs PATH/train/CLASS/*.jpg")
    if not (path / "train").is_dir():
        files = _images(path)
        test = [file for members in _by_class(files).values() for file in members[_HOLD_OUT - 1 :: _HOLD_OUT]]
        held = set(test)
        return {"train": [file for file in files if file not in held], "test": test}
    for name in ("val", "test"):
        if (path / name).is_dir():
            return {"train": _images(path / "train"), "test": _images(path / name)}
    raise DatasetError(f"{path} has a train folder but neither val nor test beside it")


def _images(folder: Path) -> list[Path]:
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    return [f for c in classes for f in sorted(c.iterdir()) if f.suffix.lower() in SUFFIXES]


def _by_class(files: list[Path]) -> dict[str, list[Path]]:
    members: dict[str, list[Path]] = {}
    for file in files:
        members.setdefault(file.parent.name, []).append(file)
    return members


class _Reader:
    """Opens the image at a position; a class, so that worker processes can take it along."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __call__(self, index: int):  # type: ignore[no-untyped-def]
        return open_image(self.files[index])


def _split(files: list[Path], classes: list[str], side: int) -> Split:
    labels = torch.tensor([classes.index(file.parent.name) for file in files], dtype=torch.long)
    return Split(LazyImages(_Reader(files), side), labels, torch.arange(len(files)))
