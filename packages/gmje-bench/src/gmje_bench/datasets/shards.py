"""Shards on disk, tar files in WebDataset's layout or Parquet files, read where they lie.

Any image of a tar shard is read by itself. Of Parquet shards a row group is the least that is read, so that training
goes through them in an order of its own, see :mod:`gmje_bench.datasets.blocks`.
"""

import glob
import re
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from gmje_bench.datasets.assembly import TEST_NAMES, assemble
from gmje_bench.datasets.base import ImageData, fingerprint
from gmje_bench.datasets.index import Index, IndexCache, stamp
from gmje_bench.datasets.labels import number_labels
from gmje_bench.datasets.names import braces
from gmje_bench.datasets.row_groups import RowGroupReader, scan_parquet
from gmje_bench.datasets.tar import TarReader, scan_tar
from gmje_bench.errors import DatasetError, did_you_mean

__all__ = ["CLASSES_FILE", "INDEX_FOLDER", "from_row_groups", "load"]

#: A file beside tar shards with the names of the classes, one a line, which the labels are numbers of.
CLASSES_FILE = "classes.txt"
#: Folder of indices below that of downloaded sets.
INDEX_FOLDER = "indices"
_KINDS = (".tar", ".parquet")
_WILD = re.compile(r"[*?\[{]")
_NEEDED = "shards:PATH needs PATH/train-*.tar and PATH/val-*.tar, or the same of Parquet files"


def load(name: str, place: str, image_size: int | None, root: Path) -> ImageData:
    """Shards of a folder or a pattern.

    A shard belongs to the part whose name, ``train``, ``test``, ``validation`` or ``val``, is a word of its file's
    name, or else of its folder's. Where all shards of a pattern belong to one part, a fifth of every class is held out.

    Args:
        name: The name of the dataset.
        place: A folder, whose folders are looked at too; or a pattern with ``*``, ``?``, ``[...]``, ``{000..146}`` or
            ``{train,val}``.
        image_size: Side in pixels that networks see; ``None`` for the images' own where they are small squares,
            else 224.
        root: Folder of downloaded sets, where the index of the shards is kept.

    Raises:
        DatasetError: a shard is missing or damaged, or a sample lacks its image or its label.
    """
    parts = _parts(place)
    kinds = {file.suffix for files in parts.values() for file in files}
    if len(kinds) > 1:
        raise DatasetError(
            f"{place} holds shards of two kinds, tar and Parquet; a pattern such as PATH/*.tar says which"
        )
    cache = IndexCache(root / INDEX_FOLDER)
    if kinds == {".tar"}:
        return _from_tars(name, parts, image_size, cache)
    shards = {part: [str(file) for file in files] for part, files in parts.items()}
    indices = {
        part: cache.get(["parquet", *_stamps(parts[part])], partial(scan_parquet, name, files))
        for part, files in shards.items()
    }
    return from_row_groups(name, shards, indices, image_size)


def from_row_groups(
    name: str,
    files: dict[str, list[str]],
    indices: dict[str, Index],
    image_size: int | None,
    classes: list[str] | None = None,
) -> ImageData:
    """A dataset of indexed Parquet shards.

    The fingerprint covers rows and sizes of all row groups, and the labels.

    Args:
        name: The name of the dataset.
        files: Paths or URLs of the shards of ``train`` and, where there is one, of ``test``.
        indices: Their indices.
        image_size: The same as in :func:`load`.
        classes: Names of the classes, where the files themselves do not say.

    Raises:
        DatasetError: a part is empty, or the parts have other classes.
    """
    named = [index.facts["classes"] for index in indices.values()]
    if any(names != named[0] for names in named):
        raise DatasetError(f"the column of labels of {name} names other classes in test than in train")
    found, labels = _numbered(name, indices, named[0] or classes)
    readers = {part: RowGroupReader(files[part], index, f"{name} ({part})") for part, index in indices.items()}
    covered: list[str | Tensor] = []
    for part, index in indices.items():
        covered += [part, index.tensors["rows"], index.tensors["bytes"], labels[part]]
    return assemble(name, readers, labels, found, image_size, (fingerprint(*covered), "sizes"))


