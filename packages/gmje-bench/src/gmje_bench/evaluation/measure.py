"""Measuring a trained encoder by tasks.

All processes embed. Tasks that the registry calls ``everywhere`` are computed by all of them together, each on its own
rows of whole splits. The main process has all rows and runs the others; those on views see a bounded draw of the
images, see :mod:`gmje_bench.evaluation.splits`.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from gmje_bench.datasets.base import ImageData, Split
from gmje_bench.evaluation.cache import CachedSplits
from gmje_bench.evaluation.features import embed_split, extract_features, reduced_images
from gmje_bench.evaluation.pairs import PairsOf
from gmje_bench.evaluation.splits import viewed, viewed_splits
from gmje_bench.runs import METRICS, Record
from gmje_bench.tasks import TASKS
from gmje_bench.tasks.latent import latent_map, neighbours
from gmje_bench.tasks.rows import Team
from gmje_bench.tasks.subject import (
    PICTURE_SIDE,
    PICTURES,
    Embedded,
    Features,
    FeatureSubject,
    Subject,
    TaskError,
    TaskResult,
)
from gmje_bench.training.module import JointEmbedding
from gmje_core import diagnostics
from gmje_core.errors import CollapsedError

__all__ = ["Clock", "autocast_type", "measure"]


@dataclass
class Clock:
    """Wall-clock seconds of named stages."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time what is done inside."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)


def autocast_type(mixed_precision: str) -> torch.dtype | None:
    """The type of autocast of a mixed precision.

    Examples:
        >>> autocast_type("bf16"), autocast_type("no")
        (torch.bfloat16, None)
    """
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision)


def measure(
    record: Record,
    module: JointEmbedding,
    data: ImageData,
    tasks: Sequence[str],
    accelerator: Accelerator,
    *,
    workers: int | None = 0,
    cache: CachedSplits | None = None,
    precision: torch.dtype | None = None,
    pairs: PairsOf | None = None,
) -> dict[str, Tensor]:
    """Measure a trained module by tasks.

    Args:
        record: The record that gets metrics, choices and seconds, on the main process only.
        module: What was trained.
        data: The images.
        tasks: Names in :data:`gmje_bench.tasks.TASKS`.
        accelerator: Accelerate's object, which knows processes and devices.
        workers: Number of processes that decode images; ``None`` for the cores to spare.
        cache: Where features of this module are looked up and kept; nowhere if missing.
        precision: The type of autocast that the encoder computes in; ``None`` computes as the module does.
        pairs: Pairs of views of the training images, where a closing stage has them; else they are embedded where a
            task asks for them.

    Returns:
        The tensors that figures are drawn from, by names that begin with the task's; on the main process only.

    Raises:
        NonFiniteError: the features hold NaN or infinity.
        CollapsedError: the embeddings are all the same, which a task cannot take. The main process raises it last, when
            the record has the numbers of all other tasks.
        TaskError: a task gives what no record can hold.
    """
    clock = Clock(record.seconds)
    chosen = [TASKS[name] for name in tasks]
    views = any(task.views for task in chosen)
    how: dict[str, Any] = {"device": accelerator.device, "workers": workers}
    of_run = shared_by_methods(data)
    with clock("features"):
        whole, seen = _embedded(module, data, views, cache, precision=precision, **how)
        training = None
        if any(task.pairs for task in chosen):
            training = (pairs or PairsOf(module, data, record.seed, **how)).pairs
        if any(task.pictures for task in chosen) and PICTURES not in of_run:
            of_run[PICTURES] = reduced_images(viewed(data, "train").split, PICTURE_SIDE, **how)
    # Tasks compute in float64 too, which MPS does not have.
    device = torch.device("cpu") if accelerator.device.type == "mps" else accelerator.device
    options: dict[str, Any] = {"of_run": of_run, "team": Team.of_all(), "device": device}
    together = FeatureSubject(record.method, record.seed, data.classes, whole["train"], whole["test"], **options)
    results: dict[str, TaskResult] = {}
    if any(task.probe for task in chosen):
        with clock("probe"):
            _ = together.probe
    for task in (task for task in chosen if task.everywhere):
        with clock(task.name):
            results[task.name] = checked(task.name, task.load()(together))
    if not accelerator.is_main_process:
        return {}
    artifacts: dict[str, Tensor] = {}
    options["team"] = Team()
    alone = FeatureSubject(record.method, record.seed, data.classes, whole["train"], whole["test"], **options)
    on_views: Subject | None = None
    if views:
        parts = {name: part for name, part in seen.items() if isinstance(part, Embedded)}
        module.cpu()  # The embeddings are there.
        on_views = Subject(
            record.method,
            record.seed,
            data.classes,
            parts.pop("train"),
            parts.pop("test"),
            parts,
            module.density(),
            critic=module.critic_density(),
            pairs=training,
            views=module.views(data),
            predict=module.predict,
            **options,
        )
        with clock("latent_map"):
            artifacts |= _looked_at(on_views)
    if "probe" in vars(together):
        vars(alone)["probe"] = together.probe
        if on_views is not None:
            of_test = viewed(data, "test").of(together.probe.log_prob)
            vars(on_views)["probe"] = together.probe._replace(log_prob=of_test)
    collapsed: CollapsedError | None = None
    for task in chosen:
        if not task.everywhere:
            try:
                with clock(task.name):
                    results[task.name] = checked(task.name, task.load()(on_views if task.views else alone))
            except CollapsedError as error:
                collapsed = error
                continue
        result = results[task.name]
        record.metrics |= result.metrics
        record.choices |= result.choices
        artifacts |= result.artifacts
    record.metrics["effective_rank"] = float(diagnostics.effective_rank(whole["test"].features.float()))
    if collapsed is not None:
        raise collapsed
    return artifacts


