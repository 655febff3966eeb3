"""Which images are embedded: whole splits for tasks on features, and a bounded draw of them for tasks on views.

A density is estimated well from some ten thousand images, and tasks on views compute with all that they see at once. So
they see at most ``viewed_train`` and ``viewed_test`` images of the protocol, balanced over the classes. Smaller splits
are seen as they are, unless they stand class after class: their first rows would then be of the first classes alone.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from gmje_bench.datasets.base import ImageData, Split
from gmje_bench.datasets.outliers import outlier_splits
from gmje_bench.datasets.selection import drawn_rows
from gmje_bench.protocol import PROTOCOL

__all__ = ["Viewed", "viewed", "viewed_splits"]


@dataclass(frozen=True, eq=False)
class Viewed:
    """The images of a split that tasks on views see.

    Attributes:
        split: The images.
        rows: int64 ``(n,)``, their places in the whole split; ``None`` where ``split`` is the whole.
    """

    split: Split
    rows: Tensor | None

    def of(self, values: Tensor) -> Tensor:
        """The rows ``(n, ...)`` of these images among those ``(N, ...)`` of the whole split."""
        return values if self.rows is None else values[self.rows]


def viewed(data: ImageData, part: Literal["train", "test"]) -> Viewed:
    """The images of a split that tasks on views see, the same for every method and seed.

    Args:
        data: The images.
        part: The name of the split.

    Examples:
        >>> from gmje_bench.datasets import load_dataset
        >>> data = load_dataset("embedded", limit=100)
        >>> viewed(data, "train").split is data.train
        True
    """
    whole, limit = (data.train, PROTOCOL.viewed_train) if part == "train" else (data.test, PROTOCOL.viewed_test)
    rows = drawn_rows(whole.labels, limit)
    return Viewed(whole if rows is None else whole.select(rows), rows)


def viewed_splits(data: ImageData) -> dict[str, Split]:
    """All images that tasks on views see, by name: train, test and every kind of outliers."""
    parts = {"train": viewed(data, "train").split, "test": viewed(data, "test").split}
    return parts | outlier_splits(data, PROTOCOL.outliers)
