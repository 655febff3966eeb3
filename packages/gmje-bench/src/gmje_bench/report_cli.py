"""``report``, ``compare``, ``validate`` and ``doctor``: what is looked at after a run.

Heavy modules are imported where needed.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from gmje_bench.errors import OptionError, RunFolderError

__all__ = ["compare", "doctor", "report", "validate"]


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    output: Annotated[Path | None, typer.Option(help="The page's file.  [default: report.html in the folder]")] = None,
    reference: Annotated[
        str | None, typer.Option(help="Test the others against this method.  [default: the best]")
    ] = None,
    task_file: Annotated[
        list[Path] | None, typer.Option(help="The Python file of a task of your own, for its section; repeatable.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write a run's results as one HTML page, and as Markdown, CSV and Parquet beside it.

    The exit status is 1 where a section of the page failed; the page says which, and everything else is written.
    """
    from gmje_bench.plugins import register_plugins
    from gmje_bench.report.page import Paths, write_report
    from gmje_bench.runs.reading import read_run

    register_plugins(None, task_file)
    paths = Paths.of(run, output)
    found = read_run(run)
    if not paths.html.parent.is_dir():
        raise OptionError(f"--output {output}: there is no folder {paths.html.parent}")
    try:
        broken = write_report(found, paths, reference=reference)
    except OSError as error:
        raise RunFolderError(f"cannot write {paths.html}: {error.strerror or error}") from error
    typer.echo(f"{paths.html} ({paths.html.stat().st_size / 2**20:.1f} MiB); {paths.csv.name}, {paths.parquet.name}")
    if show and typer.launch(str(paths.html)):
        typer.echo(f"no browser opened; the page is {paths.html.resolve()}", err=True)
    if broken:
        typer.echo(f"left out of {paths.html.name}: {'; '.join(broken)}", err=True)
        raise typer.Exit(1)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="One run folder, or two.")],
    reference: Annotated[str | None, typer.Option(help="Of one run: the method the others are compared with.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All metrics, not only the headlines.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the differences here.")] = None,
) -> None:
    """Paired differences with intervals and tests: of two runs, or of a run's methods and a reference."""
    from rich.console import Console

    from gmje_bench.compare import compare_methods, compare_runs, difference_table
    from gmje_bench.runs.reading import read_run

    if len(runs) > 2 or (len(runs) == 2) == (reference is not None):
        raise OptionError("compare takes two run folders, or one and --reference METHOD")
    results = [read_run(path).results for path in runs]
    if reference is None:
        differences, title = compare_runs(*results), f"{runs[1]} less {runs[0]}"
    else:
        differences, title = compare_methods(results[0], reference), f"{runs[0]}: methods less {reference}"
    if json_file is not None:
        from gmje_core.files import write_atomic

        text = json.dumps([difference._asdict() for difference in differences], indent=1) + "\n"
        try:
            write_atomic(json_file, text.encode())
        except OSError as error:
            raise OptionError(f"cannot write --json {json_file}: {error.strerror or error}") from error
    metrics = results[0].metrics
    shown = [d for d in differences if every or metrics[d.metric].headline]
    Console(width=None if sys.stdout.isatty() else 120).print(difference_table(shown, title))


def validate(
    run: Annotated[Path | None, typer.Argument(help="A run folder.")] = None,
    suite: Annotated[str | None, typer.Option(help="A suite by name, or a path that ends in .toml.")] = None,
    method_file: Annotated[
        list[Path] | None, typer.Option(help="The Python file of a method that the suite names; repeatable.")
    ] = None,
    task_file: Annotated[
        list[Path] | None, typer.Option(help="The Python file of a task that the suite names; repeatable.")
    ] = None,
) -> None:
    """Check that a run folder's results, or a suite's file, are whole and of this version's form."""
    if (run is None) == (suite is None):
        raise OptionError("validate takes a run folder, or --suite FILE.toml")
    if suite is not None:
        from gmje_bench.plugins import register_plugins
        from gmje_bench.suites import load_suite

        register_plugins(method_file, task_file)
        chosen = load_suite(suite)
        typer.echo(f"{suite} is valid: {chosen.summary}")
    if run is not None:
        from gmje_bench.runs import check_models
        from gmje_bench.runs.reading import read_run

        found = read_run(run)
        results = found.results
        if found.missing:
            raise RunFolderError(f"{run}: {found.missing[0]}")
        check_models(run, results)
        typer.echo(
            f"{run} is valid: suite {results.suite}, protocol v{results.protocol['version']}, "
            f"{len(results.records) + len(results.alignment)} records, {len(results.failed())} failed"
        )


def doctor(
    embeddings: Annotated[Path, typer.Argument(help="A .npy, .safetensors or .parquet file.")],
    target: Annotated[Path | None, typer.Argument(help="Embeddings of the same images' other views.")] = None,
    key: Annotated[str | None, typer.Option(help="Tensor or column, where a file has several.")] = None,
) -> None:
    """Say whether embeddings have collapsed, and by what evidence: exit status 0 healthy, 1 not."""
    from gmje_bench.doctor import diagnose, read_embeddings

    found = diagnose(*(read_embeddings(path, key=key) for path in (embeddings, target) if path is not None))
    typer.echo(f"{found.verdict.name}: {found.rows} embeddings of size {found.dim}")
    for name, value in found.evidence.items():
        typer.echo(f"  {name.replace('_', ' '):<22} {value:.4g}")
    typer.echo(found.verdict.advice)
    if found.verdict.name != "healthy":
        raise typer.Exit(1)
