"""Measure what reading costs before anything is decoded: files of a folder, tar and Parquet shards, in training order.

    python benchmarks/shards.py FOLDER [--rounds 5] [--batch-size 256]

FOLDER is an image folder, such as `imagenet_like.py` makes. Its shards are written below the system's temporary folder.
Times are CPU seconds of this process, which other processes of the machine change little; kinds take turns, and the
median of the rounds is printed.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.base import ImageData
from gmje_bench.datasets.order import EpochOrder
from gmje_bench.datasets.reading import LazyImages
from gmje_bench.datasets.writing import write_shards

_ROW_GROUP = 100


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of an action, and what it gives."""
    start = time.process_time()
    found = action()
    return time.process_time() - start, found


def write_parquet(data: ImageData, folder: Path) -> None:
    """The images of a dataset, mixed, in one Parquet file for each part."""
    folder.mkdir()
    for part, split in (("train", data.train), ("val", data.test)):
        order = torch.randperm(split.n, generator=torch.Generator().manual_seed(0))
        reader = split.source.reader
        content = [reader.read(position)[0].read_bytes() for position in split.positions[order].tolist()]
        table = pa.table({"image": content, "label": split.labels[order].tolist()})
        pq.write_table(table, folder / f"{part}.parquet", row_group_size=_ROW_GROUP)


def read(data: ImageData, batch_size: int, epoch: int) -> int:
    """Read the encoded images of an epoch in the order of training, and count their bytes."""
    source, split = data.train.source, data.train
    assert isinstance(source, LazyImages)
    order = EpochOrder(seed=0, epoch=epoch, steps=split.n // batch_size, batch_size=batch_size)
    batches = [split.positions[b] for b in order.batches(split.n, source.blocks(split.positions))]
    count = 0
    for positions, parts in zip(batches, source._divided(batches, 1), strict=True):
        for places, done in parts:
            for content, _ in source.encoded(positions[places], done):
                count += len(content if isinstance(content, bytes) else content.read_bytes())
    return count


def main() -> None:
    """Write shards, index them and read them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folder = load_dataset(f"imagefolder:{options.folder}", image_size=224)
        total, n = folder.train.n + folder.test.n, folder.train.n
        writing, _ = timed(lambda: write_shards(options.folder, place / "tar", 1000))
        write_parquet(folder, place / "parquet")
        sets = {"folder": folder}
        print(f"{total} images; written as tar shards: {1e6 * writing / total:.0f} us an image")
        for kind in ("tar", "parquet"):
            spec = f"shards:{place / kind}"
            first, sets[kind] = timed(lambda spec=spec: load_dataset(spec, image_size=224, root=place))  # type: ignore[misc]
            again, _ = timed(lambda spec=spec: load_dataset(spec, image_size=224, root=place))  # type: ignore[misc]
            print(f"{kind}: opened in {first:.3f} s with its index to be made, {again:.3f} s with it there")
        seconds: dict[str, list[float]] = {kind: [] for kind in sets}
        for epoch in range(options.rounds):
            for kind, data in sets.items():
                spent, count = timed(lambda data=data, epoch=epoch: read(data, options.batch_size, epoch))  # type: ignore[misc]
                seconds[kind].append(spent)
        print(f"read, {count / n / 1000:.0f} kB an image; CPU microseconds an image, median of {options.rounds}:")
        for kind, values in seconds.items():
            print(f"  {kind:<8} {1e6 * statistics.median(values) / (n // options.batch_size * options.batch_size):.0f}")


if __name__ == "__main__":
    main()
