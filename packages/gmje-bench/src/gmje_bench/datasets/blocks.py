"""Images that are read in blocks, such as the row groups of Parquet files: their order in training, and who reads what.

The order is a permutation of all images that depends on the data, the batch size, the seed and the epoch alone. Any
number of processes and of readers sees the same batches, and training goes on at any image without a state of its own.
It is local: a block is used within a short time, in one part of the batch, hence by one process.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

__all__ = ["Share", "block_order", "shares"]


def block_order(blocks: Tensor, batch_size: int, mixed: int, generator: Generator) -> Tensor:
    """A shuffled order in which every image comes once and those of a block come soon after each other.

    The blocks are shuffled and laid one after the other; the row of images is cut into equal lanes; each lane is
    shuffled within windows as long as a block. A batch takes as many images from each lane, one lane after the other.

    Args:
        blocks: int64 ``(n,)``, the block of every image.
        batch_size: Number of images in a global batch.
        mixed: The largest number of lanes: a batch mixes the images of about so many blocks, or of somewhat more.
        generator: The source of the order.

    Returns:
        int64 ``(n,)``, a permutation of ``0 .. n - 1``; images that fill no batch are its end.

    Examples:
        >>> blocks = torch.arange(6).repeat_interleave(4)
        >>> order = block_order(blocks, batch_size=4, mixed=2, generator=torch.Generator().manual_seed(0))
        >>> sorted(order.tolist()) == list(range(24))
        True
        >>> max(len(blocks[batch].unique()) for batch in order.split(4)) <= 3
        True
    """
    n = len(blocks)
    distinct, block = blocks.unique(return_inverse=True)
    turn = torch.randperm(len(distinct), generator=generator)
    row = torch.argsort(turn[block], stable=True)
    lanes = max(count for count in range(1, min(mixed, batch_size) + 1) if batch_size % count == 0)
    length = n // lanes
    window = max(1, round(n / len(distinct)))
    # The windows of the lanes end at different times, so that blocks are not all asked for at once.
    place = torch.arange(length) + torch.arange(lanes).unsqueeze(1) * window // lanes
    key = place // window + torch.rand(lanes, length, generator=generator, dtype=torch.float64)
    laid = row[: lanes * length].view(lanes, length).gather(1, key.argsort(dim=1))
    share = batch_size // lanes
    full = n // batch_size * share
    batches = laid[:, :full].reshape(lanes, -1, share).transpose(0, 1).flatten()
    return torch.cat([batches, laid[:, full:].flatten(), row[lanes * length :]])


class Share(NamedTuple):
    """What one reader reads of a batch at a time.

    Attributes:
        places: int64 ``(m,)``, places in the batch, or a slice of them.
        done: Blocks that this reader is not asked for again.
    """

    places: Tensor | slice
    done: frozenset[int] = frozenset()


def shares(block_batches: Sequence[Tensor], readers: int, most: int) -> list[list[Share]]:
    """Divide batches among readers, so that every block is read by one reader, and say when it is needed no more.

    Args:
        block_batches: int64 ``(b,)`` each, the blocks of the images of every batch.
        readers: Number of readers.
        most: Largest number of images of a share.

    Returns:
        The shares of every batch, for one reader after the other, in as many rounds as the largest needs; those of a
        reader that has no more are empty. Within them the images of a block come together.

    Examples:
        >>> (first, second), (third, fourth) = shares([torch.tensor([3, 0, 3]), torch.tensor([3, 4])], 2, most=32)
        >>> first.places.tolist(), first.done, second.places.tolist(), second.done
        ([1], frozenset({0}), [0, 2], frozenset())
        >>> fourth.places.tolist(), fourth.done, third.done
        ([0], frozenset({3}), frozenset({4}))
    """
    pieces = [_pieces(blocks, readers, most) for blocks in block_batches]
    found = [
        [frozenset(blocks[places].unique().tolist()) for places in parts]
        for blocks, parts in zip(block_batches, pieces, strict=True)
    ]
    last = {block: (batch, part) for batch, sets in enumerate(found) for part, own in enumerate(sets) for block in own}
    return [
        [
            Share(places, frozenset(block for block in found[batch][part] if last[block] == (batch, part)))
            for part, places in enumerate(parts)
        ]
        for batch, parts in enumerate(pieces)
    ]


def _pieces(blocks: Tensor, readers: int, most: int) -> list[Tensor]:
    order = torch.argsort(blocks, stable=True)
    reader = blocks[order] % readers
    own = [order[reader == number] for number in range(readers)]
    rounds = -(-max(map(len, own)) // most)
    return [places[turn * most :][:most] for turn in range(rounds) for places in own]
