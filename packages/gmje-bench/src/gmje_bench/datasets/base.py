"""The interface that all datasets share: two splits of images that are read in batches of given indices.

Where the images come from, memory or files, is the business of an :class:`ImageSource`; what a split adds is labels.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gmje_bench.datasets.order import EpochOrder
from gmje_bench.errors import DatasetError
from gmje_bench.views import CropDraws, TwoViews

__all__ = [
    "FingerprintKind",
    "ImageData",
    "ImageSource",
    "ResidentImages",
    "Split",
    "check_classes",
    "fingerprint",
    "reduced",
]

# So many images are read at once where all of a split are made smaller.
_READ = 250

FingerprintKind = Literal["content", "names and sizes", "sizes"]


class ImageSource(Protocol):
    """Where a split's images come from."""

    def blocks(self, positions: Tensor) -> Tensor | None:
        """The blocks int64 ``(b,)`` of images that are read in blocks; ``None`` where each is read by itself."""
        ...

    def batch(self, positions: Tensor) -> Tensor:
        """Images uint8 ``(b, C, S, S)`` at the positions ``(b,)``, read in this process."""
        ...

    def batches(
        self,
        position_batches: Sequence[Tensor],
        workers: int | None,
        draws: Iterable[CropDraws] | None,
        pin: bool,
    ) -> Iterator[Tensor]:
        """Read many batches in order, see :meth:`Split.batches`; views are cut only where decoding allows it."""
        ...


@dataclass(frozen=True, eq=False)
class ResidentImages:
    """Images that fit in memory.

    Args:
        images: uint8 ``(N, C, S, S)``.
    """

    images: Tensor

    def blocks(self, positions: Tensor) -> None:
        """Images in memory have no blocks."""

    def batch(self, positions: Tensor) -> Tensor:
        """A copy of the rows at ``positions``."""
        return self.images[positions]

    def batches(
        self,
        position_batches: Sequence[Tensor],
        workers: int | None = 0,
        draws: Iterable[CropDraws] | None = None,
        pin: bool = False,
    ) -> Iterator[Tensor]:
        """Copy batch after batch, whole images: other processes would be slower, and boxes are cut on the device."""
        for positions in position_batches:
            images = self.images[positions]
            yield images.pin_memory() if pin else images


