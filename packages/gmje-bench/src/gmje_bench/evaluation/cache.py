"""Embeddings of models that were evaluated before, kept on disk, so that another task starts at once.

A file is named by a hash of everything that its numbers depend on: the model's architecture, weights and normalisation,
the images, and the constants of the protocol.
"""

import hashlib
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from gmje_bench.datasets.base import Split
from gmje_bench.errors import RunFolderError
from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.subject import Embedded, Features
from gmje_core.files import write_atomic

__all__ = ["CachedSplits", "EmbeddingCache", "cache_key", "default_cache"]


def default_cache() -> Path:
    """Folder of embeddings: ``$GMJE_CACHE``, else ``gmje/embeddings`` in the user's cache."""
    if folder := os.environ.get("GMJE_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "gmje" / "embeddings"


def cache_key(**parts: Any) -> str:
    """SHA-256 over plain data, whatever its order.

    Examples:
        >>> cache_key(model="a", views=True) == cache_key(views=True, model="a")
        True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class EmbeddingCache:
    """Tensors by key in a folder, as safetensors files that are written whole or not at all.

    Attributes:
        folder: Where they are; it is made when something is kept.

    Examples:
        >>> import tempfile, torch
        >>> cache = EmbeddingCache(Path(tempfile.mkdtemp()))
        >>> cache.find("a"), cache.keep("a", {"z": torch.ones(2)})
        (None, None)
        >>> cache.find("a")
        {'z': tensor([1., 1.])}
    """

    folder: Path

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self.folder / f"{key}.safetensors"

    def find(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of a key; ``None`` where there are none, or where their file is damaged."""
        try:
            return load_file(self.path(key))
        except (OSError, SafetensorError):
            return None

    def keep(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Write the tensors of a key.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path(key), save({name: value.contiguous() for name, value in tensors.items()}))
        except OSError as error:
            raise RunFolderError(
                f"cannot keep embeddings in {self.folder}: {error.strerror or error}; --no-cache goes without"
            ) from error


@dataclass(frozen=True)
class CachedSplits:
    """The splits of one model in the cache; images are not kept, but read again.

    Attributes:
        cache: Where they are.
        identity: What tells this model on these images from all others, as plain data.
    """

    cache: EmbeddingCache
    identity: dict[str, Any]

    def key(self, views: bool) -> str:
        """The key of the splits."""
        return cache_key(**self.identity, views=views, protocol=PROTOCOL.to_dict())

    def find(self, splits: dict[str, Split], *, views: bool) -> dict[str, Features] | None:
        """The features of splits, or their embeddings of views, as they were kept; ``None`` where one was not."""
        held = self.cache.find(self.key(views))
        if held is None:
            return None
        found: dict[str, Features] = {}
        for name, split in splits.items():
            parts = {part: value for key, value in held.items() if (part := key.removeprefix(f"{name}.")) != key}
            if not parts:
                return None
            if not views:
                found[name] = Features(split.labels, **parts)
            else:
                found[name] = Embedded(labels=split.labels, images=split, **parts)
        return found

    def keep(self, splits: dict[str, Features], *, views: bool) -> None:
        """Keep splits; images and labels are left out.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        tensors = {
            f"{name}.{part.name}": getattr(split, part.name)
            for name, split in splits.items()
            for part in fields(split)
            if part.name not in ("labels", "images")
        }
        self.cache.keep(self.key(views), tensors)
