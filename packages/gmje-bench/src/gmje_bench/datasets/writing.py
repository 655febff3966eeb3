"""Tar shards are made of an image folder, so that a million small files become a hundred large ones."""

import io
import os
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from gmje_bench.datasets.folder import Listing, listings
from gmje_bench.datasets.shards import CLASSES_FILE
from gmje_bench.errors import DatasetError, OptionError

__all__ = ["Written", "write_shards"]


class Written(NamedTuple):
    """What was written.

    Attributes:
        images: Number of images.
        shards: Number of tar files.
    """

    images: int
    shards: int


def write_shards(folder: Path, output: Path, images_per_shard: int = 10_000, seed: int = 0) -> Written:
    """Write the images of a folder as tar shards in WebDataset's layout.

    The files are copied as they are, ``KEY.jpg`` with ``KEY.cls``, which holds the number of the class; the names of
    the classes are in ``classes.txt``. Images of all classes are mixed, so that shards may be read one after the other.
    The same folder and seed give the same bytes. The output folder appears when it is whole.

    Args:
        folder: What ``imagefolder:PATH`` takes; of a folder without parts, the shards name no part either.
        output: The folder of the shards, which must not exist.
        images_per_shard: Largest number of images in a shard.
        seed: Seed of the order of the images.

    Raises:
        OptionError: the output exists, or the number is below 1.
        DatasetError: the folder cannot be read, or the output cannot be written.
    """
    if images_per_shard < 1:
        raise OptionError(f"a shard must hold at least one image, got {images_per_shard}")
    if output.exists():
        raise OptionError(f"{output} exists already; choose another folder, or remove it")
    train, test = listings(folder)
    parts = {"images": train} if test is None else {"train": train, "val": test}
    unfinished = output.parent / f".{output.name}.{uuid.uuid4().hex}"
    written = Written(0, 0)
    try:
        unfinished.mkdir(parents=True)
        (unfinished / CLASSES_FILE).write_text("".join(f"{name}\n" for name in train.classes))
        for part, listing in parts.items():
            labels = listing.labels_for(train.classes)
            order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
            shards = order.split(images_per_shard)
            for number, positions in enumerate(shards):
                _write(unfinished / f"{part}-{number:06}.tar", _files(listing, positions.tolist(), labels.tolist()))
            written = Written(written.images + len(order), written.shards + len(shards))
        os.rename(unfinished, output)
    except OSError as error:
        raise DatasetError(f"cannot write {output}: {error.filename or ''} {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return written


def _files(listing: Listing, positions: list[int], labels: list[int]) -> Iterator[tuple[str, bytes]]:
    """Name and content of both files of every image."""
    for position in positions:
        path = listing.path(position)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error
        yield f"{position:08}{path.suffix.lower()}", content
        yield f"{position:08}.cls", str(labels[position]).encode()


def _write(path: Path, files: Iterator[tuple[str, bytes]]) -> None:
    with open(path, "xb") as stream:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, content in files:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        stream.flush()
        os.fsync(stream.fileno())
