"""Rows of a matrix, spread over processes in leaves that do not change with their number, so that sums do not either.

A matrix of any number of rows has 32 leaves of whole chunks. Sums over rows are taken leaf by leaf and then along one
binary tree over the leaves. A process holds whole subtrees, so that one process and many add the same numbers in the
same order, to the last bit.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor

from gmje_bench.protocol import PROTOCOL
from gmje_core.distributed import rank, world_size

__all__ = ["LEAVES", "Rows", "Team", "leaf_bounds", "on_wire", "tree_sum"]

#: Number of leaves of the tree, a power of two; more processes than that share no work.
LEAVES = 32
# So many rows are computed with at a time.
_PIECE = 4096


def leaf_bounds(count: int, chunk: int | None = None) -> list[tuple[int, int]]:
    """First row and end of every leaf: whole chunks, as equal in number as can be.

    Args:
        count: Number of rows.
        chunk: Rows of a chunk; those of the protocol where missing.

    Examples:
        >>> bounds = leaf_bounds(600)
        >>> [bound for bound in bounds if bound[0] < bound[1]], len(bounds)
        ([(0, 250), (250, 500), (500, 600)], 32)
    """
    return _bounds(count, chunk or PROTOCOL.feature_batch)


@lru_cache
def _bounds(count: int, chunk: int) -> list[tuple[int, int]]:
    chunks = -(-count // chunk)
    ends = [min(count, chunks * leaf // LEAVES * chunk) for leaf in range(LEAVES)] + [count]
    return list(itertools.pairwise(ends))


def tree_sum(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The sum of tensors along a binary tree; their number is a power of two, and ``None`` stands for zeros.

    Examples:
        >>> tree_sum([torch.tensor(1.0), None, torch.tensor(3.0), torch.tensor(4.0)])
        tensor(8.)
    """
    while len(parts) > 1:
        parts = [_sum(first, second) for first, second in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def on_wire(tensor: Tensor) -> Tensor:
    """A tensor as processes can send it: contiguous, and on the GPU where it is GPUs that talk to each other."""
    if dist.get_backend() == "nccl":
        tensor = tensor.to(torch.device("cuda", torch.cuda.current_device()))
    return tensor.contiguous()


@dataclass(frozen=True)
class Team:
    """The processes that compute together, and which leaves each of them holds.

    Attributes:
        rank: The place of this process.
        size: The number of processes.

    Examples:
        >>> Team(1, 2).leaves == list(range(16, 32))
        True
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of_all(cls) -> "Team":
        """All processes of the run."""
        return cls(rank(), world_size())

    @property
    def subtrees(self) -> int:
        """The number of subtrees that are dealt to the processes."""
        return self.size if self.size <= LEAVES and self.size & (self.size - 1) == 0 else LEAVES

    def owner(self, leaf: int) -> int:
        """The process that holds a leaf."""
        return leaf * self.subtrees // LEAVES % self.size

    @property
    def leaves(self) -> list[int]:
        """The leaves of this process."""
        return [leaf for leaf in range(LEAVES) if self.owner(leaf) == self.rank]

    def gather(self, own: Tensor) -> Tensor:
        """The tensors of all processes ``(size, ...)``, of one shape, on each of them."""
        if self.size == 1:
            return own.unsqueeze(0)
        sent = on_wire(own)
        found = [torch.empty_like(sent) for _ in range(self.size)]
        dist.all_gather(found, sent)
        return torch.stack(found).to(own.device)


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a matrix ``(N, ...)`` that this process holds.

    Attributes:
        count: ``N``, the number of rows of the whole matrix.
        leaves: The rows of every leaf of this process, by its number.
        team: The processes that hold the matrix together.
        empty: No rows ``(0, ...)``, which tell the form of all to a process that has no leaf.
        chunk: Rows of a chunk, of which leaves are made; those of the protocol where missing.

    Examples:
        >>> rows = Rows.of(torch.arange(600.0))
        >>> rows.total(lambda part, place: part.double().sum())
        tensor(179700., dtype=torch.float64)
        >>> rows.take(torch.tensor([3, 599])).whole()
        tensor([  3., 599.])
    """

    count: int
    leaves: dict[int, Tensor]
    team: Team
    empty: Tensor
    chunk: int | None = None

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """First row and end of every leaf."""
        return leaf_bounds(self.count, self.chunk)

    @classmethod
    def of(cls, rows: Tensor, count: int | None = None, team: Team | None = None, chunk: int | None = None) -> "Rows":
        """The rows of this process.

        Args:
            rows: The whole matrix, of which the leaves of this process are taken without a copy; or those leaves alone,
                one after the other.
            count: Rows of the whole matrix; ``rows`` is the whole where missing.
            team: The processes that hold it together; this one alone where missing.
            chunk: Rows of a chunk; those of the protocol where missing.

        Raises:
            ValueError: the rows are neither the whole nor the leaves of this process.
        """
        team, count = team or Team(), len(rows) if count is None else count
        bounds = leaf_bounds(count, chunk)
        own = {leaf: bounds[leaf][1] - bounds[leaf][0] for leaf in team.leaves}
        if len(rows) == count:
            return cls(count, {leaf: rows[slice(*bounds[leaf])] for leaf in own}, team, rows[:0], chunk)
        if len(rows) != sum(own.values()):
            raise ValueError(f"this process holds {sum(own.values())} of {count} rows, but {len(rows)} were given")
        parts = rows.split(list(own.values())) if own else ()
        return cls(count, dict(zip(own, parts, strict=True)), team, rows[:0], chunk)

    def pieces(self, leaf: int) -> Iterator[tuple[Tensor, slice]]:
        """The rows of a leaf, at most 4,096 at a time, with their place in the whole matrix."""
        first, end = self.bounds[leaf]
        for start in range(first, end, _PIECE):
            place = slice(start, min(end, start + _PIECE))
            yield self.leaves[leaf][start - first : place.stop - first], place

    def map(self, function: Callable[[Tensor], Tensor]) -> "Rows":
        """The matrix whose leaves are what a function of rows gives."""
        leaves = {leaf: function(part) for leaf, part in self.leaves.items()}
        return Rows(self.count, leaves, self.team, function(self.empty), self.chunk)

    def total(self, function: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """The sum of what a function gives for pieces of rows, the same bits on every number of processes.

        Args:
            function: Maps rows ``(m, ...)`` and their place to a tensor of a shape that does not depend on them.

        Returns:
            The sum on every process. All processes of the team must call this method.
        """
        sums: dict[int, Tensor] = {}
        for leaf in self.leaves:
            for part, place in self.pieces(leaf):
                found = function(part, place)
                sums[leaf] = sums[leaf] + found if leaf in sums else found
        width = LEAVES // self.team.subtrees
        trees = [
            tree_sum([sums.get(leaf) for leaf in range(tree * width, (tree + 1) * width)])
            for tree in range(self.team.rank, self.team.subtrees, self.team.size)
        ]
        like = next(iter(sums.values()), None)
        zero = torch.zeros_like(function(self.empty, slice(0, 0)) if like is None else like)
        most = -(-self.team.subtrees // self.team.size)
        own = [zero if tree is None else tree for tree in trees] + [zero] * (most - len(trees))
        gathered = self.team.gather(torch.stack(own))
        whole = tree_sum(
            [gathered[tree % self.team.size, tree // self.team.size] for tree in range(self.team.subtrees)]
        )
        assert whole is not None
        return whole

    def take(self, places: Tensor, *, replicated: bool = False) -> "Rows":
        """The rows at ``places`` ``(n,)``, in that order, as a matrix of their own.

        Args:
            places: Numbers of rows.
            replicated: Whether each process gets all of them, as one leaf, and computes alone what is quicker than a
                message, with the same result; otherwise the same processes hold them together. All must call this
                method.
        """
        kept: dict[int, Tensor] = {}
        bounds = self.bounds
        for leaf, (start, end) in enumerate(leaf_bounds(len(places))):
            found = self.empty.new_zeros(end - start, *self.empty.shape[1:])
            asked = places[start:end]
            for own, part in self.leaves.items():
                inside = (asked >= bounds[own][0]) & (asked < bounds[own][1])
                if inside.any():
                    chosen = inside.to(part.device)
                    found[chosen] = part[(asked[inside] - bounds[own][0]).to(part.device)]
            if self.team.size > 1 and end > start:
                sent = on_wire(found)
                dist.all_reduce(sent)  # All processes but one hold zeros, so that the sum is exact.
                found = sent.to(found.device)
            if replicated or self.team.owner(leaf) == self.team.rank:
                kept[leaf] = found
        if replicated:
            return Rows.of(torch.cat(list(kept.values())), chunk=max(1, len(places)))
        return Rows(len(places), kept, self.team, self.empty)

    def whole(self) -> Tensor:
        """All rows in order; where this process is not alone, only the first of the team gets them.

        Leaves are sent one at a time, so that no more than one is held beside the result. All processes must call this
        method; those that are not the first get an empty matrix.
        """
        if self.team.rank != 0:
            for part in self.leaves.values():
                if len(part):
                    dist.send(on_wire(part), 0)
            return self.empty
        result = self.empty.new_empty(self.count, *self.empty.shape[1:])
        for leaf, (start, end) in enumerate(self.bounds):
            owner = self.team.owner(leaf)
            if owner == 0:
                result[start:end] = self.leaves[leaf]
            elif end > start:
                part = on_wire(torch.empty_like(result[start:end]))
                dist.recv(part, owner)
                result[start:end] = part
        return result
