"""Tables of images that ``datasets`` keeps in memory-mapped files: Parquet files, and what the Hub was asked for.

One column holds encoded images of any size, another the labels; nothing that a dataset brings along is executed.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmje_bench.datasets.assembly import TEST_NAMES, assemble
from gmje_bench.datasets.base import FingerprintKind, ImageData, fingerprint
from gmje_bench.datasets.columns import IMAGE_COLUMNS, LABEL_COLUMNS, check_labels, holds_bytes, pick_column, reason
from gmje_bench.datasets.labels import number_labels
from gmje_bench.errors import DatasetError

__all__ = ["from_tables", "load_parquet", "unlabelled"]

_HASHED_BYTES = 2**30


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
            raise DatasetError(f"cannot read {', '.join(map(str, files))}: {reason(error)}") from error
    return from_tables(name, tables, image_size)


def _parquet_files(path: Path) -> dict[str, list[Path]]:
    if path.is_file():
        return {"train": [path]}
    try:
        if not path.is_dir():
            raise DatasetError(f"no folder {path}; parquet:PATH needs PATH/train*.parquet and PATH/test*.parquet")
        for folder in (path, path / "data"):
            found = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
            train = [file for file in found if file.name.startswith("train")]
            test = next((t for n in TEST_NAMES if (t := [f for f in found if f.name.startswith(n)])), [])
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
        raise DatasetError(f"{file} is truncated or not a Parquet file: {reason(error)}") from error


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


def from_tables(name: str, tables: dict[str, Any], image_size: int | None) -> ImageData:
    """A dataset of tables that ``datasets`` has loaded.

    Args:
        name: The name of the dataset.
        tables: The parts ``train`` and, where there is one, ``test``.
        image_size: The same as in :func:`load_parquet`.

    Raises:
        DatasetError: a table is empty, or lacks images or labels.
    """
    columns = tables["train"].column_names
    image, label = (pick_column(name, columns, wanted) for wanted in (IMAGE_COLUMNS, LABEL_COLUMNS))
    for table in tables.values():
        for column in (image, label):
            pick_column(name, table.column_names, (column,))
    if not len(tables["train"]):
        raise DatasetError(f"{name} has no training images")
    classes, labels = _labels(name, tables, label)
    readers = {part: _RowReader(table, image, f"{name} ({part})") for part, table in tables.items()}
    return assemble(name, readers, labels, classes, image_size, _fingerprint(readers, labels))


class _RowReader:
    """Gives the encoded image of a row; other processes open the same memory-mapped file."""

    def __init__(self, table: Any, column: str, name: str) -> None:
        self.table = table if table._indices is None else table.flatten_indices()
        self.column, self.name = column, name
        self.nested = holds_bytes(name, column, self.arrow.type)

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
    for part in values.values():
        check_labels(name, column, part, feature)
    names = None
    if isinstance(feature, datasets.ClassLabel):
        other = next((t.features[column] for t in tables.values() if t.features[column] != feature), feature)
        if getattr(other, "names", None) != feature.names:
            raise DatasetError(f"column {column!r} of {name} names other classes in test than in train")
        names = feature.names
    return number_labels(name, values, names)


def unlabelled(table: Any, column: str) -> bool:
    """Whether a table of ``datasets`` lacks the column of labels, or has rows without one."""
    import pyarrow.compute as pc

    if column not in table.column_names:
        return True
    values = table.data.column(column)
    return values.null_count > 0 or (str(values.type).startswith("int") and (pc.min(values).as_py() or 0) < 0)
