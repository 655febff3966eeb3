"""Weighted k-nearest-neighbour classification on frozen features."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.rows import Rows, leaf_bounds, on_wire
from gmje_bench.tasks.subject import FeatureSubject, TaskResult

__all__ = ["Neighbours", "knn", "nearest", "weighted_knn"]

# So many test rows are compared at once, with up to 4,096 rows of the bank at a time.
_CHUNK = 2000
# Lists of neighbours are merged where they are so many times as long as what is kept of them.
_LISTS = 4
# Numbers of a block whose maximum is taken first.
_BLOCK = 16


class Neighbours(NamedTuple):
    """The nearest training rows of some test rows, the nearest first; of equal ones, the first in order.

    Attributes:
        cosine: float32 ``(m, k)``.
        places: int64 ``(m, k)``, their places among the training rows.
    """

    cosine: Tensor
    places: Tensor


def knn(subject: FeatureSubject) -> TaskResult:
    """Top-1 accuracy in per cent of :func:`weighted_knn`, and top-5 accuracy where there are more than ten classes."""
    train, test = subject.train, subject.test
    top1, top5 = weighted_knn(
        subject.rows(train), train.labels, subject.rows(test), test.labels, len(subject.classes), subject.device
    )
    return TaskResult({"knn": top1} | ({"knn_top5": top5} if len(subject.classes) > 10 else {}))


def weighted_knn(
    train: Rows, train_labels: Tensor, test: Rows, test_labels: Tensor, classes: int, device: torch.device
) -> tuple[float, float]:
    r"""Accuracy in per cent of the vote :math:`\sum_{i \in \mathrm{kNN}} e^{\cos(f, f_i) / T}\, 1[y_i = y]`.

    The vote is that of Wu et al. (2018), with the protocol's ``k`` and ``T``. All processes that hold rows must call
    this function, and get the same numbers as one alone; memory does not grow with the number of rows.

    Args:
        train: ``(N, F)``.
        train_labels: int64 ``(N,)``, on every process.
        test: ``(M, F)``.
        test_labels: int64 ``(M,)``, on every process.
        classes: Number of classes.
        device: Where it is computed.

    Returns:
        Top-1 and top-5 accuracy; a class without a vote is not among the five.

    Examples:
        >>> rows, labels = Rows.of(torch.eye(2).repeat(30, 1)), torch.arange(60) % 2
        >>> weighted_knn(rows, labels, rows, labels, 2, torch.device("cpu"))
        (100.0, 100.0)
    """
    k = min(PROTOCOL.knn_k, len(train_labels))
    bank_labels = train_labels.to(device)
    right = torch.zeros(2, dtype=torch.int64)
    for queries, place in shared_pieces(test, device):
        cosine, places = nearest(train, queries, k)
        votes = torch.zeros(len(queries), classes, device=device)
        votes.scatter_add_(1, bank_labels[places], (cosine / PROTOCOL.knn_temperature).exp())
        order = votes.sort(dim=1, descending=True, stable=True)
        hits = (order.indices == test_labels[place].to(device).unsqueeze(1)) & (order.values > 0)
        right += torch.stack([hits[:, :first].sum() for first in (1, 5)]).cpu()
    top1, top5 = (100.0 * int(count) / len(test_labels) for count in right)
    return top1, top5


def shared_pieces(rows: Rows, device: torch.device) -> Iterator[tuple[Tensor, slice]]:
    """All rows, 2,000 at a time, float32 at unit norm, on every process, with their place in the whole matrix."""
    held, place = rows.empty.to(device), 0
    for leaf, (start, end) in enumerate(leaf_bounds(rows.count)):
        for first in range(0, end - start, _CHUNK):
            piece = _shared(rows, leaf, slice(first, min(first + _CHUNK, end - start)), device)
            held = torch.cat([held, piece])
            while len(held) >= min(_CHUNK, rows.count - place) > 0:
                part, held = held[:_CHUNK], held[_CHUNK:]
                yield F.normalize(part.float(), dim=1), slice(place, place + len(part))
                place += len(part)


def _shared(rows: Rows, leaf: int, place: slice, device: torch.device) -> Tensor:
    """Rows of a leaf, which its owner sends to every process."""
    owner = rows.team.owner(leaf)
    if owner == rows.team.rank:
        part = rows.leaves[leaf][place].to(device)
    else:
        part = rows.empty.new_empty(place.stop - place.start, *rows.empty.shape[1:], device=device)
    if rows.team.size == 1:
        return part
    sent = on_wire(part)
    dist.broadcast(sent, owner)
    return sent.to(device)


def nearest(bank: Rows, queries: Tensor, k: int) -> Neighbours:
    """The ``k`` rows of highest cosine, over all processes that hold the bank.

    Args:
        bank: ``(N, F)``.
        queries: float32 ``(m, F)`` at unit norm, the same on every process.
        k: At most ``N``.

    Examples:
        >>> nearest(Rows.of(torch.tensor([[0.0, 2.0], [3.0, 0.0], [1.0, 0.0]])), torch.tensor([[1.0, 0.0]]), 2).places
        tensor([[1, 2]])
    """
    found = Neighbours(
        queries.new_full((len(queries), k), -torch.inf),
        torch.full((len(queries), k), bank.count, device=queries.device),
    )
    parts, seen, bounded = [found], 0, False
    # Memory that every piece uses again takes no time to be allocated.
    memory = queries.new_empty(0)
    for leaf in bank.leaves:
        for part, place in bank.pieces(leaf):
            # Products of a width that is no multiple of 16 are a third slower on a CPU.
            unit = F.pad(F.normalize(part.to(queries.device).float(), dim=1), (0, 0, 0, -len(part) % _BLOCK))
            if memory.numel() < len(queries) * len(unit):
                memory = queries.new_empty(len(queries) * len(unit))
            products = torch.mm(queries, unit.T, out=memory[: len(queries) * len(unit)].view(len(queries), len(unit)))
            cosine = products[:, : len(part)]
            # Rows come in order, so that only what is higher than the last neighbour so far can take its place.
            least = found.cosine[:, -1:] if bounded else None
            parts.append(higher(cosine, place.start, least, k, bank.count))
            seen += len(part)
            if not bounded or sum(part.cosine.shape[1] for part in parts) > _LISTS * k:
                found = merged(parts, k)
                parts, bounded = [found], seen >= k
    found = merged(parts, k)
    if bank.team.size == 1:
        return found
    return merged([Neighbours(*pair) for pair in zip(*map(bank.team.gather, found), strict=True)], k)


def higher(cosine: Tensor, start: int, least: Tensor | None, k: int, missing: int) -> Neighbours:
    """What may be among the ``k`` highest numbers of every row ``(m, n)``: those above a bound, or the ``k`` highest.

    Args:
        cosine: ``(m, n)``.
        start: Place of the first column.
        least: ``(m, 1)`` numbers that are not of interest any more, nor are smaller ones; ``None`` for no bound.
        k: How many are kept in the end.
        missing: The place of the minus infinity that fills lists of fewer numbers.
    """
    blocks = cosine.shape[1] // _BLOCK
    if least is None or not blocks:
        return highest(cosine, start, k)
    # As in `highest`, number j is in block j % blocks. NaN, the highest number there, counts as above the bound.
    grid = cosine[:, : blocks * _BLOCK].unflatten(1, (_BLOCK, blocks))
    rows, block = (~(grid.amax(dim=1) <= least)).nonzero(as_tuple=True)
    if len(rows) > k * len(cosine):
        return highest(cosine, start, k)
    columns = block.unsqueeze(1) + blocks * torch.arange(_BLOCK, device=cosine.device)
    after, rest = (~(cosine[:, blocks * _BLOCK :] <= least)).nonzero(as_tuple=True)
    rows = torch.cat([rows.repeat_interleave(_BLOCK), after])
    columns = torch.cat([columns.flatten(), rest + blocks * _BLOCK])
    values = cosine[rows, columns]
    kept = ~(values <= least[rows, 0])
    rows, columns, values = rows[kept], columns[kept], values[kept]
    rows, order = rows.sort(stable=True)
    counts = rows.bincount(minlength=len(cosine))
    rank = torch.arange(len(rows), device=rows.device) - (counts.cumsum(dim=0) - counts)[rows]
    width = int(counts.max()) if len(counts) else 0
    found = Neighbours(
        cosine.new_full((len(cosine), width), -torch.inf),
        torch.full((len(cosine), width), missing, device=cosine.device),
    )
    found.cosine[rows, rank], found.places[rows, rank] = values[order], columns[order] + start
    return found


def highest(cosine: Tensor, start: int, k: int) -> Neighbours:
    """The ``k`` highest numbers of every row ``(m, n)``, or all; of equal ones, the first."""
    k = min(k, cosine.shape[1])
    blocks = cosine.shape[1] // _BLOCK
    if blocks < 2 * k:
        values, places = cosine.topk(k, dim=1)
        seen = cosine >= values[:, -1:]
    else:
        # The k highest numbers lie in the k blocks of highest maxima, which hold few of all. Number j is in block
        # j % blocks, so that maxima are taken over whole rows at a time; the rest after the last block is one more.
        grid = cosine[:, : blocks * _BLOCK].unflatten(1, (_BLOCK, blocks))
        tops, block = grid.amax(dim=1).topk(k + 1, dim=1)
        among = (block[:, :k].unsqueeze(1) + blocks * torch.arange(_BLOCK, device=cosine.device)[:, None]).flatten(1)
        rest = torch.arange(blocks * _BLOCK, cosine.shape[1], device=cosine.device)
        among = torch.cat([among, rest.expand(len(cosine), -1)], dim=1)
        candidates = cosine.gather(1, among)
        values, order = candidates.topk(k, dim=1)
        places = among.gather(1, order)
        # A block that was left out may hold a number equal to the last one.
        seen = torch.cat([candidates >= values[:, -1:], tops[:, k:] >= values[:, -1:]], dim=1)
    # Which of several numbers equal to the last one are given is not said; rows with such ties are sorted.
    tied = seen.sum(dim=1) > k
    if tied.any():
        exact = cosine[tied].sort(dim=1, descending=True, stable=True)
        values[tied], places[tied] = exact.values[:, :k], exact.indices[:, :k]
    return Neighbours(values, places + start)


def merged(parts: list[Neighbours], k: int) -> Neighbours:
    """The ``k`` nearest of several lists; of equal ones, the first in the order of the bank."""
    cosine, places = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
    order = places.argsort(dim=1)
    cosine, places = cosine.gather(1, order), places.gather(1, order)
    order = cosine.argsort(dim=1, descending=True, stable=True)[:, :k]
    return Neighbours(cosine.gather(1, order), places.gather(1, order))
