"""The command ``evaluate``: any model by any tasks, without training. Heavy modules are imported where needed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gmje_bench.errors import OptionError, RunFolderError
from gmje_core import GMJEError

if TYPE_CHECKING:
    from gmje_bench.evaluation.api import Evaluation

__all__ = ["evaluate"]


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(help="timm:NAME, torchvision:NAME, a folder such as RUN/models/METHOD-seed0, or org/name."),
    ],
    dataset: Annotated[str, typer.Option(help="A dataset by name; `list` shows them.")] = "fashion_mnist_12k",
    tasks: Annotated[str, typer.Option(help="Tasks, separated by commas, or 'all'.")] = "linear_probe,knn",
    task_file: Annotated[
        list[Path] | None, typer.Option(help="A Python file with a task of your own, which is run too; repeatable.")
    ] = None,
    method_file: Annotated[
        list[Path] | None, typer.Option(help="The Python file of a method that a model was trained by; repeatable.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels that the models see.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many training images.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of what tasks draw.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode images of files.  [default: the cores to spare]")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Do not fetch the weights of timm's and torchvision's models.")
    ] = False,
    cache: Annotated[Path | None, typer.Option(help="Folder of embeddings.  [default: in the user's cache]")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither look up embeddings nor keep them.")] = False,
    output: Annotated[Path | None, typer.Option(help="A JSON file for the numbers.")] = None,
    mixed_precision: Annotated[str, typer.Option(help="no, bf16 or fp16: what the models compute in.")] = "no",
) -> None:
    """Evaluate models by tasks, without training; embeddings are kept for the next time."""
    from gmje_bench.datasets import check_name, load_dataset
    from gmje_bench.plugins import register_plugins
    from gmje_bench.tasks import TASKS

    own = register_plugins(method_file, task_file)
    chosen = list(TASKS) if tasks == "all" else [name.strip() for name in tasks.split(",") if name.strip()]
    chosen += [name for name in own if name not in chosen]
    check_name(dataset)
    if cache is not None and no_cache:
        raise OptionError("--cache and --no-cache exclude each other")
    if output is not None and not output.absolute().parent.is_dir():
        raise RunFolderError(f"cannot write {output}: its folder does not exist")

    from gmje_bench.evaluation import api

    data = load_dataset(dataset, image_size=image_size, limit=limit)
    found, failed = [], []
    try:
        for model in models:
            typer.echo(f"evaluating {model}", err=True)
            try:
                found.append(
                    api.evaluate(
                        model,
                        data,
                        chosen,
                        seed=seed,
                        pretrained=not random_weights,
                        workers=workers,
                        cache=cache,
                        keep=not no_cache,
                        mixed_precision=mixed_precision,
                    )
                )
            except OptionError as error:  # The other models can still be evaluated.
                failed.append(error)
            except GMJEError as error:  # So they can where this one has collapsed.
                failed.append(OptionError(f"{model}: {error}"))
    finally:  # Whatever stops a model, the numbers of those before it stay.
        if found:
            show(found)
        if found and output is not None:
            write(found, output)
            typer.echo(f"numbers in {output}")
    for reason in failed[:-1]:
        typer.echo(f"error: {reason}", err=True)
    if failed:
        raise failed[-1]


def show(found: "list[Evaluation]") -> None:
    """Print a table: a row a model, a column a headline metric."""
    import sys

    from rich.console import Console
    from rich.table import Table

    from gmje_bench.runs.metrics import METRICS

    names = [name for name, metric in METRICS.items() if any(name in one.metrics for one in found)]
    shown = [name for name in names if METRICS[name].headline] or names
    table = Table("model", *(heading_of(name) for name in shown), "seconds")
    for one in found:
        cells = [f"{one.metrics[name]:.4g}" if name in one.metrics else "-" for name in shown]
        table.add_row(one.model, *cells, f"{sum(one.seconds.values()):.1f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def heading_of(name: str) -> str:
    """Title and unit of a metric."""
    from gmje_bench.runs.metrics import METRICS

    metric = METRICS[name]
    return f"{metric.title} [{metric.unit}]" if metric.unit else metric.title


def write(found: "list[Evaluation]", output: Path) -> None:
    """Write every number as JSON, whole or not at all.

    Raises:
        RunFolderError: the file cannot be written.
    """
    import json
    from dataclasses import asdict, replace

    from gmje_bench.protocol import PROTOCOL
    from gmje_core.files import write_atomic

    rows = [{k: v for k, v in asdict(replace(one, artifacts={})).items() if k != "artifacts"} for one in found]
    content = json.dumps({"protocol": PROTOCOL.version, "models": rows}, indent=2, allow_nan=False) + "\n"
    try:
        write_atomic(output, content.encode())
    except OSError as error:
        raise RunFolderError(f"cannot write {output}: {error.strerror or error}") from error
