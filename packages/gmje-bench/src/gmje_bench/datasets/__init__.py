"""Datasets by name: embedded, torchvision's, the Hub's, Parquet files and image folders, all with one face.

Listing the names imports nothing heavy; loading does.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gmje_bench.errors import DatasetError, did_you_mean

if TYPE_CHECKING:
    from gmje_bench.datasets.base import ImageData

__all__ = ["DATASETS", "DatasetInfo", "load_dataset"]

EMBEDDED = "fashion_mnist_12k"


class DatasetInfo(NamedTuple):
    """A line of ``list``."""

    name: str
    summary: str
    needs_network: bool


DATASETS: tuple[DatasetInfo, ...] = (
    DatasetInfo(EMBEDDED, "10,000 + 2,000 images of Fashion-MNIST, in the package (28x28, grey)", False),
    DatasetInfo("fashion_mnist", "Fashion-MNIST through torchvision (28x28, grey)", True),
    DatasetInfo("cifar10", "CIFAR-10 through torchvision (32x32)", True),
    DatasetInfo("cifar100", "CIFAR-100 through torchvision (32x32)", True),
    DatasetInfo("stl10", "STL-10 through torchvision, labelled part (96x96)", True),
    DatasetInfo("imagefolder:PATH", "PATH/train/CLASS/*.jpg and PATH/val or PATH/test, images of any size", False),
    DatasetInfo("parquet:PATH", "PATH/train*.parquet and PATH/test*.parquet with columns image and label", False),
    DatasetInfo("hf:NAME", "a dataset of the Hugging Face Hub with columns image and label", True),
)


def check_name(spec: str) -> None:
    """Raise a :class:`DatasetError` with the closest name unless ``spec`` names a dataset."""
    prefix, colon, rest = spec.partition(":")
    if colon and prefix in ("imagefolder", "parquet", "hf"):
        if not rest:
            raise DatasetError(f"{spec!r} needs a {'name' if prefix == 'hf' else 'path'} after the colon")
        return
    if spec not in {info.name for info in DATASETS if ":" not in info.name}:
        raise DatasetError(f"unknown dataset {spec!r}{did_you_mean(spec, [info.name for info in DATASETS])}")


def load_dataset(
    spec: str, *, image_size: int | None = None, limit: int | None = None, root: Path | None = None
) -> "ImageData":
    """A dataset by name.

    Args:
        spec: A name of :data:`DATASETS`.
        image_size: Side in pixels that networks see; ``None`` for the images' own, or 224 for folders, Parquet
            and Hub data of varying size.
        limit: At most so many training images, and the same share of the test images.
        root: Folder of torchvision's files; ``None`` for ``~/.cache/gmje/datasets``.

    Raises:
        DatasetError: unknown, missing, unreadable, or of a form that cannot be used; the text says what to do.

    Examples:
        >>> data = load_dataset("fashion_mnist_12k", limit=100)
        >>> len(data.train), len(data.test), data.channels, data.image_size
        (100, 20, 1, 28)
        >>> load_dataset("cifar01")
        Traceback (most recent call last):
        ...
        gmje_bench.errors.DatasetError: unknown dataset 'cifar01'; did you mean cifar10? ...
    """
    check_name(spec)
    from gmje_bench.datasets import base, embedded, folder, table, vision

    prefix, _, rest = spec.partition(":")
    if spec == EMBEDDED:
        data = embedded.load()
    elif prefix == "imagefolder":
        data = folder.load(spec, Path(rest).expanduser(), image_size)
    elif prefix == "parquet":
        data = table.load_parquet(spec, Path(rest).expanduser(), image_size)
    elif prefix == "hf":
        data = table.load_hub(spec, rest, image_size)
    else:
        data = vision.load(spec, root or Path("~/.cache/gmje/datasets").expanduser())
    return data if limit is None else base.subset(data, limit)
