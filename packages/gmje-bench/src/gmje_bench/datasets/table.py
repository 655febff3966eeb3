"""Tables of images: Parquet files and datasets of the Hugging Face Hub, read through ``datasets``.

One column holds encoded images of any size, another the labels; nothing that a dataset brings along is executed.
"""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmje_bench.datasets.base import FingerprintKind, ImageData, Split, check_classes, fingerprint, unseen_classes
from gmje_bench.datasets.decoding import DEFAULT_SIZE, native_side
from gmje_bench.datasets.reading import LazyImages
from gmje_bench.datasets.selection import validation_split
from gmje_bench.errors import DatasetError, did_you_mean
from gmje_core.models.preprocessing import resize_side

__all__ = ["load_hub", "load_parquet"]

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_TEST_NAMES = ("test", "validation", "val")
_TEST_SHARE = 0.2
_HASHED_BYTES = 2**30

_log = logging.getLogger(__name__)


def load_parquet(name: str, path: Path, image_size: int | None) -> ImageData:
    """Parquet files with a column of images and one of labels.

    ``PATH/train*.parquet`` with ``PATH/test*.parquet`` or ``PATH/val*.parquet`` (or the same in ``PATH/data``); of a
    single file a fifth of every class becomes the test part.

    Args:
        name: The name of the dataset.
        path: The folder, or one file.
        image_size: Side in pixels that networks see; ``None`` for the images' own where they are small squares,
            else 224.

    Raises:
        DatasetError: a file is missing or truncated, or lacks the columns.
    """
    import datasets

    tables = {}
    for part, files in _parquet_files(path).items():
        if not sum(_rows(file) for file in files):
            raise DatasetError(f"{name} has no {'training' if part == 'train' else part} images")
        try:
            with _no_bars():
                tables[part] = datasets.Dataset.from_parquet([str(file) for file in files])
        except Exception as error:  # Readers of foreign files raise errors of many kinds.
            raise DatasetError(f"cannot read {', '.join(map(str, files))}: {_reason(error)}") from error
    return _from_tables(name, tables, image_size)


def load_hub(name: str, repository: str, image_size: int | None) -> ImageData:
    """A dataset of the Hub, or its copy in the cache below ``HF_HOME`` where there is no network.

    The test part is the first of ``test``, ``validation`` and ``val`` that has labels; of a dataset without one, a
    fifth of every class of ``train``.

    Args:
        name: The name of the dataset.
        repository: The name of the dataset on the Hub.
        image_size: The same as in :func:`load_parquet`.

    Raises:
        DatasetError: the dataset cannot be fetched, or does not hold labelled images.
    """
    import datasets

    try:
        with _no_retry_notes():
            loaded = datasets.load_dataset(repository)
    except Exception as error:  # The client of the Hub and its transport raise errors of many kinds.
        raise DatasetError(
            f"cannot load {repository!r} from the Hugging Face Hub ({_reason(error)}); that needs the network or a "
            "copy in the cache below HF_HOME; parquet:PATH reads files put anywhere by hand"
        ) from error
    if "train" not in loaded:
        raise DatasetError(f"{repository} has no train split, only {', '.join(loaded)}")
    tables = {"train": loaded["train"]}
    label = _column(name, loaded["train"], _LABEL_COLUMNS)
    for part in _TEST_NAMES:
        if part in loaded and "test" not in tables and not _unlabelled(loaded[part], label):
            tables["test"] = loaded[part]
    return _from_tables(name, tables, image_size)


def _parquet_files(path: Path) -> dict[str, list[Path]]:
    if path.is_file():
        return {"train": [path]}
    try:
        if not path.is_dir():
            raise DatasetError(f"no folder {path}; parquet:PATH needs PATH/train*.parquet and PATH/test*.parquet")
        for folder in (path, path / "data"):
            found = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
            train = [file for file in found if file.name.startswith("train")]
            test = next((t for n in _TEST_NAMES if (t := [f for f in found if f.name.startswith(n)])), [])
            if train and test:
                return {"train": train, "test": test}
            if found:
                missing = "test*.parquet (or val*.parquet)" if train else "train*.parquet"
                raise DatasetError(f"no {missing} in {folder}; of a single file, parquet:FILE holds out a fifth")
        next(path.iterdir(), None)  # To glob, a folder that cannot be read looks empty.
    except OSError as error:
        raise DatasetError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    raise DatasetError(f"no *.parquet in {path}; parquet:PATH needs PATH/train*.parquet and PATH/test*.parquet")


