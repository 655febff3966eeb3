"""Images that are decoded when they are asked for, in this process or by others that read ahead."""

import logging
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gmje_bench.datasets.base import ImageData, ResidentImages, Split
from gmje_bench.datasets.blocks import Share, shares
from gmje_bench.datasets.cropping import read_views
from gmje_bench.datasets.decoding import SMALL_SIDE, decode
from gmje_bench.errors import DatasetError
from gmje_bench.views import CropDraws, ViewConfig

__all__ = ["BlockReader", "LazyImages", "Reader", "default_workers", "resident"]

_RESIDENT_BYTES = 2 * 2**30
# A reader gives so many images at a time: batches of any size fill evenly, and what is read ahead stays small.
_PIECE = 32
_PREFETCH = 4
_MOST_WORKERS = 16
# Ctrl-C, and what ends a job.
_STOPS = (signal.SIGINT, signal.SIGTERM)

_log = logging.getLogger(__name__)


class Reader(Protocol):
    """Gives the bytes of images; picklable, so that other processes can take it along."""

    def read(self, position: int) -> tuple[bytes | Path, str]:
        """The encoded image, or the file that holds it, and what to call it in a message."""
        ...


@runtime_checkable
class BlockReader(Reader, Protocol):
    """Gives the bytes of images that are read in blocks, which stay in memory until they are dropped."""

    def block(self, positions: Tensor) -> Tensor:
        """The blocks int64 ``(b,)`` that hold the images at ``positions`` ``(b,)``."""
        ...

    def drop(self, block: int) -> None:
        """Give back the memory of a block."""
        ...


@dataclass(frozen=True, eq=False)
class LazyImages:
    """Images decoded when they are asked for.

    Args:
        reader: What gives the encoded images.
        side: Where no boxes are drawn, every image becomes a square of this many pixels, see
            :func:`gmje_bench.datasets.decoding.square`.
    """

    reader: Reader
    side: int

    def blocks(self, positions: Tensor) -> Tensor | None:
        """The blocks of images that are read in blocks; ``None`` where each is read by itself."""
        return self.reader.block(positions) if isinstance(self.reader, BlockReader) else None

    def batch(self, positions: Tensor) -> Tensor:
        """uint8 ``(b, 3, side, side)``; of images in blocks, one block at a time is held in memory."""
        blocks = self.blocks(positions)
        if blocks is None:
            return _Request(positions, None).answer(self)
        order = blocks.argsort(stable=True)
        return _Request(positions[order], None, frozenset(blocks.tolist())).answer(self)[order.argsort()]

    def batches(
        self,
        position_batches: Sequence[Tensor],
        workers: int | None = 0,
        draws: Iterable[CropDraws] | None = None,
        pin: bool = False,
    ) -> Iterator[Tensor]:
        """Batches in order; with workers, these decode ahead of their use and stay for the next call."""
        workers = default_workers() if workers is None else workers
        divided = self._divided(position_batches, max(1, workers))
        pieces = _answers(_requests(position_batches, draws, divided), self, workers)
        return (
            _together(pieces, parts, len(positions), pin)
            for positions, parts in zip(position_batches, divided, strict=True)
        )

    def encoded(self, positions: Tensor, done: frozenset[int]) -> Iterator[tuple[bytes | Path, str]]:
        """What the reader gives for each position; blocks that are done are dropped after their last image."""
        blocks = self.blocks(positions)
        if blocks is None or not isinstance(self.reader, BlockReader):
            yield from map(self.reader.read, positions.tolist())
            return
        for number, (block, position) in enumerate(zip(blocks.tolist(), positions.tolist(), strict=True), start=1):
            yield self.reader.read(position)
            if block in done and (number == len(blocks) or blocks[number] != block):
                self.reader.drop(block)

    def _divided(self, position_batches: Sequence[Tensor], readers: int) -> list[list[Share]]:
        """How batches are divided into what is read at a time."""
        if isinstance(self.reader, BlockReader):
            return shares([self.reader.block(positions) for positions in position_batches], readers, _PIECE)
        starts = (range(0, len(positions), _PIECE) for positions in position_batches)
        return [[Share(slice(start, start + _PIECE)) for start in those] for those in starts]


@dataclass(frozen=True, eq=False)
class _Request:
    """A few images of a batch, and the boxes of their views; squares of the centre where there are none."""

    positions: Tensor
    draws: CropDraws | None
    done: frozenset[int] = frozenset()

    def answer(self, source: LazyImages) -> Tensor:
        """uint8 ``(b, 3, side, side)``, or ``(2, b, 3, size, size)`` where there are boxes; nothing for no images."""
        if not len(self.positions):
            return torch.empty(0, dtype=torch.uint8)
        encoded = source.encoded(self.positions, self.done)
        if self.draws is None:
            return torch.stack([decode(*image, source.side) for image in encoded])
        return read_views(list(encoded), self.draws)

    def __reduce__(self) -> tuple[Any, ...]:
        # As arrays: the memory of tensors would be shared, which needs more than their few bytes.
        if self.draws is None:
            return _request, (self.positions.numpy(), self.done)
        return _request, (self.positions.numpy(), self.done, self.draws.config, self.draws.chances.numpy())


