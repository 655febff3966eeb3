"""Tar shards in WebDataset's layout: the files of an image lie side by side and share a name up to its first dot.

An index holds offset and size of every image, so that any of them is read by itself. Nothing is unpacked.
"""

import hashlib
import json
import logging
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from gmje_bench.datasets.folder import SUFFIXES
from gmje_bench.datasets.index import Index
from gmje_bench.datasets.opened import OpenFiles
from gmje_bench.errors import DatasetError

__all__ = ["TarReader", "scan_tar"]

LABEL_KEYS = ("label", "cls", "labels", "fine_label")

_log = logging.getLogger(__name__)


def scan_tar(files: Sequence[Path]) -> Index:
    """The index of tar shards: every header is read, and the labels, but no image.

    A sample is ``KEY.jpg`` (or another ending of an image) with ``KEY.cls``, which holds a number or a name, or
    ``KEY.json``, which holds one under ``label``. Other files of a sample are passed over.

    Args:
        files: The shards, in order.

    Returns:
        An index whose tensors are ``shard``, ``offset`` and ``size``, int64 ``(N,)``, of the encoded images; its
        fact ``digest`` is a SHA-256 over keys, sizes and labels.

    Raises:
        DatasetError: a shard is truncated or not a tar file, or a sample lacks its image or its label.
    """
    _log.info("indexing %d tar shards; this is done once", len(files))
    places: list[tuple[int, int, int]] = []
    labels: list[str] = []
    digest = hashlib.sha256()
    for number, file in enumerate(files):
        try:
            for key, offset, size, label in _samples(file):
                places.append((number, offset, size))
                labels.append(label)
                digest.update(f"{key}\0{size}\0{label}\n".encode(errors="surrogateescape"))
        except tarfile.TarError as error:
            raise DatasetError(f"{file} is truncated or not a tar file: {error}") from error
        except OSError as error:
            raise DatasetError(f"cannot read {file}: {error.strerror or error}") from error
    found = torch.tensor(places, dtype=torch.int64).view(-1, 3)
    values, codes = _numbered(labels)
    tensors = {"shard": found[:, 0], "offset": found[:, 1], "size": found[:, 2], "codes": codes}
    return Index(tensors, values, {"digest": digest.hexdigest()})


def _samples(file: Path) -> Iterator[tuple[str, int, int, str]]:
    """Key, offset, size and label of every image of a shard."""
    key, image, label = "", None, None
    with tarfile.open(file, "r:") as archive:
        for member in _members(archive):
            folder, _, name = member.name.removeprefix("./").rpartition("/")
            stem, _, suffix = name.partition(".")
            if not member.isfile() or not stem or not suffix:
                continue
            own = f"{folder}/{stem}" if folder else stem
            if own != key:
                if key:
                    yield _whole(file, key, image, label)
                key, image, label = own, None, None
            suffix = suffix.lower()
            if f".{suffix}" in SUFFIXES:
                if image is not None:
                    raise DatasetError(f"sample {key} of {file} has two images")
                image = member.offset_data, member.size
            elif suffix == "cls":
                label = _content(archive, member).decode(errors="replace").strip()
            elif suffix == "json" and label is None:
                label = _label_of(file, key, _content(archive, member))
        if key:
            yield _whole(file, key, image, label)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members, none of which is kept; after the last one must come a block of zeros.

    The module ``tarfile`` takes a damaged header, or the end of a truncated file, for the end of the archive.
    """
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # A million of them would take a gigabyte.
        yield member
    stream = archive.fileobj
    assert stream is not None
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no member and no end at byte {archive.offset}")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None
    return stream.read()


def _label_of(file: Path, key: str, content: bytes) -> str | None:
    """The label in a sample's JSON; ``None`` where it has none."""
    try:
        found = json.loads(content)
    except ValueError as error:
        raise DatasetError(f"{key}.json of {file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        return None
    value = next((found[name] for name in LABEL_KEYS if name in found), None)
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) else None


def _whole(file: Path, key: str, image: tuple[int, int] | None, label: str | None) -> tuple[str, int, int, str]:
    if image is None:
        raise DatasetError(f"sample {key} of {file} has no image, such as {Path(key).name}.jpg, beside its other files")
    if not label:
        raise DatasetError(f"sample {key} of {file} has no label: no {Path(key).name}.cls, and no JSON with 'label'")
    return key, *image, label


def _numbered(labels: list[str]) -> tuple[list[int | str], Tensor]:
    """The distinct labels, as numbers where all of them are, and the place of each."""
    distinct = sorted(set(labels))
    place = {value: code for code, value in enumerate(distinct)}
    numbers = all(value.removeprefix("-").isdecimal() for value in distinct)
    values: list[int | str] = [int(value) for value in distinct] if numbers else list(distinct)
    return values, torch.tensor([place[label] for label in labels], dtype=torch.int64)


class TarReader:
    """Gives the encoded image at a position of indexed tar shards.

    Args:
        files: The shards.
        index: Their index.
    """

    def __init__(self, files: Sequence[Path], index: Index) -> None:
        self._files = [str(file) for file in files]
        self._shard, self._offset, self._size = (index.tensors[name] for name in ("shard", "offset", "size"))
        self._opened = OpenFiles(_open)

    def read(self, position: int) -> tuple[bytes, str]:
        """The encoded image, and what to call it in a message.

        Raises:
            DatasetError: the shard cannot be read, or has become shorter since it was indexed.
        """
        shard, offset, size = (int(part[position]) for part in (self._shard, self._offset, self._size))
        what = f"at byte {offset} of {self._files[shard]}"
        try:
            stream = self._opened.get(self._files[shard])
            stream.seek(offset)
            content = stream.read(size)
        except OSError as error:
            raise DatasetError(f"cannot read the image {what}: {error.strerror or error}") from error
        if len(content) < size:
            raise DatasetError(f"cannot read the image {what}: the file has become shorter since it was indexed")
        return content, what


def _open(name: str) -> BinaryIO:
    return open(name, "rb")
