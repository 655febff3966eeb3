"""Evaluation of a trained encoder by the suite's tasks; all processes extract features, the main one scores them."""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from accelerate import Accelerator
from torch import Tensor

from gmje_bench.datasets.base import ImageData
from gmje_bench.datasets.outliers import outlier_splits
from gmje_bench.features import embed_split, extract_features
from gmje_bench.module import JointEmbedding
from gmje_bench.protocol import PROTOCOL
from gmje_bench.runs import Record
from gmje_bench.suite import Suite
from gmje_bench.tasks import TASKS
from gmje_bench.tasks.knn import weighted_knn
from gmje_bench.tasks.latent import latent_map, neighbours
from gmje_bench.tasks.linear_probe import LinearProbe, linear_probe
from gmje_bench.tasks.sampling import Classifier, sampling, train_classifier
from gmje_bench.tasks.subject import Embedded, Subject
from gmje_bench.tasks.uncertainty import uncertainty
from gmje_core import NonFiniteError, diagnostics

__all__ = ["Clock", "evaluate"]


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


def evaluate(
    record: Record, module: JointEmbedding, data: ImageData, suite: Suite, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Measure a trained module by every task of the suite.

    Args:
        record: The record that gets metrics, choices and seconds, on the main process only.
        module: What was trained.
        data: The images.
        suite: The suite, which names the tasks.
        accelerator: Accelerate's object, which knows processes and devices.

    Returns:
        The tensors that figures are drawn from, by names that begin with the task's.

    Raises:
        NonFiniteError: the features hold NaN or infinity.
    """
    clock = Clock(record.seconds)
    views = any(TASKS[name].views for name in suite.tasks)
    device, workers = accelerator.device, suite.training.workers
    with clock("features"):
        if views:
            splits = {"train": data.train, "test": data.test, **outlier_splits(data, PROTOCOL.outliers)}
            embedded = {
                name: embed_split(module, split, data, device=device, workers=workers)
                for name, split in splits.items()
            }
            features = [part.features for part in embedded.values()]
        else:
            embedded = {}
            features = [
                extract_features(module, split, data, device=device, workers=workers)
                for split in (data.train, data.test)
            ]
    if not accelerator.is_main_process:
        return {}
    _require_finite(list(embedded.values()), features)
    train, test = features[:2]
    labels = data.train.labels, data.test.labels
    probe: LinearProbe | None = None
    if {"linear_probe", "uncertainty"} & set(suite.tasks):
        with clock("linear_probe"):
            probe = linear_probe(train, labels[0], test, labels[1])
    if probe and "linear_probe" in suite.tasks:
        record.metrics["linear_probe"] = probe.accuracy
        record.choices |= {"probe_c": probe.c, "probe_validation_accuracy": probe.validation_accuracy}
    if "knn" in suite.tasks:
        with clock("knn"):
            record.metrics["knn"] = weighted_knn(train, labels[0], test, labels[1], len(data.classes))
    record.metrics["effective_rank"] = float(diagnostics.effective_rank(test))
    artifacts: dict[str, Tensor] = {}
    if views:
        density = module.cpu().density()  # The embeddings are on the CPU.
        seen, unseen = embedded.pop("train"), embedded.pop("test")
        subject = Subject(record.method, record.seed, data.classes, seen, unseen, embedded, density)
        artifacts |= _tasks_on_views(record, subject, suite, probe, data, clock)
    return artifacts


@lru_cache(maxsize=1)
def classifier_of(data: ImageData) -> Classifier:
    """The classifier that pictures are compared by, trained once for all methods."""
    rows = torch.arange(len(data.train))
    return train_classifier(data.train.batch(rows), data.train.labels, len(data.classes))


def _require_finite(embedded: list[Embedded], features: list[Tensor]) -> None:
    for part in [*features, *(z for e in embedded for z in (e.embeddings, e.context, e.target))]:
        if not torch.isfinite(part).all():
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


def _tasks_on_views(
    record: Record, subject: Subject, suite: Suite, probe: LinearProbe | None, data: ImageData, clock: Clock
) -> dict[str, Tensor]:
    artifacts: dict[str, Tensor] = {}
    with clock("latent_map"):
        artifacts |= _looked_at(subject)
    if "uncertainty" in suite.tasks:
        assert probe is not None
        with clock("uncertainty"):
            result = uncertainty(subject, probe.log_prob)
        record.metrics |= result.metrics
        artifacts |= result.artifacts
    if "sampling" in suite.tasks:
        with clock("sampling"):
            result = sampling(subject, classifier_of(data))
        record.metrics |= result.metrics
        artifacts |= result.artifacts
    return artifacts