def _rows(file: Path) -> int:
    """The number of rows according to the footer, which a truncated file has lost."""
    import pyarrow
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(file).num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(f"{file} is truncated or not a Parquet file: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


@contextmanager
def _no_bars() -> Iterator[None]:
    """Turn off the progress bars of ``datasets``, because the harness shows its own."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@contextmanager
def _no_retry_notes() -> Iterator[None]:
    """Silence the client, which would warn a dozen times without a network before the error that counts."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _from_tables(name: str, tables: dict[str, Any], image_size: int | None) -> ImageData:
    image, label = (_column(name, tables["train"], wanted) for wanted in (_IMAGE_COLUMNS, _LABEL_COLUMNS))
    for table in tables.values():
        for column in (image, label):
            _column(name, table, (column,))
    if not len(tables["train"]):
        raise DatasetError(f"{name} has no training images")
    classes, labels = _labels(name, tables, label)
    readers = {part: _RowReader(table, image, f"{name} ({part})") for part, table in tables.items()}
    native = native_side(*readers["train"].read(0))
    size = image_size or native or DEFAULT_SIZE
    splits = {p: Split.whole(LazyImages(r, native or resize_side(size)), labels[p]) for p, r in readers.items()}
    if "test" not in splits:
        held = validation_split(splits["train"].labels, _TEST_SHARE)
        splits["train"], splits["test"] = (splits["train"].select(indices) for indices in held)
    check_classes(name, splits["train"].labels, splits["test"].labels, classes)
    digest, kind = _fingerprint(readers, labels)
    return ImageData(name, splits["train"], splits["test"], classes, 3, size, digest, kind)


class _RowReader:
    """Gives the encoded image of a row; other processes open the same memory-mapped file."""

    def __init__(self, table: Any, column: str, name: str) -> None:
        import pyarrow.types as types

        self.table = table if table._indices is None else table.flatten_indices()
        self.column, self.name = column, name
        kind = self.arrow.type
        self.nested = types.is_struct(kind) and "bytes" in [field.name for field in kind]
        if not (self.nested or types.is_binary(kind) or types.is_large_binary(kind)):
            raise DatasetError(f"column {column!r} of {name} holds {kind}, not encoded images")

    @property
    def arrow(self) -> Any:
        return self.table.data.column(self.column)

    def read(self, position: int) -> tuple[bytes | Path, str]:
        cell, what = self.arrow[position].as_py(), f"in row {position} of {self.name}"
        content = cell["bytes"] if self.nested and cell else cell
        if isinstance(content, bytes):
            return content, what
        if self.nested and cell and cell.get("path"):
            return Path(cell["path"]), what
        raise DatasetError(f"there is no image {what}")

    def lengths(self) -> Tensor:
        """Encoded bytes ``(N,)`` of every row, 0 where there are none."""
        import pyarrow.compute as pc

        values = pc.struct_field(self.arrow, "bytes") if self.nested else self.arrow
        return torch.tensor(pc.fill_null(pc.binary_length(values), 0).to_numpy(), dtype=torch.int64)


def _fingerprint(readers: dict[str, _RowReader], labels: dict[str, Tensor]) -> tuple[str, FingerprintKind]:
    """Over every encoded byte of up to 1 GiB, else over the lengths; with the labels. No path or date goes in."""
    lengths = {part: reader.lengths() for part, reader in readers.items()}
    parts: list[str | Tensor] = []
    content = sum(int(values.sum()) for values in lengths.values()) <= _HASHED_BYTES
    for part, reader in readers.items():
        parts += [part, labels[part], lengths[part]]
        if content:
            digest = hashlib.sha256()
            for position in range(len(lengths[part])):
                encoded, _ = reader.read(position)
                digest.update(encoded if isinstance(encoded, bytes) else encoded.read_bytes())
            parts.append(digest.hexdigest())
    return fingerprint(*parts), "content" if content else "sizes"


def _labels(name: str, tables: dict[str, Any], column: str) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Class names, and labels from 0 of every part."""
    import datasets

    feature = tables["train"].features[column]
    values = {part: table.data.column(column).to_pylist() for part, table in tables.items()}
    if any(isinstance(value, bool) or not isinstance(value, int | str) for part in values.values() for value in part):
        raise DatasetError(f"column {column!r} of {name} must hold class numbers or names in every row, not {feature}")
    if isinstance(feature, datasets.ClassLabel):
        other = next((t.features[column] for t in tables.values() if t.features[column] != feature), feature)
        if getattr(other, "names", None) != feature.names:
            raise DatasetError(f"column {column!r} of {name} names other classes in test than in train")
        classes, known = tuple(feature.names), list(range(len(feature.names)))
    else:
        known = sorted(set(values["train"]))
        classes = tuple(map(str, known))
    place = {value: label for label, value in enumerate(known)}
    if -1 in (lowest := {value for part in values.values() for value in part if isinstance(value, int) and value < 0}):
        raise DatasetError(f"{name} has images without a label (-1), which cannot be evaluated on")
    unseen = sorted(
        {str(value) for part in values.values() for value in part if value not in place} | set(map(str, lowest))
    )
    if unseen:
        raise unseen_classes(name, unseen)
    return classes, {part: torch.tensor([place[v] for v in vs], dtype=torch.int64) for part, vs in values.items()}


def _unlabelled(table: Any, column: str) -> bool:
    import pyarrow.compute as pc

    if column not in table.column_names:
        return True
    values = table.data.column(column)
    return values.null_count > 0 or (str(values.type).startswith("int") and (pc.min(values).as_py() or 0) < 0)


def _column(name: str, table: Any, wanted: tuple[str, ...]) -> str:
    for column in wanted:
        if column in table.column_names:
            return column
    raise DatasetError(f"{name} has no column {wanted[0]!r}{did_you_mean(wanted[0], table.column_names)}")
