"""Measuring a trained encoder by tasks.

All processes extract features. Tasks that the registry calls ``everywhere`` are computed by all of them together, each
on its own rows; the main process has all rows and runs the others.
"""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from gmje_bench.datasets.base import ImageData
from gmje_bench.evaluation.cache import CachedSplits, splits_of
from gmje_bench.evaluation.features import embed_split, extract_features
from gmje_bench.runs import Record
from gmje_bench.tasks import TASKS
from gmje_bench.tasks.latent import latent_map, neighbours
from gmje_bench.tasks.rows import Team
from gmje_bench.tasks.subject import Embedded, Features, FeatureSubject, Subject, TaskResult
from gmje_bench.training.consolidation import training_pairs
from gmje_bench.training.module import JointEmbedding
from gmje_core import diagnostics

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

    Returns:
        The tensors that figures are drawn from, by names that begin with the task's; on the main process only.

    Raises:
        NonFiniteError: the features hold NaN or infinity.
    """
    clock = Clock(record.seconds)
    chosen = [TASKS[name] for name in tasks]
    views = any(task.views for task in chosen)
    with clock("features"):
        embedded = cache.find(data, views=views) if cache else None
        if embedded is None:
            embedded = _embedded(module, data, views, device=accelerator.device, workers=workers, precision=precision)
            if cache:
                cache.keep(embedded, views=views)
        pairs = None
        if any(task.pairs for task in chosen):
            pairs = training_pairs(module, data, seed=record.seed, device=accelerator.device, workers=workers)
    train, test = embedded.pop("train"), embedded.pop("test")
    # Tasks compute in float64 too, which MPS does not have.
    device = torch.device("cpu") if accelerator.device.type == "mps" else accelerator.device
    options: dict[str, Any] = {"of_run": shared_by_methods(data), "team": Team.of_all(), "device": device}
    together = FeatureSubject(record.method, record.seed, data.classes, train, test, **options)
    results: dict[str, TaskResult] = {}
    if any(task.probe for task in chosen):
        with clock("probe"):
            _ = together.probe
    for task in (task for task in chosen if task.everywhere):
        with clock(task.name):
            results[task.name] = task.load()(together)
    if not accelerator.is_main_process:
        return {}
    artifacts: dict[str, Tensor] = {}
    options["team"] = Team()
    alone = FeatureSubject(record.method, record.seed, data.classes, train, test, **options)
    if views:
        assert isinstance(train, Embedded)
        assert isinstance(test, Embedded)
        outliers = {name: part for name, part in embedded.items() if isinstance(part, Embedded)}
        module.cpu()  # The embeddings are there.
        alone = Subject(
            record.method,
            record.seed,
            data.classes,
            train,
            test,
            outliers,
            module.density(),
            critic=module.critic_density(),
            pairs=pairs,
            views=module.views(data),
            **options,
        )
        with clock("latent_map"):
            artifacts |= _looked_at(alone)
    if "probe" in vars(together):
        vars(alone)["probe"] = together.probe
    for task in chosen:
        if not task.everywhere:
            with clock(task.name):
                results[task.name] = task.load()(alone)
        result = results[task.name]
        record.metrics |= result.metrics
        record.choices |= result.choices
        artifacts |= result.artifacts
    record.metrics["effective_rank"] = float(diagnostics.effective_rank(test.features.float()))
    return artifacts


@lru_cache(maxsize=1)
def shared_by_methods(data: ImageData) -> dict[str, Any]:
    """What tasks make once for all methods on the same images, by name; see :meth:`FeatureSubject.shared`."""
    return {}


def _embedded(
    module: JointEmbedding,
    data: ImageData,
    views: bool,
    **how: Any,
) -> dict[str, Features]:
    """The training and test images through the module and, for tasks on views, every kind of outliers as well."""
    splits = splits_of(data, views=views)
    if views:
        return {name: embed_split(module, split, data, **how) for name, split in splits.items()}
    return {
        name: Features(split.labels, extract_features(module, split, data, **how)) for name, split in splits.items()
    }


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
