"""The files of a model, read with suspicion: bounded, strict, never through a link, never unpickled.

Errors are found from the configuration and the header of the weights, before memory is taken for the weights
themselves.
"""

import hashlib
import json
import math
import os
import re
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gmje_core.errors import ConfigError
from gmje_core.models.config import GMJEConfig
from gmje_core.models.preprocessing import Preprocessing
from gmje_hub.errors import CorruptModelError, ModelNotFoundError, UnsafeWeightsError

__all__ = [
    "CONFIG",
    "LARGEST_DOCUMENT",
    "LARGEST_HEADER",
    "LARGEST_JSON",
    "MODEL_FILES",
    "PREPROCESSOR",
    "README",
    "WEIGHTS",
    "ModelFiles",
    "TensorInfo",
    "brief",
    "check_complete",
    "check_digest",
    "check_name",
    "digest_of",
    "parse_file",
    "read_bounded",
    "read_config",
    "read_files",
    "read_folder",
]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PREPROCESSOR = "preprocessor_config.json"
README = "README.md"

#: Files that a model is loaded from; the preprocessing may be missing.
MODEL_FILES = (CONFIG, WEIGHTS, PREPROCESSOR)
#: Most bytes that a configuration or a preprocessing may have.
LARGEST_JSON = 2**16
#: Most bytes that a card, an evaluation or a figure may have.
LARGEST_DOCUMENT = 2**22
#: Most bytes that the header of the weights may have.
LARGEST_HEADER = 2**20
MOST_TENSORS = 2**13
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
Parsed = TypeVar("Parsed")
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TensorInfo:
    """One entry of a safetensors header.

    Attributes:
        dtype: Name of the type in safetensors, such as ``F32``.
        shape: Sizes of the tensor.
        nbytes: Size in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class ModelFiles:
    """The checked contents of a model's files; the weights are still on disk.

    Attributes:
        config: The configuration.
        weights: Path of the safetensors file.
        tensors: The tensors that its header promises, by name.
        header_bytes: Bytes before the first tensor.
        preprocessing: How images are presented; ``None`` where the files do not say.
        digest: Hash that the weights must have; ``None`` where no download cache knows it.
    """

    config: GMJEConfig
    weights: Path
    tensors: Mapping[str, TensorInfo]
    header_bytes: int
    preprocessing: Preprocessing | None = None
    digest: str | None = None

    @property
    def parameters(self) -> int:
        """Numbers in all tensors together."""
        return sum(math.prod(info.shape) for info in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Size of the weights' file."""
        return self.header_bytes + sum(info.nbytes for info in self.tensors.values())

    def read_weights(self) -> bytes:
        """The weights' file, whole, of the size that its header says and the hash that is known.

        Raises:
            CorruptModelError: it has another size or another hash.
        """
        content = read_bounded(self.weights, self.nbytes)
        if len(content) != self.nbytes:
            raise CorruptModelError(f"{self.weights} has {len(content)} bytes instead of {self.nbytes}")
        check_digest(self.weights, content, self.digest)
        return content


def read_folder(folder: Path) -> ModelFiles:
    """The model of a local folder.

    Args:
        folder: A folder with ``config.json``, ``model.safetensors`` and perhaps ``preprocessor_config.json``, all
            plain files.

    Raises:
        ModelNotFoundError: no such folder, or a file is missing.
        UnsafeWeightsError: only pickled weights.
        CorruptModelError: links, oversized, damaged or unfitting files; named.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"no folder {str(folder)!r}; from_pretrained reads what save_pretrained wrote")
    names = {entry.name for entry in os.scandir(folder)}
    if CONFIG not in names and (models := sorted(path.parent for path in folder.glob(f"models/*/{CONFIG}"))):
        found = ", ".join(path.relative_to(folder).as_posix() for path in models)
        raise ModelNotFoundError(f"{folder} is no model itself; the models in it are {found}")
    check_complete(str(folder), names)
    return read_files(folder / CONFIG, folder / WEIGHTS, folder / PREPROCESSOR if PREPROCESSOR in names else None)


def check_complete(place: str, names: set[str]) -> None:
    """Check that the files of a model are among the names.

    Args:
        place: Name of the folder or repository, for messages.
        names: Names of all files there.

    Raises:
        ModelNotFoundError: one is missing.
        UnsafeWeightsError: there are pickled weights in their stead.
    """
    pickled = sorted(name for name in names if Path(name).suffix in PICKLED_SUFFIXES)
    if WEIGHTS not in names and pickled:
        raise UnsafeWeightsError(
            f"{place} holds pickled weights only ({', '.join(pickled[:3])}), which could run code when loaded; "
            f"convert them to {WEIGHTS}"
        )
    for name in (CONFIG, WEIGHTS):
        if name not in names:
            raise ModelNotFoundError(f"{place} has no {name}; a model is a folder with {CONFIG} and {WEIGHTS}")


def check_name(name: str) -> str:
    """The name of a file in a repository, unless it could lead out of a folder.

    Raises:
        CorruptModelError: absolute, with ``..``, a backslash, a drive or a control character.

    Examples:
        >>> check_name(".eval_results/gmje-cifar10.yaml")
        '.eval_results/gmje-cifar10.yaml'
        >>> check_name("../../.bashrc")
        Traceback (most recent call last):
        ...
        gmje_hub.errors.CorruptModelError: the repository names a file '../../.bashrc', which leads out of its folder
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or re.search(r"[\\:\x00-\x1f]", name):
        raise CorruptModelError(f"the repository names a file {name!r}, which leads out of its folder")
    return name


