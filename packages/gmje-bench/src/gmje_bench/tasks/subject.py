"""What tasks see of a trained encoder: three splits with their features and embeddings, and the density.

Tasks are pure functions ``task(subject) -> TaskResult``; they neither know how the encoder was trained nor where
results go.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from gmje_core.densities.joint import JointDensity

__all__ = ["Embedded", "Subject", "TaskResult"]


@dataclass(frozen=True, eq=False)
class Embedded:
    """Images of one split through a frozen encoder, on the CPU; float32 where not said otherwise.

    Attributes:
        images: uint8 ``(N, C, S, S)``.
        labels: int64 ``(N,)``; -1 where there is no class.
        features: ``(N, F)``, features of the backbone for the images without augmentation.
        embeddings: ``(N, d)``, embeddings of the projection head for the same images.
        context: ``(N, d)``, embeddings of a first random view of each image.
        target: ``(N, d)``, embeddings of a second view, by the momentum encoder where the method has one.
    """

    images: Tensor
    labels: Tensor
    features: Tensor
    embeddings: Tensor
    context: Tensor
    target: Tensor


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained encoder, as tasks see it.

    Attributes:
        method: The name of the method.
        seed: The seed of its training.
        classes: Names of the classes.
        train: The images that it was trained on.
        test: The images that it is measured on.
        outliers: Images that are not like the data, by kind; see :func:`gmje_bench.datasets.outliers.outlier_splits`.
        density: The joint density that was learned in training; ``None`` for a method without one.
    """

    method: str
    seed: int
    classes: tuple[str, ...]
    train: Embedded
    test: Embedded
    outliers: Mapping[str, Embedded]
    density: JointDensity | None


class TaskResult(NamedTuple):
    """What a task found.

    Attributes:
        metrics: Values by the names of :data:`gmje_bench.runs.METRICS`.
        artifacts: Tensors that figures are drawn from.
    """

    metrics: dict[str, float]
    artifacts: dict[str, Tensor]
