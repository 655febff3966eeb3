"""One call that evaluates any model by any tasks, without training."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from torch import Tensor

from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.base import ImageData
from gmje_bench.errors import OptionError, did_you_mean
from gmje_bench.evaluation.cache import CachedSplits, EmbeddingCache, default_cache
from gmje_bench.evaluation.measure import autocast_type, measure
from gmje_bench.evaluation.models import Model, open_model
from gmje_bench.plugins import register_plugins
from gmje_bench.processes import start_accelerator
from gmje_bench.runs import Record
from gmje_bench.suites.sections import MixedPrecision
from gmje_bench.tasks import TASKS

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """What the tasks found of a model.

    Attributes:
        model: A short name.
        source: ``sha256:`` over architecture and weights; empty for a module or a function.
        dataset: The name of the dataset.
        metrics: Values by the names of :data:`gmje_bench.runs.METRICS`.
        choices: What was chosen on validation data.
        seconds: Wall-clock seconds by stage.
        artifacts: Tensors that figures are drawn from.
    """

    model: str
    source: str
    dataset: str
    metrics: dict[str, float]
    choices: dict[str, float | str]
    seconds: dict[str, float]
    artifacts: dict[str, Tensor]


def evaluate(
    model: Model,
    dataset: str | ImageData = "fashion_mnist_12k",
    tasks: Sequence[str] = ("linear_probe", "knn"),
    *,
    image_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    pretrained: bool = True,
    workers: int | None = 0,
    cache: Path | None = None,
    keep: bool = True,
    mixed_precision: str = "no",
) -> Evaluation:
    """Evaluate a model by tasks; nothing is trained.

    Embeddings are kept on disk under a hash of the model, the images and the protocol, so that a second call with
    other tasks starts at once. Those of a module or a function are not, because nothing tells what it computes: modules
    of the same weights may pool or scale otherwise.

    Args:
        model: What :func:`~gmje_bench.evaluation.models.open_model` takes: ``timm:NAME``, ``torchvision:NAME``, the
            folder of a saved model, ``org/name``, a module, or a function from images in [0, 1] to features.
        dataset: A dataset by name, or one that is loaded.
        tasks: Names in :data:`gmje_bench.tasks.TASKS`, to which installed packages are added here.
        image_size: Side in pixels that the model sees, of a dataset by name.
        limit: At most so many training images, of a dataset by name.
        seed: Seed of what tasks draw.
        pretrained: Whether models of timm and torchvision get their published weights.
        workers: Processes that decode images of files; 0 decodes them in this one, ``None`` uses the cores to spare.
        cache: Folder of embeddings; :func:`~gmje_bench.evaluation.cache.default_cache` where missing.
        keep: Whether embeddings are looked up and kept at all.
        mixed_precision: ``no``, ``bf16`` or ``fp16``: what the model computes in.

    Raises:
        OptionError: a task or a model is unknown, or the model does not take these images.
        DatasetError: the dataset is unknown or unreadable.
        RunFolderError: the cache cannot be written.
        GMJEError: the model cannot be measured, such as one whose embeddings are all the same or hold NaN; or a task
            gives what it must not.

    Examples:
        >>> import tempfile
        >>> pixels = lambda images: images.flatten(1)
        >>> found = evaluate(pixels, "embedded", ["knn"], limit=200)
        >>> found.model, sorted(found.metrics)
        ('function', ['effective_rank', 'knn'])
    """
    register_plugins()
    for name in tasks:
        if name not in TASKS:
            raise OptionError(f"unknown task {name!r}{did_you_mean(name, TASKS)}")
    if not tasks:
        raise OptionError(f"at least one task is needed (choose from {', '.join(TASKS)})")
    if mixed_precision not in get_args(MixedPrecision):
        raise OptionError(f"mixed precision must be {' or '.join(get_args(MixedPrecision))}, got {mixed_precision!r}")
    data = dataset
    if isinstance(data, str):
        data = load_dataset(data, image_size=image_size, limit=limit)
    opened = open_model(model, data, pretrained=pretrained)
    accelerator = start_accelerator(mixed_precision, tracker=None, folder=Path(), processes=None)
    module = opened.module.to(accelerator.device)
    held = None
    if keep and opened.source and accelerator.num_processes == 1:
        presented = asdict(opened.module.views(data))
        identity = {"weights": opened.source, "images": data.fingerprint, "presented": presented}
        identity["precision"] = mixed_precision
        held = CachedSplits(EmbeddingCache(cache or default_cache()), identity)
    record = Record(method=opened.name, seed=seed, status="ok")
    precision = autocast_type(mixed_precision)
    artifacts = measure(record, module, data, tasks, accelerator, workers=workers, cache=held, precision=precision)
    return Evaluation(opened.name, opened.source, data.name, record.metrics, record.choices, record.seconds, artifacts)
