"""Datasets by name: embedded, torchvision's, the Hub's, shards, tables and image folders share one interface.

Listing and checking names imports nothing heavy; loading does.
"""

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gmje_bench.datasets.names import HUB_PREFIXES, HubName
from gmje_bench.errors import DatasetError, OptionError, did_you_mean

if TYPE_CHECKING:
    from gmje_bench.datasets.base import ImageData, ResidentImages, Split
    from gmje_bench.datasets.selection import validation_split

__all__ = [
    "DATASETS",
    "DatasetInfo",
    "ImageData",
    "ResidentImages",
    "Split",
    "check_name",
    "dataset_names",
    "default_root",
    "load_dataset",
    "validation_split",
]

EMBEDDED = "fashion_mnist_12k"
_ALIASES = {"embedded": EMBEDDED}
_PREFIXES = {"imagefolder": "PATH", "parquet": "PATH", "shards": "PATH", "hf": "NAME", "hf-stream": "NAME"}
_SMALLEST_SIDE = 8
_LAZY = {"ImageData": "base", "ResidentImages": "base", "Split": "base", "validation_split": "selection"}


class DatasetInfo(NamedTuple):
    """A line of ``list``.

    Args:
        name: What ``--dataset`` takes; the user puts a path or a name in place of ``PATH`` and ``NAME``.
        summary: What the dataset is, in one line.
        needs_network: Whether it must be fetched the first time.
    """

    name: str
    summary: str
    needs_network: bool


DATASETS: tuple[DatasetInfo, ...] = (
    DatasetInfo(
        EMBEDDED, "10,000 + 2,000 images of Fashion-MNIST inside the package (28x28, grey); or: embedded", False
    ),
    DatasetInfo("fashion_mnist", "Fashion-MNIST, 60,000 + 10,000 images (28x28, grey)", True),
    DatasetInfo("cifar10", "CIFAR-10, 50,000 + 10,000 images (32x32)", True),
    DatasetInfo("cifar100", "CIFAR-100, 50,000 + 10,000 images, fine labels (32x32)", True),
    DatasetInfo("stl10", "STL-10, the 5,000 + 8,000 labelled images (96x96)", True),
    DatasetInfo("imagefolder:PATH", "PATH/train/CLASS/*.jpg with PATH/val or PATH/test, images of any size", False),
    DatasetInfo("parquet:PATH", "PATH/train*.parquet with PATH/test*.parquet, columns image and label", False),
    DatasetInfo("shards:PATH", "tar (WebDataset) or Parquet shards PATH/train* with PATH/val*, read in place", False),
    DatasetInfo("hf:NAME", "a dataset of the Hugging Face Hub with columns image and label", True),
    DatasetInfo("hf-stream:NAME", "the same without fetching it; both: NAME[:CONFIG][@REVISION]", True),
)


def dataset_names() -> list[DatasetInfo]:
    """All datasets, the default first, without importing torch.

    Examples:
        >>> dataset_names()[0].name
        'fashion_mnist_12k'
    """
    return list(DATASETS)


def check_name(spec: str) -> None:
    """Check that ``spec`` names a dataset; whether it is there shows at loading.

    Raises:
        DatasetError: there is no such dataset; the message names the closest one.

    Examples:
        >>> check_name("imagefolder:~/images")
        >>> check_name("imagefolder:")
        Traceback (most recent call last):
        ...
        gmje_bench.errors.DatasetError: 'imagefolder:' lacks its PATH: write imagefolder:PATH
    """
    prefix, colon, rest = spec.partition(":")
    if colon and prefix in _PREFIXES:
        if not rest.strip():
            raise DatasetError(f"{spec!r} lacks its {_PREFIXES[prefix]}: write {prefix}:{_PREFIXES[prefix]}")
        if prefix in HUB_PREFIXES:
            HubName.parse(rest)
        return
    if spec not in _ALIASES and (colon or spec not in {info.name for info in DATASETS}):
        raise DatasetError(f"unknown dataset {spec!r}{did_you_mean(spec, [info.name for info in DATASETS])}")


def default_root() -> Path:
    """Folder of downloaded sets: ``$GMJE_DATA``, else ``gmje/datasets`` in the user's cache."""
    if folder := os.environ.get("GMJE_DATA"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "gmje" / "datasets"


def load_dataset(
    spec: str,
    *,
    image_size: int | None = None,
    limit: int | None = None,
    root: Path | None = None,
    held_out_classes: Sequence[str] = (),
) -> "ImageData":
    """Load a dataset by its name.

    Images of folders and tables are decoded to RGB squares: the short side resized (antialiased), the centre cropped.
    Squares of at most 96 pixels (judged by the first image) keep their size, other images are stored at 8/7 of
    ``image_size``. What is stored at 96 pixels or less and fits into 2 GiB is decoded into memory once, everything else
    whenever it is asked for. Views of what is in memory are cut on the device; those of other images where they are
    decoded, from the whole image, see :meth:`gmje_bench.datasets.base.Split.epoch`.

    Args:
        spec: A name of :data:`DATASETS`.
        image_size: Side in pixels that networks see; ``None`` for the images' own, or 224 for image folders and for
            tables of large images.
        limit: Largest number of training images, balanced over classes; the same share of the test images is kept.
        root: Folder of downloaded sets; ``None`` for :func:`default_root`.
        held_out_classes: Names of classes whose images are kept from both splits; their test images become
            ``held_out``.

    Raises:
        DatasetError: unknown, missing, unreadable, or of a form that cannot be used; the text says what to do.
        OptionError: an image size below 8 pixels, a limit below two images for each class, or no such class.

    Examples:
        >>> data = load_dataset("fashion_mnist_12k", limit=100)
        >>> data.train.n, data.test.n, data.channels, data.image_size
        (100, 20, 1, 28)
        >>> load_dataset("cifar01")
        Traceback (most recent call last):
        ...
        gmje_bench.errors.DatasetError: unknown dataset 'cifar01'; did you mean cifar10? ...
    """
    check_name(spec)
    if image_size is not None and image_size < _SMALLEST_SIDE:
        raise OptionError(f"the image size must be at least {_SMALLEST_SIDE} pixels, got {image_size}")
    from gmje_bench.datasets.reading import resident
    from gmje_bench.datasets.selection import limited, without_classes

    data = without_classes(_load(spec, image_size, root or default_root()), held_out_classes)
    return resident(data if limit is None else limited(data, limit))


def _load(spec: str, image_size: int | None, root: Path) -> "ImageData":
    from dataclasses import replace

    from gmje_bench.datasets import embedded, folder, hub, shards, table, vision

    prefix, colon, rest = spec.partition(":")
    if _ALIASES.get(spec, spec) == EMBEDDED:
        data = embedded.load()
        return replace(data, image_size=image_size or data.image_size)
    if not colon:
        return vision.load(spec, root, image_size)
    if prefix == "hf":
        return hub.load(spec, HubName.parse(rest), image_size)
    if prefix == "hf-stream":
        return hub.load_in_place(spec, HubName.parse(rest), image_size, root)
    if prefix == "shards":
        return shards.load(spec, os.path.expanduser(rest), image_size, root)
    path = Path(rest).expanduser()
    if prefix == "imagefolder":
        return folder.load(spec, path, image_size, root / "listings")
    return table.load_parquet(spec, path, image_size)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
