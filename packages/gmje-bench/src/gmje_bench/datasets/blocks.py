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
    """What one reader reads of a batch.

    Attributes:
        places: int64 ``(m,)``, places in the batch; sorted so that the images of a block come together.
        done: Blocks that this reader is not asked for again.
    """

    places: Tensor
    done: frozenset[int]


def shares(block_batches: Sequence[Tensor], readers: int) -> list[list[Share]]:
    """Divide batches among readers, so that every block is read by one reader, and say when it is needed no more.

    Args:
        block_batches: int64 ``(b,)`` each, the blocks of the images of every batch.
        readers: Number of readers.

    Returns:
        The shares of every batch, one for each reader.

    Examples:
        >>> (first, second), (third, fourth) = shares([torch.tensor([3, 0, 3]), torch.tensor([3, 4])], 2)
        >>> first.places.tolist(), first.done, second.places.tolist(), second.done
        ([1], frozenset({0}), [0, 2], frozenset())
        >>> fourth.places.tolist(), fourth.done, third.done
        ([0], frozenset({3}), frozenset({4}))
    """
    last = {block: number for number, blocks in enumerate(block_batches) for block in blocks.unique().tolist()}
    divided = []
    for number, blocks in enumerate(block_batches):
        order = torch.argsort(blocks, stable=True)
        reader = blocks[order] % readers
        done = [block for block in blocks.unique().tolist() if last[block] == number]
        divided.append(
            [
                Share(order[reader == r], frozenset(block for block in done if block % readers == r))
                for r in range(readers)
            ]
        )
    return divided
