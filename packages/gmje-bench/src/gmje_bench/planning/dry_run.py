"""The text of a dry run: what would run, in comments, and the settings in full, as TOML that a suite can be made of."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gmje_bench.methods import METHODS
from gmje_bench.suites import Suite
from gmje_bench.suites.files import to_toml

if TYPE_CHECKING:
    from gmje_bench.planning.preview import Memory

__all__ = ["describe"]


class World(NamedTuple):
    """The processes that a run would have."""

    num_processes: int
    gradient_accumulation_steps: int


def describe(suite: Suite, *, name: str, folder: Path, processes: int | None, required: bool) -> str:
    """Say what a run would do, after the same checks.

    Args:
        suite: What would run, with the options of the command line applied.
        name: The name of the suite.
        folder: The run folder.
        processes: For how many processes; ``None`` for those that were launched.
        required: Whether images that are not there are an error.

    Raises:
        BenchError: an error that the run would end with before it trained anything.
    """
    lines = [f"suite      {name}: {suite.summary}", f"output     {folder}"]
    if suite.dataset is not None:
        suite, more = _images(suite, processes or int(os.environ.get("WORLD_SIZE", "1")), required)
        lines += more
    if suite.synthetic is not None:
        work = len(suite.synthetic.tasks) * len(suite.synthetic.dims) * len(suite.seeds)
        lines.append(
            f"synthetic  {work} tasks on {suite.synthetic.samples} pairs, {suite.synthetic.epochs} epochs each"
        )
    values = suite.model_dump()
    # The settings of methods that would not run say nothing about the run.
    values["method"] = {key: table for key, table in values["method"].items() if key in suite.methods}
    if suite.dataset is None:
        values = {key: values[key] for key in ("summary", "seeds", "synthetic")}
    return "\n".join([*(f"# {' '.join(line.splitlines())}" for line in lines), "", to_toml(values)])


def _images(suite: Suite, processes: int, required: bool) -> tuple[Suite, list[str]]:
    """The resolved suite, and lines about its images, steps and memory."""
    from gmje_bench.planning.preview import check_builds, memory, resolved, shape_of
    from gmje_bench.training.schedule import plan

    shape = shape_of(suite, required=required)
    suite = resolved(suite, shape)
    training, batch = suite.training, suite.training.batch_size
    world = World(processes, int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS") or 1))
    schedule = plan(batch if shape.train is None else shape.train, training, world)
    steps = "unknown until the images are here"
    if shape.train is not None:
        warmup = training.warmup(schedule.steps_per_epoch)
        steps = f"{schedule.steps_per_epoch:,} an epoch, {schedule.total:,} a run, of which {warmup:,} of warm-up"
    runs = sum(1 if METHODS[method].pretrained else len(suite.seeds) for method in suite.methods)
    stem = ""
    if suite.network.backbone.startswith("resnet"):
        stem = f" with the stem for {'small' if suite.network.small_images else 'large'} images"
    found: dict[str, Memory] = {}
    check_builds(suite, shape, lambda method, module: found.update({method: memory(module, suite, shape, processes)}))
    return suite, [
        f"dataset    {suite.dataset}: {shape.describe()}",
        *([f"           {shape.note}"] if shape.note else []),
        f"runs       {runs}: {', '.join(suite.methods)}; seeds {', '.join(map(str, suite.seeds))}",
        f"steps      {steps}",
        f"batch      {batch} images, {batch // processes} in each of {processes} process(es)",
        f"rate       {training.optimizer} with {training.peak_rate:g} at the end of the warm-up",
        f"network    {suite.network.backbone}{stem}, embeddings of size {suite.network.dim}; "
        f"mixed precision: {training.mixed_precision}",
        "memory     of training in each process; weights, gradients and optimiser are counted, activations of one",
        "           forward pass are measured on the meta device; views and loss come on top",
        *(f"  {method:<12} {_memory_line(entry)}" for method, entry in found.items()),
    ]


def _memory_line(entry: "Memory") -> str:
    head = f"{entry.parameters / 1e6:.2f} M parameters"
    if not entry.trained:
        return f"{head}, {_size(entry.weights)} of weights; nothing is trained"
    activations = "activations not known" if entry.activations is None else f"{_size(entry.activations)} of activations"
    return (
        f"{head}: {_size(entry.total)} = {_size(entry.weights)} of weights, {_size(entry.gradients)} of gradients, "
        f"{_size(entry.optimizer)} of optimiser, {activations}"
    )


def _size(count: int) -> str:
    """Bytes as people read them.

    Examples:
        >>> _size(3_000_000), _size(5 * 2**30)
        ('2.9 MiB', '5.0 GiB')
    """
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
