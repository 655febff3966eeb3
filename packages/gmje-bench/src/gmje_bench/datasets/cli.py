"""The command ``shards``: an image folder becomes tar shards. Heavy modules are imported where needed."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["shards"]


def shards(
    folder: Annotated[Path, typer.Argument(help="An image folder, as imagefolder:PATH takes it.")],
    output: Annotated[Path, typer.Argument(help="The folder of the shards, which must not exist.")],
    images_per_shard: Annotated[int, typer.Option(help="Largest number of images in a shard.")] = 10_000,
) -> None:
    """Write an image folder as tar shards, which shards:PATH reads; the files are copied as they are."""
    from gmje_bench.datasets.writing import write_shards

    written = write_shards(folder.expanduser(), output.expanduser(), images_per_shard)
    typer.echo(f"{written.images} images in {written.shards} shards; read them with --dataset shards:{output}")
