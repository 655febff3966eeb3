"""Labels as datasets hold them, numbers or names, become class indices from 0."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gmje_bench.datasets.base import unseen_classes
from gmje_bench.errors import DatasetError

__all__ = ["number_labels"]


def number_labels(
    name: str, values: Mapping[str, Sequence[int | str]], names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Class names, and the labels of every part as class indices.

    Args:
        name: The name of the dataset, for messages.
        values: Labels of every part, of which ``train`` is one; all numbers or all names.
        names: Names of the classes, which the labels are numbers of; where missing, the classes are the distinct labels
            of ``train``, in order.

    Returns:
        The names in label order, and int64 ``(N,)`` of every part.

    Raises:
        DatasetError: a label of another part that ``train`` has not, or a negative one, which means none.

    Examples:
        >>> number_labels("animals", {"train": ["cat", "ant", "cat"], "test": ["ant"]})
        (('ant', 'cat'), {'train': tensor([1, 0, 1]), 'test': tensor([0])})
    """
    distinct = {part: set(labels) for part, labels in values.items()}
    known = sorted(distinct["train"]) if names is None else list(range(len(names)))
    classes = tuple(map(str, known)) if names is None else tuple(names)
    negative = {value for found in distinct.values() for value in found if isinstance(value, int) and value < 0}
    if -1 in negative:
        raise DatasetError(f"{name} has images without a label (-1), which cannot be evaluated on")
    place = {value: label for label, value in enumerate(known)}
    unseen = {str(value) for found in distinct.values() for value in found if value not in place}
    if unseen or negative:
        raise unseen_classes(name, sorted(unseen | set(map(str, negative))))
    return classes, {
        part: torch.tensor([place[v] for v in labels], dtype=torch.int64) for part, labels in values.items()
    }