def _request(
    positions: npt.NDArray[Any],
    done: frozenset[int],
    config: ViewConfig | None = None,
    chances: npt.NDArray[Any] | None = None,
) -> _Request:
    draws = None if config is None or chances is None else CropDraws(config, torch.from_numpy(chances))
    return _Request(torch.from_numpy(positions), draws, done)


def default_workers() -> int:
    """Readers of each process: its share of the machine's cores without the one that it runs on, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_WORKERS, max(0, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


def _requests(
    position_batches: Sequence[Tensor], draws: Iterable[CropDraws] | None, divided: list[list[Share]]
) -> Iterator[_Request]:
    drawn = repeat(None, len(position_batches)) if draws is None else draws
    for positions, boxes, parts in zip(position_batches, drawn, divided, strict=True):
        for places, done in parts:
            yield _Request(positions[places], None if boxes is None else boxes.at(places), done)


def _answers(requests: Iterator[_Request], source: LazyImages, workers: int) -> Iterator[Tensor]:
    """The answers to the requests, in order; other processes begin at once."""
    if not workers:
        return (request.answer(source) for request in requests)
    loader, ahead = _readers(source, workers)
    ahead.requests = requests
    return _checked(iter(loader), requests, ahead)


def _checked(pieces: Iterator[Tensor | str], requests: Iterator[_Request], ahead: "_Ahead") -> Iterator[Tensor]:
    while True:
        if ahead.requests is not requests:
            raise RuntimeError("images of this source were asked for again before these were read to their end")
        if (piece := next(pieces, None)) is None:
            return
        if isinstance(piece, str):
            raise DatasetError(piece)
        yield piece


def _together(pieces: Iterator[Tensor], parts: list[Share], count: int, pin: bool) -> Tensor:
    """The pieces of the parts as one batch, in page-locked memory if it is to be copied to a GPU."""
    batch = None
    for places, _ in parts:
        piece = next(pieces)
        if not len(piece):
            continue
        if len(parts) == 1 and isinstance(places, slice) and not pin:
            return piece
        if batch is None:
            shape = (*piece.shape[:-4], count, piece.shape[-2], piece.shape[-1], piece.shape[-3])
            batch = torch.empty(shape, dtype=torch.uint8, pin_memory=pin).movedim(-1, -3)
        batch[..., places, :, :, :] = piece
    assert batch is not None
    return batch


class _Ahead(Sampler[_Request]):
    """What is read next; it changes from call to call, and the readers stay."""

    def __init__(self) -> None:
        self.requests: Iterator[_Request] = iter(())

    def __iter__(self) -> Iterator[_Request]:
        return self.requests


@lru_cache(maxsize=2)
def _readers(source: LazyImages, workers: int) -> tuple[DataLoader[Tensor | str], _Ahead]:
    """The readers of a source, and what tells them what to read; those of the last two sources stay alive."""
    ahead = _Ahead()
    loader: DataLoader[Tensor | str] = DataLoader(
        _Pieces(source),
        batch_size=None,
        sampler=ahead,
        num_workers=workers,
        prefetch_factor=_PREFETCH,
        persistent_workers=True,
        worker_init_fn=_leave_group,
        generator=torch.Generator(),  # A generator of its own leaves the global random state alone.
    )
    with _signals_held():
        iter(loader)  # Readers start here, with nothing to read yet.
    return loader, ahead


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let Ctrl-C and what ends a job wait, for this process and for those that it starts meanwhile."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_group(_: int) -> None:
    """Ctrl-C, and what ends a job, reach a whole group of processes; the one that trains decides when readers end.

    A reader is started with these signals held, so that none ends it before it has left the group.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    if hasattr(signal, "sigtimedwait"):
        while signal.sigtimedwait(_STOPS, 0) is not None:
            pass  # What came before was meant for the group.
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


class _Pieces(Dataset[Tensor | str]):
    """Answers, or the text of an error: a raised one would come back with a reader's traceback."""

    def __init__(self, source: LazyImages) -> None:
        self.source = source

    def __getitem__(self, request: _Request) -> Tensor | str:
        try:
            return request.answer(self.source)
        except DatasetError as error:
            return str(error)


def resident(data: ImageData) -> ImageData:
    """Decode images into memory once, where they are stored at 96 pixels or less and fit into 2 GiB."""
    splits = (data.train, data.test)
    sources = [split.source for split in splits]
    if not all(isinstance(source, LazyImages) and source.side <= SMALL_SIDE for source in sources):
        return data
    if sum(3 * source.side**2 * s.n for source, s in zip(sources, splits, strict=True)) > _RESIDENT_BYTES:  # type: ignore[attr-defined]
        return data
    _log.info("decoding %d small images of %s into memory", data.train.n + data.test.n, data.name)
    train, test = (Split.whole(ResidentImages(split.batch(torch.arange(split.n))), split.labels) for split in splits)
    return replace(data, train=train, test=test)
