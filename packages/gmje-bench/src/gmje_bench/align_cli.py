"""``align``: the alignment benchmark's command. Nothing heavy is imported before the options are read."""

import json
import os
import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from gmje_bench.errors import OptionError, RunFolderError, did_you_mean

if TYPE_CHECKING:
    from gmje_bench.alignment.engine import AlignmentResults, Picture

__all__ = ["align"]

_FILES = ("alignment.json", "alignment.csv", "alignment.png")
_DIMS = ("low", "lifted", "both")
_LIFTED = 16


def align(
    tasks: Annotated[str | None, typer.Option(help="Tasks, separated by commas.  [default: all eight]")] = None,
    methods: Annotated[str | None, typer.Option(help="Of mse, gje, gmje, mdn, by commas.  [default: all]")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas; means and intervals over them.")] = "0",
    dim: Annotated[str, typer.Option(help="low: one or two dimensions a view; lifted: 16, rotated; both.")] = "both",
    samples: Annotated[
        int, typer.Option(help="Training pairs; lifted tasks get two and a half times as many.")
    ] = 20_000,
    epochs: Annotated[int, typer.Option(help="Of the networks.")] = 20,
    jobs: Annotated[int | None, typer.Option(help="Tasks at a time.  [default: one a core]")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder.  [default: runs/alignment-TIME]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results in the folder.")] = False,
) -> None:
    """Measure conditional densities on fixed embeddings against a known truth; print the table, draw the picture."""
    if dim not in _DIMS:
        raise OptionError(f"unknown --dim {dim!r}{did_you_mean(dim, _DIMS)}")
    if jobs is not None and jobs < 1:
        raise OptionError(f"--jobs must be at least 1, got {jobs}")
    folder = output or Path("runs") / f"alignment-{datetime.now(UTC):%Y%m%d-%H%M%S}"

    from dataclasses import asdict

    from rich.console import Console

    from gmje_bench.alignment.engine import AlignmentResults, Options, evaluation_sizes, run
    from gmje_bench.alignment.report import rich_table
    from gmje_bench.alignment.rivals import RIVALS
    from gmje_bench.alignment.tasks import TASKS

    options = Options(
        tasks=_names(tasks, tuple(TASKS)),
        methods=_names(methods, tuple(RIVALS)),
        seeds=_seeds(seeds),
        dims={"low": (None,), "lifted": (_LIFTED,), "both": (None, _LIFTED)}[dim],
        samples=samples,
        epochs=epochs,
    )
    _prepare(folder, overwrite=overwrite)
    results = AlignmentResults(
        options=asdict(options),
        evaluation=evaluation_sizes(),
        versions=_versions(),
        command=shlex.join(["python", "-m", "gmje_bench", *sys.argv[1:]]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    results.records, pictures = run(
        options, jobs or len(os.sched_getaffinity(0)), lambda line: typer.echo(line, err=True)
    )
    _write(folder, results, pictures)
    Console(width=None if sys.stdout.isatty() else 150).print(rich_table(results))
    typer.echo(f"results in {folder}")
    for record in results.failed():
        place = record.task if record.dim is None else f"{record.task} in {record.dim} dimensions"
        typer.echo(f"failed: {record.method} on {place}, seed {record.seed}: {record.error}")
    if results.failed():
        raise typer.Exit(1)


def _write(folder: Path, results: "AlignmentResults", pictures: "list[Picture]") -> None:
    from gmje_bench.alignment.figure import draw_alignment
    from gmje_bench.alignment.report import to_csv
    from gmje_bench.runs import write_atomic

    text = json.dumps(results.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"
    write_atomic(folder / _FILES[0], _writer(text))
    write_atomic(folder / _FILES[1], _writer(to_csv(results)))
    if pictures:
        draw_alignment(
            pictures, [r for r in results.records if r.seed == results.options["seeds"][0]], folder / _FILES[2]
        )


def _writer(text: str) -> Callable[[IO[bytes]], int]:
    return lambda stream: stream.write(text.encode())


def _prepare(folder: Path, *, overwrite: bool) -> None:
    """Make the folder, or find that it holds results, before minutes of fitting."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = [name for name in _FILES if (folder / name).exists()]
        if present and not overwrite:
            raise RunFolderError(f"{folder} holds {', '.join(present)}; choose another --output or add --overwrite")
        for name in present:
            (folder / name).unlink()
        (folder / ".probe").touch()
        (folder / ".probe").unlink()
    except OSError as error:
        raise RunFolderError(f"cannot write {folder}: {error.strerror or error}") from error


def _names(text: str | None, every: tuple[str, ...]) -> tuple[str, ...]:
    return every if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(f"--seeds takes integers separated by commas, such as 0,1,2; got {text!r}") from error


def _versions() -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in ("gmje-core", "gmje-bench", "torch", "numpy")}
