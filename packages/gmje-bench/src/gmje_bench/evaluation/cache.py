"""Embeddings of models that were evaluated before, kept on disk, so that another task starts at once.

A file is named by a hash of everything that its numbers depend on: the model's weights and normalisation, the images,
and the constants of the protocol.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gmje_bench.engine.output import save_tensors
from gmje_bench.errors import RunFolderError

__all__ = ["EmbeddingCache", "cache_key", "default_cache"]


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
            save_tensors(tensors, self.path(key))
        except OSError as error:
            raise RunFolderError(
                f"cannot keep embeddings in {self.folder}: {error.strerror or error}; --no-cache goes without"
            ) from error
