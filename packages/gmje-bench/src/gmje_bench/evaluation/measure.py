"""Measuring a trained encoder by tasks; all processes extract features, the main one scores them."""

import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from gmje_bench.consolidation import training_pairs
from gmje_bench.datasets.base import ImageData
from gmje_bench.evaluation.cache import CachedSplits, splits_of
from gmje_bench.features import embed_split, extract_features
from gmje_bench.module import JointEmbedding
from gmje_bench.runs import Record
from gmje_bench.tasks import TASKS
from gmje_bench.tasks.latent import latent_map, neighbours
from gmje_bench.tasks.subject import Embedded, Features, FeatureSubject, Subject
from gmje_core import NonFiniteError, diagnostics

__all__ = ["Clock", "measure"]


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


def measure(
    record: Record,
    module: JointEmbedding,
    data: ImageData,
    tasks: Sequence[str],
    accelerator: Accelerator,
    *,
    workers: int = 0,
    cache: CachedSplits | None = None,
) -> dict[str, Tensor]:
    """Measure a trained module by tasks.

    Args:
        record: The record that gets metrics, choices and seconds, on the main process only.
        module: What was trained.
        data: The images.
        tasks: Names in :data:`gmje_bench.tasks.TASKS`.
        accelerator: Accelerate's object, which knows processes and devices.
        workers: Number of processes that decode images.
        cache: Where features of this module are looked up and kept; nowhere if missing.

    Returns:
        The tensors that figures are drawn from, by names that begin with the task's.

    Raises:
        NonFiniteError: the features hold NaN or infinity.
    """
    clock = Clock(record.seconds)
    chosen = [TASKS[name] for name in tasks]
    views = any(task.views for task in chosen)
    with clock("features"):
        embedded = cache.find(data, views=views) if cache else None
        if embedded is None:
            embedded = _embedded(module, data, views=views, device=accelerator.device, workers=workers)
            if cache:
                cache.keep(embedded, views=views)
        pairs = None
        if any(task.pairs for task in chosen):
            pairs = training_pairs(module, data, seed=record.seed, device=accelerator.device, workers=workers)
    if not accelerator.is_main_process:
        return {}
    _require_finite(embedded.values())
    train, test = embedded.pop("train"), embedded.pop("test")
    of_run = shared_by_methods(data)
    artifacts: dict[str, Tensor] = {}
    subject = FeatureSubject(record.method, record.seed, data.classes, train, test, of_run=of_run)
    if views:
        assert isinstance(train, Embedded)
        assert isinstance(test, Embedded)
        outliers = {name: part for name, part in embedded.items() if isinstance(part, Embedded)}
        module.cpu()  # The embeddings are there.
        subject = Subject(
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
            of_run=of_run,
        )
        with clock("latent_map"):
            artifacts |= _looked_at(subject)
    for task in chosen:
        run = task.load()
        with clock(task.name):
            result = run(subject)
        record.metrics |= result.metrics
        record.choices |= result.choices
        artifacts |= result.artifacts
    record.metrics["effective_rank"] = float(diagnostics.effective_rank(test.features))
    return artifacts


@lru_cache(maxsize=1)
def shared_by_methods(data: ImageData) -> dict[str, Any]:
    """What tasks make once for all methods on the same images, by name; see :meth:`FeatureSubject.shared`."""
    return {}


def _embedded(
    module: JointEmbedding, data: ImageData, *, views: bool, device: torch.device, workers: int
) -> dict[str, Features]:
    """The training and test images through the module and, for tasks on views, every kind of outliers as well."""
    if views:
        return {
            name: embed_split(module, split, data, device=device, workers=workers)
            for name, split in splits_of(data, views=True).items()
        }
    return {
        name: Features(split.labels, extract_features(module, split, data, device=device, workers=workers))
        for name, split in splits_of(data, views=False).items()
    }


def _require_finite(splits: Iterable[Features]) -> None:
    for split in splits:
        parts = [split.features]
        if isinstance(split, Embedded):
            parts += [split.embeddings, split.context, split.target]
        if not all(torch.isfinite(part).all() for part in parts):
            raise NonFiniteError("the features hold NaN or infinity")


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