def checked(task: str, result: object) -> TaskResult:
    """What a task gave, where a record can hold it.

    Args:
        task: The name of the task.
        result: What it gave.

    Raises:
        TaskError: it is no :class:`TaskResult`, holds a metric that is not declared, or a number that is not finite.

    Examples:
        >>> checked("knn", TaskResult({"knn": float("nan")}))
        Traceback (most recent call last):
        ...
        gmje_bench.tasks.subject.TaskError: task knn: knn is nan, not a finite number; leave out what cannot be measured
    """
    if not isinstance(result, TaskResult):
        raise TaskError(f"task {task}: measure must give a TaskResult, got {type(result).__name__}")
    if unknown := [name for name in result.metrics if name not in METRICS]:
        raise TaskError(f"task {task}: METRICS does not declare {unknown[0]!r}")
    numbers = {name: value for name, value in result.choices.items() if not isinstance(value, str)} | result.metrics
    for name, value in numbers.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            got = value if isinstance(value, int | float) else f"a {type(value).__name__}"
            raise TaskError(f"task {task}: {name} is {got}, not a finite number; leave out what cannot be measured")
    return result


@lru_cache(maxsize=1)
def shared_by_methods(data: ImageData) -> dict[str, Any]:
    """What tasks make once for all methods on the same images, by name; see :meth:`FeatureSubject.shared`."""
    return {}


def _embedded(
    module: JointEmbedding, data: ImageData, views: bool, cache: CachedSplits | None, **how: Any
) -> tuple[dict[str, Features], dict[str, Features]]:
    """Features of whole splits and, for tasks on views, the splits that they see; no image is passed twice for both."""
    whole: dict[str, Split] = {"train": data.train, "test": data.test}
    splits = viewed_splits(data) if views else {}
    seen = _made(cache, splits, lambda split: embed_split(module, split, data, **how), views=True)
    rest = {name: split for name, split in whole.items() if splits.get(name) is not split}

    def features(split: Split) -> Features:
        return Features(split.labels, extract_features(module, split, data, **how))

    others = _made(cache, rest, features, views=False)
    return {name: others[name] if name in others else seen[name] for name in whole}, seen


def _made(
    cache: CachedSplits | None, splits: dict[str, Split], make: Callable[[Split], Features], *, views: bool
) -> dict[str, Features]:
    """What a function makes of splits, from the cache where they are kept."""
    found = cache.find(splits, views=views) if cache and splits else None
    if found is None:
        found = {name: make(split) for name, split in splits.items()}
        if cache and splits:
            cache.keep(found, views=views)
    return found


def _looked_at(subject: Subject) -> dict[str, Tensor]:
    """Make the maps and neighbours, which are looked at and not measured; where this fails, a warning says so."""
    found: dict[str, Tensor] = {}
    for make in (latent_map, neighbours):
        try:
            found |= make(subject)
        except Exception as error:
            place = f"{subject.method} seed {subject.seed}"
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            warnings.warn(f"{place}: {make.__name__} was not made ({reason}); no number is affected", stacklevel=2)
    return found