def _from_tars(name: str, parts: dict[str, list[Path]], image_size: int | None, cache: IndexCache) -> ImageData:
    indices = {part: cache.get(["tar", *_stamps(files)], partial(scan_tar, files)) for part, files in parts.items()}
    classes, labels = _numbered(name, indices, _classes_beside(parts["train"][0]))
    readers = {part: TarReader(parts[part], index) for part, index in indices.items()}
    covered = [text for part, index in indices.items() for text in (part, str(index.facts["digest"]))]
    return assemble(name, readers, labels, classes, image_size, (fingerprint(*covered), "names and sizes"))


def _numbered(
    name: str, indices: dict[str, Index], names: list[str] | None
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    for part, index in indices.items():
        if not len(index):
            raise DatasetError(f"{name} has no {'training' if part == 'train' else part} images")
    kinds = {type(value) for index in indices.values() for value in index.values}
    if len(kinds) > 1 or (names is not None and kinds != {int}):
        raise DatasetError(f"labels of {name} must be numbers of classes everywhere, or names everywhere")
    return number_labels(name, {part: index.labels for part, index in indices.items()}, names)


def _classes_beside(shard: Path) -> list[str] | None:
    """The names in the classes' file beside a shard, or in the folder above; ``None`` where there is none."""
    for folder in (shard.parent, shard.parent.parent):
        try:
            return [line.strip() for line in (folder / CLASSES_FILE).read_text().splitlines() if line.strip()]
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"cannot read {folder / CLASSES_FILE}: {error}") from error
    return None


def _stamps(files: list[Path]) -> list[list[Any]]:
    try:
        return [stamp(file) for file in files]
    except OSError as error:
        raise DatasetError(f"cannot read {error.filename}: {error.strerror or error}") from error


def _parts(place: str) -> dict[str, list[Path]]:
    """The shards of ``train`` and, where they are apart, of ``test``."""
    pattern = bool(_WILD.search(place))
    files = _matching(place) if pattern else _inside(Path(place))
    by_part: dict[str, list[Path]] = {}
    for file in files:
        by_part.setdefault(_part(file), []).append(file)
    others = by_part.pop("", [])
    if not by_part:
        return {"train": others}
    if others:
        raise DatasetError(f"the name of {others[0]} has none of the words train, {', '.join(TEST_NAMES)}")
    test = next((part for part in TEST_NAMES if part in by_part), None)
    if "train" not in by_part:
        raise DatasetError(f"{place} has shards of {test}, but none whose name has the word train; {_NEEDED}")
    if test is None:
        if not (pattern or Path(place).is_file()):
            example = by_part["train"][0]
            raise DatasetError(
                f"{place} has training shards but none of {', '.join(TEST_NAMES)}; a pattern such as "
                f"shards:{example.parent}/*{example.suffix} holds out a fifth of every class"
            )
        return {"train": by_part["train"]}
    return {"train": by_part["train"], "test": by_part[test]}


def _part(file: Path) -> str:
    """The part that the name of a file says, or that of its folder; an empty text where neither does."""
    for text in (file.stem, file.parent.name):
        words = re.split(r"[^a-z]+", text.lower())
        if found := [word for word in words if word in ("train", *TEST_NAMES)]:
            return found[0]
    return ""


def _matching(pattern: str) -> list[Path]:
    files: set[Path] = set()
    for single in braces(pattern):
        found = [Path(match) for match in glob.glob(single)]
        if not found and not re.search(r"[*?\[]", single):
            raise DatasetError(f"no file {single}, which {pattern} asks for")
        files.update(file for file in found if file.suffix in _KINDS and file.is_file())
    if not files:
        raise DatasetError(f"no {' or '.join(f'*{kind}' for kind in _KINDS)} file matches {pattern}")
    return sorted(files)


def _inside(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in _KINDS:
            raise DatasetError(f"{path} is neither a .tar nor a .parquet file; {_NEEDED}")
        return [path]
    try:
        if not path.is_dir():
            siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            raise DatasetError(f"no folder {path}{did_you_mean(path.name, siblings[:20])}; {_NEEDED}")
        folders = [path, *(entry for entry in path.iterdir() if entry.is_dir())]
        found = sorted(entry for folder in folders for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"cannot read {error.filename or path}: {error.strerror or error}") from error
    if files := [file for file in found if file.suffix in _KINDS]:
        return files
    if packed := [file for file in found if file.name.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.xz"))]:
        raise DatasetError(f"{packed[0]} is compressed, and images of compressed shards cannot be read one by one")
    raise DatasetError(f"no *.tar or *.parquet in {path} or its folders; {_NEEDED}")
