"""Tables of images: Parquet files and datasets of the Hugging Face Hub, read through ``datasets``."""

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from gmje_bench.datasets.base import (
    STORAGE_FACTOR,
    ImageData,
    LazyImages,
    ResidentImages,
    Split,
    check_classes,
    fingerprint,
    square,
)
from gmje_bench.errors import DatasetError, did_you_mean

__all__ = ["load_hub", "load_parquet"]

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label", "labels")
# Sets of images up to this side are decoded once and kept in memory.
_RESIDENT_SIDE = 96


def load_parquet(name: str, path: Path, image_size: int | None) -> ImageData:
    """``PATH/train*.parquet`` and ``PATH/test*.parquet`` (or ``val*``); the fingerprint covers names and sizes."""
    if not path.is_dir():
        raise DatasetError(f"no folder {path}; parquet:PATH needs PATH/train*.parquet and PATH/test*.parquet")
    files = {"train": sorted(path.glob("train*.parquet"))}
    files["test"] = sorted(path.glob("test*.parquet")) or sorted(path.glob("val*.parquet"))
    for part, found in files.items():
        if not found:
            raise DatasetError(f"no {part}*.parquet in {path}")
    import datasets
    from pyarrow import ArrowException

    try:
        tables = {part: datasets.Dataset.from_parquet([str(f) for f in found]) for part, found in files.items()}
    except (ArrowException, OSError, datasets.exceptions.DatasetsError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise DatasetError(f"cannot read the Parquet files in {path}: {reason}") from error
    sizes = [f"{f.name}:{f.stat().st_size}\n" for found in files.values() for f in found]
    return _from_tables(name, tables, image_size, fingerprint("".join(sizes)))


def load_hub(name: str, repository: str, image_size: int | None) -> ImageData:
    """A dataset of the Hub, from its cache where there is no network; the fingerprint is that of ``datasets``."""
    import datasets

    try:
        loaded = datasets.load_dataset(repository)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0]
        raise DatasetError(
            f"cannot load {repository!r} from the Hub, which needs the network or a copy under HF_HOME; "
            f"parquet:PATH reads files put by hand ({reason})"
        ) from error
    parts = {"train": "train", "test": next((p for p in ("test", "validation", "val") if p in loaded), "test")}
    for part in parts.values():
        if part not in loaded:
            raise DatasetError(f"{repository} has no {part} split, only {', '.join(loaded)}")
    tables = {part: loaded[split] for part, split in parts.items()}
    digest = fingerprint(*[table._fingerprint for table in tables.values()])
    return _from_tables(name, tables, image_size, digest)


def _from_tables(name: str, tables: dict[str, Any], image_size: int | None, digest: str) -> ImageData:
    import datasets

    columns = tables["train"].column_names
    image, label = _column(name, columns, _IMAGE_COLUMNS), _column(name, columns, _LABEL_COLUMNS)
    labels = {part: torch.as_tensor(table[label][:], dtype=torch.long) for part, table in tables.items()}
    if any(len(values) and int(values.min()) < 0 for values in labels.values()):
        raise DatasetError(f"{name} has negative labels: an unlabelled split cannot be evaluated")
    feature = tables["train"].features[label]
    count = int(labels["train"].max()) + 1
    classes = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else tuple(map(str, range(count)))
    check_classes(name, labels["train"], labels["test"], classes)
    raw = {part: table.cast_column(image, datasets.Image(decode=False)) for part, table in tables.items()}
    first = _Reader(raw["train"], image, name)(0)
    native = first.width if first.width == first.height and first.width <= _RESIDENT_SIDE else None
    size = image_size or native or 224
    splits = {}
    for part, table in raw.items():
        reader = _Reader(table, image, name)
        positions = torch.arange(len(table))
        if size == native:
            images = torch.stack([square(reader(i), size) for i in range(len(table))])
            splits[part] = Split(ResidentImages(images), labels[part], positions)
        else:
            splits[part] = Split(LazyImages(reader, round(size * STORAGE_FACTOR)), labels[part], positions)
    return ImageData(name, splits["train"], splits["test"], classes, 3, size, digest)


class _Reader:
    """Decodes the image at a row; a class, so that worker processes can take it along."""

    def __init__(self, table: Any, column: str, name: str) -> None:
        self.table, self.column, self.name = table, column, name

    def __call__(self, index: int) -> Image.Image:
        cell = self.table[index][self.column]
        content = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
        try:
            image = Image.open(io.BytesIO(content))
            image.load()
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DatasetError(f"cannot decode the image in row {index} of {self.name}: {error}") from error
        return image


def _column(name: str, columns: list[str], wanted: tuple[str, ...]) -> str:
    for column in wanted:
        if column in columns:
            return column
    raise DatasetError(f"{name} has no column {wanted[0]!r}{did_you_mean(wanted[0], columns)}")
