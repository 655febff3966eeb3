"""Datasets of the Hugging Face Hub: fetched whole, or read in place.

What is read in place are Parquet files, a row group at a time, by requests for ranges of bytes; nothing but an index is
kept on disk. The streams of ``datasets`` itself are not used: a shuffled one that is stopped and resumed loses the
images in its buffer, and its processes get unequal shares of unequal shards.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from gmje_bench.datasets.assembly import TEST_NAMES
from gmje_bench.datasets.base import ImageData
from gmje_bench.datasets.columns import LABEL_COLUMNS, pick_column, reason
from gmje_bench.datasets.index import Index, IndexCache
from gmje_bench.datasets.names import HubName
from gmje_bench.datasets.row_groups import scan_parquet
from gmje_bench.datasets.shards import INDEX_FOLDER, from_row_groups
from gmje_bench.datasets.table import from_tables, unlabelled
from gmje_bench.errors import DatasetError, did_you_mean

__all__ = ["load", "load_in_place"]

Answer = TypeVar("Answer")


def load(name: str, hub: HubName, image_size: int | None) -> ImageData:
    """A dataset of the Hub, or its copy in the cache below ``HF_HOME`` where there is no network.

    The test part is the first of ``test``, ``validation`` and ``val`` that has labels; of a dataset without one, a
    fifth of every class of ``train``.

    Args:
        name: The name of the dataset.
        hub: Its name on the Hub.
        image_size: Side in pixels that networks see; ``None`` for the images' own where they are small squares,
            else 224.

    Raises:
        DatasetError: the dataset cannot be fetched, or does not hold labelled images.
    """
    import datasets

    loaded = _ask(name, hub, partial(datasets.load_dataset, hub.repository, name=hub.config, revision=hub.revision))
    _check_train(hub, loaded)
    tables = {"train": loaded["train"]}
    label = pick_column(name, loaded["train"].column_names, LABEL_COLUMNS)
    for part in TEST_NAMES:
        if part in loaded and "test" not in tables and not unlabelled(loaded[part], label):
            tables["test"] = loaded[part]
    return from_tables(name, tables, image_size)


def load_in_place(name: str, hub: HubName, image_size: int | None, root: Path) -> ImageData:
    """A dataset of the Hub whose Parquet files are read there, and never fetched whole.

    The parts are those of :func:`load`. The index (rows of the files and labels) is made once for a commit.

    Args:
        name: The name of the dataset.
        hub: Its name on the Hub.
        image_size: The same as in :func:`load`.
        root: Folder of downloaded sets, where the index is kept.

    Raises:
        DatasetError: the Hub cannot be reached, or the dataset is not in Parquet files or does not hold labelled
            images.
    """
    import datasets

    ask = partial(datasets.load_dataset_builder, hub.repository, name=hub.config, revision=hub.revision)
    builder = _ask(name, hub, ask)
    found = {str(part): [str(file) for file in files] for part, files in (builder.config.data_files or {}).items()}
    other = next((file for files in found.values() for file in files if not file.endswith(".parquet")), None)
    if other is not None or not found:
        kind = f"{other} is no Parquet file" if other else "it names no files"
        raise DatasetError(
            f"{name} cannot be read in place, because {kind}; hf-stream:{hub.repository}@refs/convert/parquet reads "
            f"the copy that the Hub makes of most datasets, and hf:{hub.repository} fetches the dataset"
        )
    _check_train(hub, found)
    cache = IndexCache(root / INDEX_FOLDER)
    files, indices = {}, {}
    for part in ("train", *TEST_NAMES):
        own = "train" if part == "train" else "test"
        if part in found and own not in files:
            index = _index(name, found[part], cache)
            if own == "train" or not any(isinstance(value, int) and value < 0 for value in index.values):
                files[own], indices[own] = found[part], index
    features = builder.info.features or {}
    declared = next((features[column] for column in LABEL_COLUMNS if column in features), None)
    return from_row_groups(name, files, indices, image_size, getattr(declared, "names", None))


def _index(name: str, files: list[str], cache: IndexCache) -> Index:
    import fsspec

    def state(file: str) -> list[Any]:
        # An address with a commit in it always means the same bytes.
        if re.search(r"@[0-9a-f]{40}/", file):
            return [file]
        system, path = fsspec.core.url_to_fs(file)
        return [file, system.ukey(path)]

    try:
        identity = ["parquet", *map(state, files)]
    except Exception as error:  # File systems raise errors of many kinds.
        raise DatasetError(f"cannot look at the files of {name}: {reason(error)}") from error
    return cache.get(identity, partial(scan_parquet, name, files))


def _check_train(hub: HubName, parts: Any) -> None:
    if "train" not in parts:
        raise DatasetError(f"{hub.repository} has no train split, only {', '.join(map(str, parts))}")


def _ask(name: str, hub: HubName, ask: Callable[[], Answer]) -> Answer:
    """What the Hub's client answers; its errors become one line that says what would be right."""
    try:
        with _no_retry_notes():
            return ask()
    except Exception as error:  # The client of the Hub and its transport raise errors of many kinds.
        configs = _configs(error)
        prefix = name.partition(":")[0]
        if configs and hub.config is None:
            raise DatasetError(
                f"{hub.repository} has several configurations: write {prefix}:{hub.repository}:CONFIG"
                f"{did_you_mean('', configs)}"
            ) from error
        if configs and hub.config not in configs:
            raise DatasetError(
                f"{hub.repository} has no configuration {hub.config!r}{did_you_mean(str(hub.config), configs)}"
            ) from error
        what = hub.repository if hub.revision is None else f"{hub.repository}@{hub.revision}"
        raise DatasetError(
            f"cannot load {what!r} from the Hugging Face Hub ({reason(error)}); that needs the network or a copy in "
            "the cache below HF_HOME; parquet:PATH and shards:PATH read files put anywhere by hand"
        ) from error


def _configs(error: Exception) -> list[str]:
    """The configurations that ``datasets`` lists where none was named, or one that is not there.

    Examples:
        >>> _configs(ValueError("BuilderConfig 'x' not found. Available: ['full', 'tiny']"))
        ['full', 'tiny']
        >>> _configs(ValueError("other"))
        []
    """
    found = re.search(r"(?:available configs|Available): \[(.*?)\]", str(error))
    return re.findall(r"'([^']+)'", found[1]) if found else []


@contextmanager
def _no_retry_notes() -> Iterator[None]:
    """Silence the client, which would warn a dozen times without a network before the error that counts."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
