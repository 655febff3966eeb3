"""Which images a folder holds. The listing of a large folder is kept on disk and made again when the folder changes."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from gmje_core.files import write_atomic

__all__ = ["SUFFIXES", "Listing", "listed"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})

_VERSION = 1
# Smaller folders are listed faster than a file of the cache is worth.
_KEPT_FROM = 10_000
# Times of folders may be no finer than this many nanoseconds: what has changed that recently may change unseen.
_SETTLED = 3 * 10**9
# So many files, spread evenly, must still have their size; each other one is looked at when it is read.
_CHECKED = 256

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of a folder, in order; file names as one array of bytes, which a million of them need.

    Attributes:
        folder: The folder, with one folder for each class.
        classes: Names of the classes, sorted.
        counts: Number of images of each class.
        names: Of every image, relative to the folder.
        sizes: int64 ``(N,)``, in bytes.
        cache: The file that this listing is kept in, if it is large; ``None`` where nothing is kept.
    """

    folder: Path
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    names: npt.NDArray[np.bytes_]
    sizes: npt.NDArray[np.int64]
    cache: Path | None = None

    def path(self, position: int) -> Path:
        """The file of an image."""
        return self.folder / os.fsdecode(bytes(self.names[position]))

    def labels_for(self, classes: tuple[str, ...]) -> torch.Tensor:
        """int64 ``(N,)``: the place of each image's class among others, -1 where it is not one of them."""
        place = {name: label for label, name in enumerate(classes)}
        labels = [place.get(name, -1) for name in self.classes]
        return torch.tensor(labels, dtype=torch.int64).repeat_interleave(torch.tensor(self.counts, dtype=torch.int64))

    def description(self) -> bytes:
        """Names and sizes of all images, to be hashed."""
        return b"\n".join(b"%s\0%d" % (name, size) for name, size in zip(self.names, self.sizes, strict=True))

    def forget(self) -> None:
        """Remove what is kept of this listing, so that the next one looks at the folder again."""
        if self.cache is not None:
            try:
                self.cache.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("cannot remove %s: %s", self.cache, error.strerror or error)


def listed(folder: Path, cache: Path | None = None) -> Listing:
    """List the images of a folder.

    A listing that is kept is used while the times of the folder and of all folders below are what they were, and a
    sample of the files have their size. Adding, removing or renaming a file changes the time of its folder. A file
    that is overwritten where it is does not; therefore readers compare the size of what they read.

    Args:
        folder: The folder.
        cache: The folder that listings of 10,000 images and more are kept in; ``None`` keeps nothing. Where it
            cannot be written a line is logged.

    Raises:
        OSError: the folder cannot be read.
    """
    file = None
    if cache is not None:
        key = os.fsencode(os.path.realpath(folder))
        file = cache / f"{hashlib.sha256(key).hexdigest()[:32]}.safetensors"
        if (kept := _kept(folder, file)) is not None:
            return kept
    times: dict[str, int] = {}
    listing = _scan(folder, times, file)
    settled = time.time_ns() - max(times.values()) > _SETTLED
    if file is not None and len(listing.names) >= _KEPT_FROM and settled:
        try:
            _keep(listing, times, file)
        except OSError as error:
            _log.warning(
                "cannot keep the listing of %s in %s: %s; every run lists it again",
                *(folder, file.parent, error.strerror or error),
            )
    return listing


def _scan(folder: Path, times: dict[str, int], cache: Path | None) -> Listing:
    """List a folder; ``times`` gets the time of every folder, taken before it was listed."""
    times[""] = os.stat(folder).st_mtime_ns
    with os.scandir(folder) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    found = [list(_images(folder / name, f"{name}/", times)) for name in classes]
    names = [os.fsencode(name) for members in found for name, _ in members]
    return Listing(
        folder,
        tuple(classes),
        tuple(len(members) for members in found),
        np.array(names, dtype=np.bytes_),
        np.array([size for members in found for _, size in members], dtype=np.int64),
        cache,
    )


def _images(folder: Path, prefix: str, times: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Relative name and size in bytes of every image below a folder, in the order of names."""
    times[prefix] = os.stat(folder).st_mtime_ns
    with os.scandir(folder) as entries:
        visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in visible:
        if entry.is_dir():
            yield from _images(Path(entry.path), f"{prefix}{entry.name}/", times)
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield f"{prefix}{entry.name}", entry.stat().st_size


def _keep(listing: Listing, times: dict[str, int], file: Path) -> None:
    width = listing.names.dtype.itemsize
    arrays: dict[str, npt.NDArray[Any]] = {
        "names": listing.names.view(np.uint8).reshape(-1, width),
        "sizes": listing.sizes,
        "counts": np.array(listing.counts, dtype=np.int64),
        "times": np.array(list(times.values()), dtype=np.int64),
    }
    texts = {"version": _VERSION, "classes": listing.classes, "folders": list(times)}
    file.parent.mkdir(parents=True, exist_ok=True)
    # Names that are no Unicode are escaped by JSON.
    write_atomic(file, save(arrays, {name: json.dumps(value) for name, value in texts.items()}))


def _kept(folder: Path, file: Path) -> Listing | None:
    """The listing as it was kept; ``None`` where there is none, it is damaged, or the folder has changed."""
    try:
        with safe_open(file, "np") as stream:
            arrays: dict[str, npt.NDArray[Any]] = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            texts = {name: json.loads(value) for name, value in stream.metadata().items()}
        if texts["version"] != _VERSION:
            return None
        raw = arrays["names"]
        listing = Listing(
            folder,
            tuple(texts["classes"]),
            tuple(arrays["counts"].tolist()),
            np.ascontiguousarray(raw).view(f"S{raw.shape[1]}").reshape(-1),
            arrays["sizes"],
            file,
        )
        times = dict(zip(texts["folders"], arrays["times"].tolist(), strict=True))
        whole = len(listing.sizes) == len(listing.names) == sum(listing.counts)
        return listing if whole and _unchanged(listing, times) else None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _unchanged(listing: Listing, times: dict[str, int]) -> bool:
    """Whether folders have the times, and a sample of the files the sizes, that they had."""
    if any(os.stat(listing.folder / name).st_mtime_ns != then for name, then in times.items()):
        return False
    sample = np.linspace(0, len(listing.names) - 1, min(_CHECKED, len(listing.names))).astype(int).tolist()
    return all(os.stat(listing.path(i)).st_size == listing.sizes[i] for i in sample)
