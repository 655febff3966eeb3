"""The command line: ``run``, ``list``, ``report`` and others. Heavy modules are imported where needed."""

import os
import shlex
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gmje_bench.datasets.cli import shards
from gmje_bench.errors import BenchError, OptionError
from gmje_bench.evaluation.cli import evaluate
from gmje_bench.report_cli import compare, doctor, report, validate

if TYPE_CHECKING:
    from gmje_bench.suites import Suite

__all__ = ["app", "main"]

app = typer.Typer(
    name="gmje_bench",
    help="Standardised benchmarks for Gaussian (Mixture) Joint Embeddings and their baselines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def run(
    context: typer.Context,
    suite: Annotated[str, typer.Option(help="A suite by name, or a path that ends in .toml.")] = "vision",
    dataset: Annotated[str | None, typer.Option(help="A dataset by name; `list` shows them.")] = None,
    methods: Annotated[str | None, typer.Option(help="Methods, separated by commas, or 'all'.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks, separated by commas, or 'all'.")] = None,
    backbone: Annotated[str | None, typer.Option(help="smallconv, resnet18, resnet34, resnet50, timm:NAME.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a global batch, over all processes.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, separated by commas; one run of every method each.")] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/SUITE-TIME]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in the folder.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output, or start it.")] = False,
    limit: Annotated[int | None, typer.Option(help="At most so many training images, or pairs.")] = None,
    held_out_classes: Annotated[
        str | None, typer.Option(help="Classes kept from training, separated by commas, as outliers.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels that networks see.")] = None,
    mixed_precision: Annotated[str | None, typer.Option(help="no, bf16 or fp16; densities stay in float32.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that decode images of files.  [default: the cores to spare]")
    ] = None,
    online_probe: Annotated[
        bool | None, typer.Option("--online-probe", help="Train a linear classifier along, for the learning curves.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Processes: started where no launcher did, else checked.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Synthetic tasks at a time.  [default: one a core]")] = None,
    method_file: Annotated[
        list[Path] | None, typer.Option(help="A Python file with a method of your own; may be repeated.")
    ] = None,
    task_file: Annotated[
        list[Path] | None, typer.Option(help="A Python file with a task of your own, which is run too; repeatable.")
    ] = None,
    from_pretrained: Annotated[
        list[str] | None, typer.Option(help="Evaluate a model: org/name, org/name@REVISION or a folder; repeatable.")
    ] = None,
    publish: Annotated[
        str | None, typer.Option(help="Push the trained models to org/name (org/name-METHOD of several).")
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="Licence of the published weights: apache-2.0, mit, other, ...")
    ] = None,
    track: Annotated[str | None, typer.Option(help="tensorboard, trackio, wandb or another of Accelerate.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Write a profiler trace of every method.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting of the suite: training.tf32=false; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run, its memory and all settings, and stop.")
    ] = False,
) -> None:
    """Train and evaluate the methods of a suite, and write a run folder."""
    from gmje_bench.datasets import check_name
    from gmje_bench.plugins import register_plugins
    from gmje_bench.runs import check_resumable, check_run_folder
    from gmje_bench.suites import load_suite
    from gmje_bench.suites.overrides import with_overrides

    own = register_plugins(method_file, task_file)
    models = _register_models(from_pretrained)
    loaded = load_suite(suite)
    synthetic = loaded.dataset is None
    names = _chosen(methods, "methods", synthetic=synthetic)
    task_names = _chosen(tasks, "tasks", synthetic=synthetic)
    if own and synthetic:
        raise OptionError("--task-file is for suites of images; synthetic tasks are this package's own")
    if own:
        task_names = list(dict.fromkeys([*(loaded.tasks if task_names is None else task_names), *own]))
    chosen = loaded.replace(
        dataset=dataset,
        methods=[*(names or []), *models] if models else names,
        tasks=task_names,
        backbone=backbone,
        epochs=epochs,
        batch_size=batch_size,
        seeds=None if seeds is None else _integers("--seeds", seeds),
        limit=limit,
        held_out_classes=None if held_out_classes is None else _names(held_out_classes),
        image_size=image_size,
        mixed_precision=mixed_precision,
        workers=workers,
        online_probe=online_probe,
    )
    chosen = with_overrides(chosen, settings or [])
    if chosen.dataset is not None:
        check_name(chosen.dataset)
    if jobs is not None and jobs < 1:
        raise OptionError(f"--jobs must be at least 1, got {jobs}")
    if resume and (overwrite or output is None):
        raise OptionError("--resume goes with the --output of the run to go on with, and without --overwrite")
    _check_launch()
    name = Path(suite).stem
    folder = output or Path("runs") / f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if _is_main():
        if resume:
            check_resumable(folder)
        else:
            check_run_folder(folder, overwrite=overwrite)
    _check_publish(publish, license)
    if dry_run:
        if _is_main():
            from gmje_bench.planning.dry_run import describe

            if track is not None:
                from gmje_bench.training.profiling import check_trackers

                check_trackers(track)
            required = chosen.dataset != loaded.dataset
            typer.echo(describe(chosen, name=name, folder=folder, processes=processes, required=required))
        return
    if processes is not None and processes > 1 and not _launched():
        from gmje_bench.launching import start_processes

        raise typer.Exit(start_processes([sys.executable, "-m", "gmje_bench", *context.obj], processes))
    _run(
        chosen,
        name=name,
        output=folder,
        command=shlex.join(["python", "-m", "gmje_bench", *sys.argv[1:]]),
        mode="resume" if resume else "overwrite" if overwrite else "new",
        processes=processes,
        track=track,
        profile=profile,
        jobs=jobs,
        publish=publish,
        license=license,
    )


