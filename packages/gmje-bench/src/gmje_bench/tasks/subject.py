"""What tasks see of a trained encoder: its splits with their features and embeddings, and the density.

Tasks are pure functions ``task(subject) -> TaskResult``; they neither know how the encoder was trained nor where
results go.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from gmje_bench.datasets.base import Split
from gmje_bench.tasks.probe import LinearProbe, fit_probe
from gmje_bench.tasks.rows import Rows, Team
from gmje_bench.views import ViewConfig
from gmje_core import GMJEError
from gmje_core.densities.joint import JointDensity

__all__ = [
    "PICTURES",
    "PICTURE_SIDE",
    "Embedded",
    "FeatureSubject",
    "Features",
    "Subject",
    "TaskError",
    "TaskResult",
    "TrainingPairs",
]


Made = TypeVar("Made")
#: The name under which methods share the small training images, and their largest side in pixels.
PICTURES, PICTURE_SIDE = "pictures", 32


@dataclass(frozen=True, eq=False)
class Features:
    """Features of one split by a frozen encoder, on the CPU.

    Attributes:
        labels: int64 ``(N,)``; -1 where there is no class.
        features: ``(N, F)``, features of the backbone for the images without augmentation; float32, or float16 where
            the split is large. A process that is not the main one has only the rows of its own leaves.
    """

    labels: Tensor
    features: Tensor


@dataclass(frozen=True, eq=False)
class Embedded(Features):
    """Embeddings of one split, for the tasks that ask for views; float32.

    Attributes:
        images: The images, which are read where they are asked for: ``images[indices]`` is uint8 ``(b, C, S, S)``.
        embeddings: ``(N, d)``, embeddings of the projection head for the images without augmentation.
        context: ``(N, d)``, embeddings of a first random view of each image.
        target: ``(N, d)``, embeddings of a second view, by the momentum encoder where the method has one.
    """

    images: Split
    embeddings: Tensor
    context: Tensor
    target: Tensor


@dataclass(frozen=True, eq=False)
class TrainingPairs:
    """Pairs of views of the training images, to fit densities to and to choose among them; float32 on the CPU.

    Attributes:
        context: ``(N, d)``, several pairs of views of each image: blocks of the same images in the same order.
        target: ``(N, d)``.
        validation: Pairs of the images that were set aside, ``(M, d)`` and ``(M, d)``.
        passes: The number of blocks.
        exchangeable: Whether one encoder gives both views.
    """

    context: Tensor
    target: Tensor
    validation: tuple[Tensor, Tensor]
    passes: int = 1
    exchangeable: bool = False

    def map(self, function: Callable[[Tensor], Tensor]) -> "TrainingPairs":
        """The pairs of what a function gives of embeddings."""
        context, target, *held_out = map(function, (self.context, self.target, *self.validation))
        return replace(self, context=context, target=target, validation=(held_out[0], held_out[1]))


@dataclass(frozen=True, eq=False)
class FeatureSubject:
    """A trained encoder, as tasks on features see it.

    Attributes:
        method: The name of the method.
        seed: The seed of its training.
        classes: Names of the classes.
        train: The images that it was trained on.
        test: The images that it is measured on.
        of_run: What is made once for all methods of a run; see :meth:`shared`.
        team: The processes that hold the features together; this one alone where only it runs tasks.
        device: Where tasks that can be computed on any device are.
    """

    method: str
    seed: int
    classes: tuple[str, ...]
    train: Features
    test: Features
    of_run: dict[str, Any] = field(default_factory=dict, kw_only=True)
    team: Team = field(default=Team(), kw_only=True)
    device: torch.device = field(default=torch.device("cpu"), kw_only=True)

    def rows(self, part: Features) -> Rows:
        """The features of a split, as the processes of the team hold them."""
        return Rows.of(part.features, len(part.labels), self.team)

    @cached_property
    def probe(self) -> LinearProbe:
        """The linear probe of the features, fitted by all of the team when it is first asked for."""
        train, test = self.train, self.test
        return fit_probe(self.rows(train), train.labels, self.rows(test), test.labels, self.device)

    def shared(self, name: str, make: Callable[[], Made]) -> Made:
        """What is the same for all methods of a run, such as a classifier of the images: made once."""
        if name not in self.of_run:
            self.of_run[name] = make()
        found: Made = self.of_run[name]
        return found


@dataclass(frozen=True, eq=False)
class Subject(FeatureSubject):
    """A trained encoder, as tasks on views see it.

    Attributes:
        train: Images that it was trained on, at most ``viewed_train`` of the protocol.
        test: Images that it is measured on, at most ``viewed_test`` of the protocol.
        outliers: Images that are not like the data, by kind; see :func:`gmje_bench.datasets.outliers.outlier_splits`.
        density: The joint density that was learned in training; ``None`` for a method without one.
        critic: The density that the encoder was trained by, where a closing stage fitted another one.
        pairs: What densities may be fitted to, for the tasks that ask for it.
        views: How the views were drawn whose embeddings are held; ``None`` where that is not known.
        predict: A function from embeddings of contexts ``(n, d)`` to those of targets that a deterministic predictor
            expects; ``None`` for a method without one.
    """

    train: Embedded
    test: Embedded
    outliers: Mapping[str, Embedded]
    density: JointDensity | None
    critic: JointDensity | None = field(default=None, kw_only=True)
    pairs: TrainingPairs | None = field(default=None, kw_only=True)
    views: ViewConfig | None = field(default=None, kw_only=True)
    predict: Callable[[Tensor], Tensor] | None = field(default=None, kw_only=True)

    def pictures(self) -> Tensor:
        """The training images uint8 ``(N, C, S, S)`` at 32 pixels at most, read once for all methods of a run."""
        return self.shared(PICTURES, lambda: self.train.images.reduced(PICTURE_SIDE))


@dataclass(frozen=True, eq=False)
class TaskResult:
    """What a task found.

    Attributes:
        metrics: Values by the names of :data:`gmje_bench.runs.METRICS`.
        artifacts: Tensors that figures are drawn from, by names that begin with the task's.
        choices: What was chosen on validation data, for the record.
    """

    metrics: dict[str, float]
    artifacts: dict[str, Tensor] = field(default_factory=dict)
    choices: dict[str, float | str] = field(default_factory=dict)


class TaskError(GMJEError, ValueError):
    """A task gave what no record can hold."""
