"""Choices of images: a validation part of train, the subset that ``limit`` asks for, and classes that are held out.

Which images are taken depends on the labels and a seed alone.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gmje_bench.datasets.base import ImageData, Split, fingerprint
from gmje_bench.errors import OptionError, did_you_mean

__all__ = ["drawn_rows", "limited", "validation_split", "without_classes"]


def validation_split(labels: Tensor, fraction: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Hold out a share of every class.

    Of a class with ``n`` images ``round(fraction * n)`` are held out, but at least one and never all; a class with a
    single image stays in the training part.

    Args:
        labels: int64 ``(N,)``, class indices from 0.
        fraction: Share to hold out, between 0 and 1.
        seed: Seed of the choice.

    Returns:
        ``(train, validation)``: sorted int64 indices, disjoint, together all of ``0 .. N - 1``.

    Raises:
        OptionError: a fraction that is not between 0 and 1, or labels of which no class has two images.

    Examples:
        >>> labels = torch.tensor([0] * 10 + [1] * 20)
        >>> train, validation = validation_split(labels, fraction=0.2)
        >>> labels[validation].tolist(), len(train)
        ([0, 0, 1, 1, 1, 1], 24)
    """
    if not 0 < fraction < 1:
        raise OptionError(f"the validation fraction must be between 0 and 1, got {fraction}")
    counts = labels.bincount()
    if not (counts >= 2).any():
        raise OptionError(f"no class of the {len(labels)} images has two of them: nothing can be held out")
    quota = torch.minimum((fraction * counts.double()).round().long().clamp_min(1), (counts - 1).clamp_min(0))
    held = _turns(labels, seed) < quota[labels]
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def drawn_rows(labels: Tensor, limit: int, seed: int = 0) -> Tensor | None:
    """Draw at most ``limit`` images, balanced over the classes as far as there are enough of each, in a mixed order.

    Args:
        labels: int64 ``(N,)``, class indices from 0.
        limit: Largest number of images.
        seed: Seed of the draw and of the order.

    Returns:
        Distinct indices ``(min(N, limit),)``; ``None`` where the images can be taken as they stand, because there are
        no more of them and they do not stand class after class, as those of folders do.

    Examples:
        >>> labels = torch.tensor([0] * 6 + [1] * 2)
        >>> labels[drawn_rows(labels, 4)].bincount().tolist()
        [2, 2]
        >>> drawn_rows(labels.flip(0), 8) is None, len(drawn_rows(labels, 8))
        (True, 8)
    """
    if len(labels) <= limit and bool((labels.diff() < 0).any()):
        return None
    taken = torch.argsort(_turns(labels, seed), stable=True)[:limit]
    return taken[torch.randperm(len(taken), generator=torch.Generator().manual_seed(seed + 1))]


def limited(data: ImageData, limit: int) -> ImageData:
    """Keep at most ``limit`` training images, and the same share of the test images.

    The training images are balanced over the classes as far as there are enough of each; of the test images every
    class keeps its share, rounded, and at least one image. The order is kept, and the fingerprint covers the choice.

    Args:
        data: The whole dataset; returned as it is when it is not larger.
        limit: Number of training images, at least two for each class.

    Raises:
        OptionError: fewer than two images for each class.
    """
    classes = len(data.train.labels.unique())
    if limit < 2 * classes:
        raise OptionError(
            f"a limit of {limit} leaves fewer than two training images for each of the {classes} classes of "
            f"{data.name}; use at least {2 * classes}"
        )
    if limit >= data.train.n:
        return data
    labels = data.test.labels
    quota = (limit / data.train.n * labels.bincount().double()).round().long().clamp_min(1)
    train = data.train.select(torch.argsort(_turns(data.train.labels, 0), stable=True)[:limit].sort().values)
    test = data.test.select((_turns(labels, 0) < quota[labels]).nonzero().flatten())
    return replace(
        data, train=train, test=test, fingerprint=fingerprint(data.fingerprint, train.positions, test.positions)
    )


def without_classes(data: ImageData, names: Sequence[str]) -> ImageData:
    """Leave classes out of the data, so that nothing is trained, fitted or probed on them.

    The other classes keep their order and are numbered anew from 0. The test images of the classes that are left out
    become ``held_out``; their training images are not used at all. The fingerprint covers the choice.

    Args:
        data: The whole dataset.
        names: Names of the classes to leave out; the dataset itself is returned where there are none.

    Raises:
        OptionError: a name that is no class of the data or stands twice, or fewer than two classes would be left.

    Examples:
        >>> from gmje_bench.datasets import load_dataset
        >>> data = without_classes(load_dataset("fashion_mnist_12k"), ["Bag"])
        >>> len(data.classes), data.train.n, data.test.n, data.held_out.n
        (9, 9000, 1800, 200)
        >>> without_classes(load_dataset("fashion_mnist_12k"), ["bags"])
        Traceback (most recent call last):
        ...
        gmje_bench.errors.OptionError: --held-out-classes: fashion_mnist_12k has no class 'bags'; did you mean Bag? ...
    """
    if not names:
        return data
    for name in names:
        if name not in data.classes:
            raise OptionError(
                f"--held-out-classes: {data.name} has no class {name!r}{did_you_mean(name, data.classes)}"
            )
    if len(set(names)) < len(names):
        raise OptionError(f"--held-out-classes must not repeat, got {', '.join(names)}")
    kept = torch.tensor([name not in names for name in data.classes])
    if int(kept.sum()) < 2:
        raise OptionError(f"--held-out-classes leaves {int(kept.sum())} of the {len(kept)} classes; two are needed")
    numbers = kept.long().cumsum(dim=0) - 1

    def left(split: Split) -> Split:
        rest = split.select(kept[split.labels].nonzero().flatten())
        return replace(rest, labels=numbers[rest.labels])

    held_out = data.test.select((~kept[data.test.labels]).nonzero().flatten())
    return replace(
        data,
        train=left(data.train),
        test=left(data.test),
        classes=tuple(name for name in data.classes if name not in names),
        fingerprint=fingerprint(data.fingerprint, "held out", *sorted(names)),
        held_out=replace(held_out, labels=torch.full_like(held_out.labels, -1)),
    )


def _turns(labels: Tensor, seed: int) -> Tensor:
    """Place ``(N,)`` of every image in a seeded shuffle of its class, from 0."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(labels[order], stable=True)]
    counts = labels.bincount()
    starts = counts.cumsum(0) - counts
    turns = torch.empty_like(order)
    turns[order] = torch.arange(len(order)) - starts[labels[order]]
    return turns