def _run(suite: "Suite", publish: str | None, license: str | None, **launch: Any) -> None:
    """Run, print the tables and publish."""
    from rich.console import Console

    from gmje_bench import engine
    from gmje_bench.report import rich_table
    from gmje_bench.training.interrupts import Interrupted

    try:
        results = engine.run(suite, engine.Launch(**launch))
    except (KeyboardInterrupt, Interrupted) as stop:
        folder = launch["output"]
        _fail(
            f"stopped; what had finished is in {folder}, and the same command with --output {folder} --resume goes on",
            "",
        )
        raise typer.Exit(128 + getattr(stop, "signal", 2)) from None
    if _is_main():
        Console(width=None if sys.stdout.isatty() else 120).print(rich_table(results))
        for record in results.failed():
            typer.echo(f"failed: {record.describe()}: {record.error}")
        typer.echo(f"results in {launch['output']}")
        if publish is not None:
            from gmje_bench.publishing import publish_models

            for line in publish_models(launch["output"], results, publish, license):
                typer.echo(line)
    if results.failed():
        raise typer.Exit(1)


app.command()(evaluate)
app.command()(shards)
app.command()(report)
app.command()(compare)
app.command()(validate)
app.command()(doctor)


@app.command("list")
def list_(
    method_file: Annotated[list[Path] | None, typer.Option(help="A Python file with a method of your own.")] = None,
    task_file: Annotated[list[Path] | None, typer.Option(help="A Python file with a task of your own.")] = None,
) -> None:
    """List suites, methods, tasks and datasets."""
    from gmje_bench.datasets import DATASETS
    from gmje_bench.methods import METHODS
    from gmje_bench.plugins import register_plugins
    from gmje_bench.suites import SYNTHETIC_TASKS, load_suite, suite_names
    from gmje_bench.tasks import TASKS

    register_plugins(method_file, task_file)
    sections = {
        "suites": [(name, load_suite(name).summary) for name in suite_names()],
        "methods": [(method.name, method.summary) for method in METHODS.values()],
        "tasks": [(task.name, task.summary) for task in TASKS.values()],
        "synthetic tasks": [(name, "") for name in SYNTHETIC_TASKS],
        "datasets": [(d.name, d.summary + (" (downloads)" if d.needs_network else "")) for d in DATASETS],
    }
    for title, rows in sections.items():
        typer.echo(title)
        for name, summary in rows:
            typer.echo(f"  {name:<20} {summary}".rstrip())


@app.command()
def schema() -> None:
    """Print the JSON schema of results.json."""
    import json

    from gmje_bench.runs import Results

    typer.echo(json.dumps(Results.model_json_schema(), indent=2))


def main(arguments: list[str] | None = None) -> int:
    """Run a command and give its exit status.

    The status is 0 if all is done, 1 if a method failed, 2 for an error that the user can correct, 130 after Ctrl-C.

    Args:
        arguments: Arguments of the command line; where missing, those that the process was started with.
    """
    before, warnings.formatwarning = warnings.formatwarning, _warning_line
    try:
        # With standalone_mode off, errors reach this function, which prints each as one line.
        given = sys.argv[1:] if arguments is None else arguments
        status = app(given, standalone_mode=False, obj=given)
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
    finally:
        warnings.formatwarning = before


def _warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"warning: {message}\n" if _is_main() else ""


def _fail(text: str, label: str = "error: ") -> int:
    if _is_main():
        line = " ".join(text.split())
        typer.echo(f"{label}{line}", err=True)
    return 2


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _chosen(text: str | None, kind: str, *, synthetic: bool) -> list[str] | None:
    """Split the names of an option; ``all`` stands for every name of the kind, on images or synthetic."""
    if text is None:
        return None
    from gmje_bench.methods import METHODS
    from gmje_bench.suites import RIVALS, SYNTHETIC_TASKS
    from gmje_bench.tasks import TASKS

    names = _names(text)
    if names != ["all"]:
        return names
    images = {"methods": list(METHODS), "tasks": list(TASKS)}
    return {"methods": list(RIVALS), "tasks": list(SYNTHETIC_TASKS)}[kind] if synthetic else images[kind]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _register_models(names: list[str] | None) -> list[str]:
    if not names:
        return []
    from gmje_bench.methods.pretrained import register_model

    return [register_model(name).name for name in names]


def _check_publish(repo_id: str | None, license: str | None) -> None:
    """Check, before anything is trained, that the name, the licence and the token can be used for a push."""
    if repo_id is None:
        if license is not None:
            raise OptionError("--license is of what --publish publishes")
        return
    from gmje_hub import HubError
    from gmje_hub.card import check_metadata
    from gmje_hub.publish import require_repo_id
    from gmje_hub.remote import check_login

    try:
        require_repo_id(repo_id)
        check_metadata({"license": license})
        if _is_main():
            check_login()
    except HubError as error:
        raise OptionError(f"--publish {repo_id}: {error}") from error


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
            f"accelerate was asked for {wanted} processes but started one, as it does on CPUs; start them with `python "
            f"-m gmje_bench run --processes {wanted} ...`, or ask for one"
        )


def _launched() -> bool:
    """Whether accelerate or torchrun started this process."""
    return "WORLD_SIZE" in os.environ or _launcher(_parent_command())


def _launcher(command: list[str]) -> bool:
    """Whether a command line is that of ``accelerate launch``."""
    return "launch" in command and any("accelerate" in part for part in command[: command.index("launch")])


def _wanted_processes(command: list[str]) -> int:
    """The number of processes that an ``accelerate launch`` command asks for; 1 for any other command."""
    if not _launcher(command):
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
    except OSError:  # The system has no /proc, or does not let this user read it.
        return []
