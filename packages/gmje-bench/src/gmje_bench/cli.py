"""The command line: ``run``, ``align``, ``list`` and ``schema``. Heavy modules are imported where they are needed."""

import os
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from gmje_bench.align_cli import align
from gmje_bench.errors import BenchError, OptionError

__all__ = ["app", "main"]

app = typer.Typer(
    name="gmje_bench",
    help="Standardised benchmarks for Gaussian (Mixture) Joint Embeddings and their baselines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def run(
    suite: Annotated[str, typer.Option(help="A suite by name, or a path that ends in .toml.")] = "vision",
    dataset: Annotated[str | None, typer.Option(help="A dataset by name; `list` shows them.")] = None,
    methods: Annotated[str | None, typer.Option(help="Methods, separated by commas, or 'all'.")] = None,
    backbone: Annotated[str | None, typer.Option(help="smallconv, resnet18, resnet34, resnet50, timm:NAME.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a global batch, over all processes.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, separated by commas; one run of every method each.")] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/SUITE-TIME]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in the folder.")] = False,
    limit: Annotated[int | None, typer.Option(help="At most so many training images.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels that networks see.")] = None,
    mixed_precision: Annotated[str | None, typer.Option(help="no, bf16 or fp16; densities stay in float32.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that decode images.")] = None,
    processes: Annotated[int | None, typer.Option(help="Fail unless launched with so many processes.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, and stop.")] = False,
) -> None:
    """Train and evaluate the methods of a suite, and write a run folder."""
    from gmje_bench.datasets import check_name
    from gmje_bench.runs import check_run_folder
    from gmje_bench.suite import load_suite

    chosen = load_suite(suite).replace(
        dataset=dataset,
        methods=None if methods is None else _methods(methods),
        backbone=backbone,
        epochs=epochs,
        batch_size=batch_size,
        seeds=None if seeds is None else _integers("--seeds", seeds),
        limit=limit,
        image_size=image_size,
        mixed_precision=mixed_precision,
        workers=workers,
    )
    check_name(chosen.dataset)
    _check_launch()
    name = Path(suite).stem
    folder = output or Path("runs") / f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if _is_main():
        check_run_folder(folder, overwrite=overwrite)
    if dry_run:
        if _is_main():
            typer.echo(_describe(name, chosen.model_dump(), folder))
        return

    from rich.console import Console

    from gmje_bench import engine, report

    command = shlex.join(["python", "-m", "gmje_bench", *sys.argv[1:]])
    try:
        results = engine.run(chosen, name, folder, overwrite=overwrite, processes=processes, command=command)
    except KeyboardInterrupt:  # here, because what typer makes of it differs between its versions
        _fail(f"stopped; what had finished is in {folder}", "")
        raise typer.Exit(130) from None
    if _is_main():
        Console(width=None if sys.stdout.isatty() else 120).print(report.rich_table(results))
        typer.echo(f"results in {folder}")
    if results.failed():
        raise typer.Exit(1)


app.command("align")(align)


@app.command("list")
def list_() -> None:
    """List suites, methods and datasets."""
    from gmje_bench.datasets import DATASETS
    from gmje_bench.methods import METHODS
    from gmje_bench.suite import load_suite, suite_names

    sections = {
        "suites": [(name, load_suite(name).summary) for name in suite_names()],
        "methods": [(method.name, method.summary) for method in METHODS.values()],
        "datasets": [(d.name, d.summary + (" (downloads)" if d.needs_network else "")) for d in DATASETS],
    }
    for title, rows in sections.items():
        typer.echo(title)
        for name, summary in rows:
            typer.echo(f"  {name:<20} {summary}")


@app.command()
def schema() -> None:
    """Print the JSON schema of results.json."""
    import json

    from gmje_bench.runs import Results

    typer.echo(json.dumps(Results.model_json_schema(), indent=2))


def main(arguments: list[str] | None = None) -> int:
    """Run a command and give its exit status: 0 done, 1 a method failed, 2 a mistake of the user's, 130 Ctrl-C.

    Args:
        arguments: Of the command line; the process's own where missing.
    """
    try:
        # Not standalone: errors come here, to be one line each.
        status = app(arguments, standalone_mode=False)
        return status if isinstance(status, int) else 0
    except BenchError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        _fail("stopped; finished methods are in the run folder", "")
        return 130
    except typer.Exit as stop:
        return stop.exit_code
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            return 2
        return _fail(message())


def _fail(text: str, label: str = "error: ") -> int:
    if _is_main():
        line = " ".join(text.split())
        typer.echo(f"{label}{line}", err=True)
    return 2


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _methods(text: str) -> list[str]:
    from gmje_bench.methods import METHODS

    names = [name.strip() for name in text.split(",") if name.strip()]
    return list(METHODS) if names == ["all"] else names


def _integers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise OptionError(f"{option} takes integers separated by commas, such as 0,1,2; got {text!r}") from error


def _check_launch() -> None:
    """Refuse a launch that asked for several processes and silently got one.

    ``accelerate launch --cpu --num_processes 2`` starts one process without a word (accelerate#2741) and leaves no
    trace in the environment, so the command line of the process that started this one is what can be asked.
    """
    if "WORLD_SIZE" in os.environ:
        return
    wanted = _wanted_processes(_parent_command())
    if wanted > 1:
        raise OptionError(
            f"accelerate was asked for {wanted} processes but started one, as it does on CPUs; start them with "
            f"`torchrun --standalone --nproc_per_node {wanted} -m gmje_bench run ...`, or ask for one"
        )


def _wanted_processes(command: list[str]) -> int:
    """What an ``accelerate launch`` command asks for; 1 for any other command."""
    if "launch" not in command or not any("accelerate" in part for part in command[: command.index("launch")]):
        return 1
    launcher = command[: command.index("gmje_bench")] if "gmje_bench" in command else command
    for index, part in enumerate(launcher):
        option, _, value = part.partition("=")
        if option in ("--num_processes", "--num-processes"):
            value = value or (launcher[index + 1] if index + 1 < len(launcher) else "")
            return int(value) if value.isdecimal() else 1
    return 1


def _parent_command() -> list[str]:
    """The command line of the process that started this one; empty where it cannot be known."""
    try:
        return Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:  # not Linux, or not ours to read
        return []


def _describe(name: str, options: dict[str, Any], folder: Path) -> str:
    training, network = options["training"], options["network"]
    runs = len(options["methods"]) * len(options["seeds"])
    lines = [
        f"suite     {name}",
        f"dataset   {options['dataset']}" + (f", at most {options['limit']} images" if options["limit"] else ""),
        f"methods   {', '.join(options['methods'])}",
        f"seeds     {', '.join(map(str, options['seeds']))} ({runs} runs)",
        f"network   {network['backbone']}, embeddings of size {network['dim']}",
        f"training  {training['epochs']} epochs, batch {training['batch_size']}, {training['optimizer']}, "
        f"learning rate {training['learning_rate']:g}",
        f"output    {folder}",
    ]
    return "\n".join(lines)