@dataclass(frozen=True, eq=False)
class Split:
    """Images with labels.

    Args:
        source: The images.
        labels: int64 ``(N,)``, class indices from 0.
        positions: int64 ``(N,)``, places in the source, which may hold more than this split.

    Raises:
        ValueError: labels or positions that are not int64 vectors of one length.

    Examples:
        >>> images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)
        >>> split = Split.whole(ResidentImages(images), torch.tensor([0, 1, 0, 1]))
        >>> split.batch(torch.tensor([3, 0])).flatten().tolist()
        [3, 0]
        >>> [labels.tolist() for _, labels, _ in split.batches(torch.arange(4).split(2))]
        [[0, 1], [0, 1]]
    """

    source: ImageSource
    labels: Tensor
    positions: Tensor

    def __post_init__(self) -> None:
        for name, values in (("labels", self.labels), ("positions", self.positions)):
            if values.dtype != torch.int64 or values.ndim != 1 or len(values) != len(self.labels):
                raise ValueError(
                    f"{name} must be int64 of shape ({len(self.labels)},), got {values.dtype} {tuple(values.shape)}"
                )

    @classmethod
    def whole(cls, source: ImageSource, labels: Tensor) -> "Split":
        """A split of all images of a source, in the order of the source."""
        return cls(source, labels, torch.arange(len(labels)))

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: Tensor) -> Tensor:
        """Images uint8 ``(b, C, S, S)`` at ``indices`` int64 ``(b,)``.

        Raises:
            DatasetError: a file that cannot be read or decoded; the text names it.
        """
        return self.source.batch(self.positions[indices])

    def batches(
        self,
        index_batches: Sequence[Tensor],
        workers: int | None = 0,
        draws: Iterable[CropDraws] | None = None,
        pin: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batch after batch, in the order given; what is read does not depend on ``workers``.

        These begin to read at once.

        Args:
            index_batches: int64 ``(b,)`` each.
            workers: Processes that decode ahead; 0 decodes in this one, ``None`` leaves the number to the source. Data
                in memory needs none and uses none.
            draws: The boxes of two views of each batch's images. What lies in files is then cut where it is decoded,
                from the whole image; data in memory is given as without them.
            pin: Whether images are put into page-locked memory, from which a GPU copies on its own.

        Returns:
            Of every batch ``(images, labels int64 (b,), indices)``; images are uint8 ``(b, C, S, S)``, or
            ``(2, b, C, size, size)`` where views were cut. :class:`gmje_bench.views.TwoViews` takes both.

        Raises:
            DatasetError: a file that cannot be read or decoded; the text names it.
        """
        images = self.source.batches([self.positions[indices] for indices in index_batches], workers, draws, pin)
        return ((batch, self.labels[indices], indices) for indices, batch in zip(index_batches, images, strict=True))

    def epoch(
        self, order: EpochOrder, views: TwoViews, workers: int | None = 0, pin: bool = False
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """What this process trains on in an epoch, from a step on; a stopped epoch goes on with the same views.

        Args:
            order: Which images make up which batch.
            views: What draws the boxes of views, and takes the batches.
            workers: The same as in :meth:`batches`.
            pin: The same as in :meth:`batches`.

        Returns:
            The same as :meth:`batches`.

        Raises:
            DatasetError: a file that cannot be read or decoded; the text names it.
        """
        batches = order.batches(self.n, self.source.blocks(self.positions))
        draws = (views.crops(len(batch), **order.place(step)) for step, batch in enumerate(batches, order.first_step))
        return self.batches(batches, workers, draws, pin)

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        """Images uint8 ``(b, C, S, S)`` at indices ``(b,)`` or of a slice, read in this process and not kept."""
        return self.batch(torch.arange(self.n)[chosen])

    def reduced(self, side: int) -> Tensor:
        """All images uint8 ``(N, C, s, s)``, at ``side`` pixels at most; larger ones are read a few at a time."""
        return torch.cat([reduced(self.batch(indices), side) for indices in torch.arange(self.n).split(_READ)])

    def select(self, indices: Tensor) -> "Split":
        """The images at ``indices`` int64 ``(m,)`` as a split of their own."""
        return Split(self.source, self.labels[indices], self.positions[indices])


@dataclass(frozen=True, eq=False)
class ImageData:
    """A dataset ready to use.

    Args:
        name: The name that the user gave; for an alias, the name that it stands for.
        train: The only split that anything is fitted or chosen on.
        test: The split that results are reported on.
        classes: Names, in label order.
        channels: 1 or 3.
        image_size: Side in pixels that networks see; stored images may be larger, or smaller.
        fingerprint: SHA-256 in hexadecimal over what ``fingerprint_of`` says, the labels and the choices of ``limit``
            and of classes held out.
        fingerprint_of: ``content`` (every pixel or encoded byte), ``names and sizes`` (of files, in order) or ``sizes``
            (encoded length of every row of a large table).
        held_out: Test images of classes that were left out of ``train``, ``test`` and ``classes``, labelled -1;
            ``None`` where no class was.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    channels: int
    image_size: int
    fingerprint: str
    fingerprint_of: FingerprintKind
    held_out: Split | None = None


def reduced(images: Tensor, side: int) -> Tensor:
    """Images uint8 ``(b, C, S, S)`` at ``side`` pixels at most.

    Examples:
        >>> reduced(torch.full((1, 1, 4, 4), 7, dtype=torch.uint8), 2).flatten().tolist()
        [7, 7, 7, 7]
    """
    if images.shape[-1] <= side:
        return images
    return F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True).round().to(torch.uint8)


def fingerprint(*parts: bytes | str | Tensor) -> str:
    """SHA-256 in hexadecimal over bytes, texts and tensors, each with its type and extent.

    Examples:
        >>> fingerprint("ab", "c") == fingerprint("a", "bc")
        False
        >>> fingerprint(torch.zeros(4)) == fingerprint(torch.zeros(2, 2))
        False
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            head, body = f"{part.dtype}{tuple(part.shape)}", part.contiguous().numpy().tobytes()
        else:
            body = part.encode() if isinstance(part, str) else part
            head = f"{type(part).__name__}{len(body)}"
        digest.update(f"{head};".encode())
        digest.update(body)
    return digest.hexdigest()


def check_classes(name: str, train: Tensor, test: Tensor, classes: Sequence[str]) -> None:
    """Check that both splits hold images and that every class of the test split is trained on.

    Args:
        name: The name of the dataset, for the message.
        train: int64 ``(N,)``, labels.
        test: int64 ``(M,)``, labels.
        classes: Names in label order.

    Raises:
        DatasetError: a split is empty, or a class of the test split is not in the training split.
    """
    for split, labels in (("training", train), ("test", test)):
        if not len(labels):
            raise DatasetError(f"{name} has no {split} images")
    unseen = sorted(set(test.unique().tolist()) - set(train.unique().tolist()))
    if unseen:
        raise unseen_classes(name, [classes[label] for label in unseen])
    if len(train.unique()) < 2:
        raise DatasetError(f"{name} has images of one class only, {classes[int(train[0])]}; two are needed")


def unseen_classes(name: str, names: Sequence[str]) -> DatasetError:
    """The error about classes of the test split that are not in the training split."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return DatasetError(
        f"{name} has test images of classes without training images: {', '.join(names[:5])}{more}; both splits "
        "must have the same classes"
    )
