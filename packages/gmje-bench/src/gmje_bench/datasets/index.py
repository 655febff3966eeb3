"""An index says where each image of a set of shards lies and what its label is; it is made once and kept on disk.

It is a safetensors file in a cache, named by a hash of what it was made from, and never unpickled.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gmje_core.files import write_atomic

__all__ = ["Index", "IndexCache", "stamp"]

# A new number makes old files in caches go unused.
_VERSION = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Index:
    """What is known of the images of a set of shards without reading them.

    Attributes:
        tensors: Vectors by name; ``codes`` int64 ``(N,)`` is there for all kinds: places in ``values``.
        values: The distinct labels, all numbers or all names.
        facts: Plain data that depends on the kind of shards.
    """

    tensors: dict[str, Tensor]
    values: list[int | str]
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tensors["codes"])

    @property
    def labels(self) -> list[int | str]:
        """The labels of all images, in the order of the shards."""
        return [self.values[code] for code in self.tensors["codes"].tolist()]


@dataclass(frozen=True)
class IndexCache:
    """Indices in a folder, which are found again as long as the files that they were made from are the same.

    Attributes:
        folder: Where they are; it is made when an index is kept.

    Examples:
        >>> import tempfile, torch
        >>> cache = IndexCache(Path(tempfile.mkdtemp()))
        >>> made = cache.get(["tar", "a.tar"], lambda: Index({"codes": torch.tensor([0, 1, 0])}, [3, 7]))
        >>> cache.get(["tar", "a.tar"], lambda: None).labels
        [3, 7, 3]
    """

    folder: Path

    def get(self, identity: Sequence[Any], make: Callable[[], Index]) -> Index:
        """The index of the identity: read where it was kept, else made and kept.

        Where the folder cannot be written, the index is made each time, and a warning in the log says so.

        Args:
            identity: Plain data that the index depends on.
            make: A function that makes it.
        """
        key = hashlib.sha256(json.dumps([_VERSION, *identity]).encode()).hexdigest()
        path = self.folder / f"{key}.safetensors"
        try:
            with safe_open(path, "pt") as file:
                described = json.loads(file.metadata()["index"])
                return Index({name: file.get_tensor(name) for name in file.keys()}, **described)  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            index = make()
        described = json.dumps({"values": index.values, "facts": index.facts})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, save({n: t.contiguous() for n, t in index.tensors.items()}, {"index": described}))
        except OSError as error:
            _log.warning("cannot keep the index of shards in %s: %s", self.folder, error.strerror or error)
        return index


def stamp(file: Path) -> list[Any]:
    """What changes with a file: its path, its size in bytes and the time of its last change."""
    found = file.stat()
    return [str(file.absolute()), found.st_size, found.st_mtime_ns]