def read_files(config: Path, weights: Path, preprocessor: Path | None = None) -> ModelFiles:
    """Read and check the files of a model.

    Args:
        config: A plain file; where it lies in a download cache under its hash, the hash is checked.
        weights: A plain file, of which only the header is read.
        preprocessor: A plain file, checked like ``config``; ``None`` where there is none.

    Raises:
        CorruptModelError: a file is damaged, hostile or does not fit; the text names it.
    """
    parsed = read_config(config)
    preprocessing = None
    if preprocessor is not None:
        preprocessing = parse_file(preprocessor, Preprocessing.from_json)
        try:
            preprocessing.check_fits(parsed)
        except ConfigError as error:
            raise CorruptModelError(f"{preprocessor}: {error}") from error
    tensors, header_bytes = _read_header(weights)
    return ModelFiles(parsed, weights, tensors, header_bytes, preprocessing, digest_of(weights))


def read_config(path: Path) -> GMJEConfig:
    """The configuration in a file.

    Raises:
        CorruptModelError: it holds none, or it lies in a download cache under another hash than its own.
    """
    return parse_file(path, GMJEConfig.from_json)


def read_bounded(path: Path, limit: int) -> bytes:
    """A plain file of at most so many bytes; links, pipes and devices are refused.

    Raises:
        CorruptModelError: another kind of file, or a larger one.
        ModelNotFoundError: no such file.
    """
    with _open(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise CorruptModelError(f"{path} has {size} bytes; at most {limit} can be right")
        content: bytes = stream.read(limit + 1)
        return content


def check_digest(path: Path, content: bytes, digest: str | None) -> None:
    """Check a file's content against the hash that a cache keeps it under.

    Args:
        path: Path of the file, for the message.
        content: The whole content.
        digest: SHA-256 of the content, or git's SHA-1 of it as a blob; ``None`` checks nothing.

    Raises:
        CorruptModelError: the content has another hash.
    """
    if digest is None:
        return
    found = (
        hashlib.sha256(content).hexdigest()
        if len(digest) == 64
        else hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    )
    if found != digest:
        raise CorruptModelError(
            f"{path} has the hash {found} instead of {digest}: it was changed or cut short; "
            "force_download=True fetches it anew"
        )


def brief(error: BaseException) -> str:
    """The text of an error in one line of bounded length, because a hostile file may hold long names."""
    line = " ".join(str(error).split())
    return line if len(line) <= 500 else line[:500] + "..."


def parse_file(path: Path, parse: Callable[[str], Parsed], limit: int = LARGEST_JSON) -> Parsed:
    """The value that a small JSON file describes.

    Args:
        path: A plain file; where it lies in a download cache under its hash, the hash is checked.
        parse: Function of the text, which raises :class:`~gmje_core.errors.ConfigError` for a wrong text.
        limit: Most bytes that the file may have.

    Raises:
        CorruptModelError: another kind of file, a larger one, or a text that ``parse`` refuses.
    """
    content = read_bounded(path, limit)
    check_digest(path, content, digest_of(path))
    try:
        return parse(content.decode("utf-8"))
    except (ConfigError, UnicodeDecodeError) as error:
        raise CorruptModelError(f"{path}: {brief(error)}") from error


def digest_of(path: Path) -> str | None:
    """The hash that a download cache keeps a file under; ``None`` for a file with another name."""
    name = path.name
    return name if _SHA1.fullmatch(name) or _SHA256.fullmatch(name) else None


def _open(path: Path) -> Any:
    """Open a file for reading, without following a link and without waiting for a pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"no file {path}") from error
    except OSError as error:
        reason = "it is a link" if path.is_symlink() else error.strerror
        raise CorruptModelError(f"{path} is not read: {reason}; a model's files must be plain files") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CorruptModelError(f"{path} is not read: it is not a plain file")
    return os.fdopen(descriptor, "rb")


def _read_header(path: Path) -> tuple[dict[str, TensorInfo], int]:
    """The header of a safetensors file, which must account for every byte of it."""
    with _open(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise _not_whole(path, f"a header of {length} bytes in a file of {size}")
        text = stream.read(length)
    try:
        header = json.loads(text)
        if len(header) > MOST_TENSORS:
            raise ValueError(f"{len(header)} tensors")
        tensors = {name: _tensor(name, entry) for name, entry in header.items() if name != "__metadata__"}
        ranges = sorted(tuple(entry["data_offsets"]) for name, entry in header.items() if name != "__metadata__")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _not_whole(path, f"a header that is not one ({type(error).__name__}: {brief(error)})") from error
    end = 0
    for first, last in ranges:
        if first != end:
            raise _not_whole(path, f"tensors that overlap or leave a hole at byte {end}")
        end = last
    if 8 + length + end != size:
        raise _not_whole(path, f"{8 + length + end} bytes by its header, {size} on disk")
    return tensors, 8 + length


def _tensor(name: str, entry: Any) -> TensorInfo:
    dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = [*shape, first, last]
    if any(type(number) is not int or not 0 <= number < 2**48 for number in numbers) or len(shape) > 8:
        raise ValueError(f"{name!r} has sizes or offsets out of range")
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"{name!r} has the unknown dtype {dtype!r}")
    nbytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if last - first != nbytes:
        raise ValueError(f"{name!r} takes {last - first} bytes instead of {nbytes}")
    return TensorInfo(dtype, tuple(shape), nbytes)


def _not_whole(path: Path, reason: str) -> CorruptModelError:
    return CorruptModelError(f"{path} is not a whole safetensors file: {reason}")
