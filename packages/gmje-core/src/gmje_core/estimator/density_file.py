"""One safetensors file with a JSON header: written whole or not at all, read without unpickling anything.

Every fault of a file raises the same typed error, whose text names the file.
"""

import hashlib
import json
import os
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gmje_core.errors import DensityFileError
from gmje_core.files import write_atomic

__all__ = ["read_density", "write_density"]

# Version 2 names the options n_components and init_params.
_FORMAT, _VERSION = "gmje.JointEmbeddingMixture", 2


def write_density(path: str | os.PathLike[str], tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors and a JSON header; the file appears whole (temporary file, fsync, rename).

    Args:
        path: The file; an old one is replaced.
        tensors: Tensors by name; no two may share memory.
        header: Header of values that JSON knows.

    Raises:
        OSError: the file cannot be written there.
    """
    text = json.dumps(header, allow_nan=False)
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": _FORMAT, "version": str(_VERSION), "header": text, "sha256": _digest(stored, text)}
    content = save(stored, metadata)
    write_atomic(path, content)


def read_density(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors, onto the CPU, and the header that :func:`write_density` wrote.

    Raises:
        DensityFileError: the file is damaged, or is of another kind or version.
        OSError: there is no such file, or it cannot be read.
    """
    with open(path, "rb"):  # A missing file raises Python's own error here, before safetensors raises another.
        pass
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (`file` is no mapping)
    except (SafetensorError, UnicodeDecodeError) as error:
        raise DensityFileError(f"{path} is not a whole safetensors file: {error}") from error
    if metadata.get("format") != _FORMAT:
        kind = metadata.get("format", "no format")
        raise DensityFileError(f"{path} is no saved JointEmbeddingMixture: its header says {kind!r}, not {_FORMAT!r}")
    if metadata.get("version") != str(_VERSION):
        raise DensityFileError(
            f"{path} has version {metadata.get('version')!r} of its format, but this library reads version {_VERSION}"
        )
    if metadata.get("sha256") != _digest(tensors, metadata.get("header", "")):
        raise DensityFileError(f"{path} is damaged: its contents have another checksum than when it was written")
    try:
        header = json.loads(metadata.get("header", ""))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DensityFileError(f"{path} has a header that is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise DensityFileError(f"{path} has a header that is {type(header).__name__} instead of an object")
    return tensors, header


def _digest(tensors: dict[str, Tensor], header: str) -> str:
    """Checksum of the tensors and the header of a file."""
    digest = hashlib.sha256(header.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
