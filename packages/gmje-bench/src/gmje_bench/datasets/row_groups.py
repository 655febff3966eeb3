"""Parquet shards read in place, on disk or on the Hub: a row group at a time, of the column of images alone.

A row cannot be read by itself. What reads many images therefore asks for those of a row group together, which the order
of training sees to; see :mod:`gmje_bench.datasets.blocks`.
"""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmje_bench.datasets.columns import IMAGE_COLUMNS, LABEL_COLUMNS, check_labels, holds_bytes, pick_column, reason
from gmje_bench.datasets.index import Index
from gmje_bench.datasets.opened import OpenFiles
from gmje_bench.errors import DatasetError

__all__ = ["RowGroupReader", "scan_parquet"]

#: Row groups that take more bytes are refused, because many of them are in memory at a time.
LARGEST_GROUP = 256 * 2**20
_THREADS = 8

_log = logging.getLogger(__name__)


def scan_parquet(name: str, files: Sequence[str]) -> Index:
    """The index of Parquet shards: footers and the column of labels are read, but no image.

    Args:
        name: The name of the dataset, for messages.
        files: Paths or URLs of the shards, in order.

    Returns:
        An index whose tensors are ``file``, ``group`` (within the file), ``rows`` and ``bytes`` (of the column of
        images, as stored), int64 ``(G,)``, of the row groups in order. Its facts are ``image``, the name of that
        column, and ``classes``, the names of the classes, or ``None`` where the files do not say.

    Raises:
        DatasetError: a file cannot be read, lacks the columns, or has row groups of more than 256 MiB.
    """
    _log.info("indexing %d Parquet shards; this is done once", len(files))
    with ThreadPoolExecutor(_THREADS) as threads:
        parts = list(threads.map(lambda file: _scan(name, file), files))
    first = parts[0]
    for part, file in zip(parts, files, strict=True):
        if (part.image, part.classes) != (first.image, first.classes):
            raise DatasetError(f"{file} has another column of images, or other classes, than {files[0]}")
    labels = [label for part in parts for label in part.labels]
    values = sorted(set(labels))
    place = {value: code for code, value in enumerate(values)}
    groups = [(number, *group) for number, part in enumerate(parts) for group in part.groups]
    columns = torch.tensor(groups, dtype=torch.int64).view(-1, 4).unbind(dim=1)
    tensors = dict(zip(("file", "group", "rows", "bytes"), columns, strict=True))
    tensors["codes"] = torch.tensor([place[label] for label in labels], dtype=torch.int64)
    return Index(tensors, values, {"image": first.image, "classes": first.classes})


class _Scanned(NamedTuple):
    """What the index needs of a file; a group is its number, its rows and its bytes."""

    image: str
    classes: list[str] | None
    groups: list[tuple[int, int, int]]
    labels: list[int | str]


def _scan(name: str, file: str) -> _Scanned:
    import datasets

    try:
        opened = open_parquet(file)
        schema, metadata = opened.schema_arrow, opened.metadata
        image, label = (pick_column(name, schema.names, wanted) for wanted in (IMAGE_COLUMNS, LABEL_COLUMNS))
        cells = opened.read(columns=[label], use_threads=False).column(label)
        features = datasets.Features.from_arrow_schema(schema)
        opened.close()
    except DatasetError:
        raise
    except Exception as error:  # Readers of foreign files, on disk or on the Hub, raise errors of many kinds.
        raise DatasetError(f"{file} is truncated, not a Parquet file, or out of reach: {reason(error)}") from error
    holds_bytes(name, image, schema.field(image).type)
    labels = cells.to_pylist()
    check_labels(name, label, labels, schema.field(label).type)
    places = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path.split(".")[0] == image]
    groups = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        size = sum(group.column(place).total_compressed_size for place in places)
        if size > LARGEST_GROUP:
            raise DatasetError(
                f"row group {number} of {file} takes {size / 2**20:.0f} MiB, and {LARGEST_GROUP // 2**20} MiB is the "
                "most that is read at once; parquet:PATH takes such files, at the price of a copy on disk"
            )
        groups.append((number, group.num_rows, size))
    return _Scanned(image, getattr(features[label], "names", None), groups, labels)


def open_parquet(file: str) -> Any:
    """An open Parquet file, of a path or of a URL such as ``hf://datasets/...``."""
    import fsspec
    import pyarrow.parquet as pq

    if "://" not in file:
        return pq.ParquetFile(file)
    # What is asked for is read in one request, and nothing ahead of it.
    stream = fsspec.open(file, "rb", cache_type="none").open()
    return pq.ParquetFile(stream)


class RowGroupReader:
    """Gives the encoded image of a row; the row group that holds it stays in memory until it is dropped.

    Args:
        files: Paths or URLs of the shards.
        index: Their index.
        name: The name of the part of the dataset, for messages.

    Attributes:
        starts: int64 ``(G + 1,)``, the first row of every row group, and the number of rows.
    """

    def __init__(self, files: Sequence[str], index: Index, name: str) -> None:
        self._files, self._column, self._name = list(files), index.facts["image"], name
        self._file, self._group = index.tensors["file"], index.tensors["group"]
        self.starts = torch.cat([torch.zeros(1, dtype=torch.int64), index.tensors["rows"].cumsum(0)])
        self._starts: list[int] = self.starts.tolist()
        self._opened = OpenFiles(open_parquet)
        self._held: dict[int, Any] = {}

    def block(self, positions: Tensor) -> Tensor:
        """The row groups int64 ``(b,)`` that hold the rows at ``positions`` ``(b,)``."""
        return torch.searchsorted(self.starts, positions, right=True) - 1

    def read(self, position: int) -> tuple[bytes, str]:
        """The encoded image, and what to call it in a message.

        Raises:
            DatasetError: the file cannot be read, or the row has no image.
        """
        block = bisect_right(self._starts, position) - 1
        if block not in self._held:
            self._held[block] = self._load(block)
        content = self._held[block][position - self._starts[block]].as_py()
        what = f"in row {position} of {self._name}"
        if content is None:
            raise DatasetError(f"there is no image {what}")
        return content, what

    def drop(self, block: int) -> None:
        """Give back the memory of a row group; it is read again if it is asked for."""
        self._held.pop(block, None)

    def _load(self, block: int) -> Any:
        file, group = self._files[int(self._file[block])], int(self._group[block])
        try:
            opened = self._opened.get(file)
            nested = holds_bytes(self._name, self._column, opened.schema_arrow.field(self._column).type)
            column = f"{self._column}.bytes" if nested else self._column
            cells = opened.read_row_group(group, columns=[column], use_threads=False).column(self._column)
        except Exception as error:  # Readers of foreign files, on disk or on the Hub, raise errors of many kinds.
            raise DatasetError(f"cannot read row group {group} of {file}: {reason(error)}") from error
        if nested:
            import pyarrow.compute as pc

            cells = pc.struct_field(cells, "bytes")
        return cells

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": {}}
