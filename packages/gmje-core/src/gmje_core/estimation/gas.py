r"""Growing Neural Gas with utility, in batches: a graph of units of fixed capacity with a mask of those alive.

The algorithm is that of Fritzke (1995, 1997). A batch takes one distance matrix, and sums over samples are matrix
products, which give the same on every rank. Nothing is read from the device while the gas adapts: a mask says what
happens.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gmje_core.counting import CountingModule

__all__ = ["Insertion", "NeuralGas"]

# Age of an edge that does not exist; it is finite, so that every state can be saved.
_NO_EDGE = -1.0


class Insertion(NamedTuple):
    """A unit put between two others, each a tensor ``(1,)``.

    Attributes:
        new: Index of the new unit.
        worst: Index of the unit of largest error.
        beside: Index of its neighbour of largest error.
        happens: Whether the unit was inserted; that takes room, a neighbour, and an error above zero.
    """

    new: Tensor
    worst: Tensor
    beside: Tensor
    happens: Tensor


class NeuralGas(CountingModule):
    r"""A graph of units that have errors and utilities, with edges that have ages.

    A sample's nearest unit wins it and moves toward it by ``winner_rate`` of the way, the unit's neighbours by
    ``neighbor_rate``. A unit that wins ``n`` samples of one batch moves toward their mean by :math:`1 - (1 - e)^n`,
    as ``n`` steps toward that mean would move it.

    Args:
        capacity: Largest number of units alive at one time.
        dim: Dimension ``D`` of a sample.
        winner_rate: Share of the way that a winner moves (:math:`e_b`).
        neighbor_rate: Share of the way that its neighbours move (:math:`e_n`).
        insert_every: Samples between two insertions (:math:`\lambda`).
        max_age: Largest age of an edge, in samples won by its ends since it was last renewed (:math:`a_{max}`).
        split_factor: Share of their errors that two units keep when one is inserted between them (:math:`\alpha`).
        error_decay: Share of errors and utilities that is forgotten with each sample (:math:`\beta`).
        utility_factor: The unit of least utility is removed when the largest error is this many times its utility
            (``k``). The usual 3 suits two dimensions; errors grow with the dimension and utilities do not.
    """

    units: Tensor
    alive: Tensor
    errors: Tensor
    utilities: Tensor
    ages: Tensor

    def __init__(
        self,
        capacity: int,
        dim: int,
        *,
        winner_rate: float = 0.05,
        neighbor_rate: float = 0.0006,
        insert_every: int = 300,
        max_age: float = 88.0,
        split_factor: float = 0.5,
        error_decay: float = 0.0005,
        utility_factor: float = 15.0,
    ) -> None:
        # Samples seen since the last insertion, and how many units may ever have been alive at one time.
        super().__init__(pending=0, used=0)
        self.capacity, self.winner_rate, self.neighbor_rate = capacity, winner_rate, neighbor_rate
        self.insert_every, self.max_age, self.split_factor = insert_every, max_age, split_factor
        self.error_decay, self.utility_factor = error_decay, utility_factor
        self.register_buffer("units", torch.zeros(capacity, dim, dtype=torch.float64))
        self.register_buffer("alive", torch.zeros(capacity, dtype=torch.bool))
        self.register_buffer("errors", torch.zeros(capacity, dtype=torch.float64))
        self.register_buffer("utilities", torch.zeros(capacity, dtype=torch.float64))
        #: Symmetric matrix of the ages of the edges, negative where there is no edge.
        self.register_buffer("ages", torch.full((capacity, capacity), _NO_EDGE, dtype=torch.float64))

    @property
    def adjacency(self) -> Tensor:
        """``(N, N)`` whether two units are joined by an edge; symmetric."""
        return self.ages >= 0

    @property
    def edges(self) -> Tensor:
        """``(E, 2)`` indices of connected units, each pair once, smaller index first."""
        return self.adjacency.triu(1).nonzero()

    def clusters(self) -> Tensor:
        """``(N,)`` labels from 0 of the connected component that each unit is in; -1 for units that are not alive."""
        labels = torch.arange(self.capacity, device=self.units.device)
        reach = self.adjacency | torch.eye(self.capacity, dtype=torch.bool, device=labels.device)
        while True:
            # The smallest label among the neighbours, until nothing changes.
            spread = torch.where(reach, labels, self.capacity).amin(dim=1)
            if torch.equal(spread, labels):
                break
            labels = spread
        labels = torch.where(self.alive, labels, -1)
        _, compact = labels.unique(return_inverse=True)
        compacted: Tensor = compact - int(not bool(self.alive.all()))
        return compacted

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Begin from two samples of a batch ``(B, D)``, the first and the one farthest from it, joined by an edge."""
        farthest = (z - z[0]).square().sum(dim=1).argmax(dim=0, keepdim=True)
        self.units.zero_()[:2] = torch.cat([z[:1], z[farthest]]).to(self.units)
        self.alive.zero_()[:2] = True
        self.errors.zero_()
        self.utilities.zero_()
        self.ages.fill_(_NO_EDGE)[0, 1] = 0.0
        self.ages[1, 0] = 0.0
        self.counters.update(pending=0, used=2)

    @torch.no_grad()
    def observe(self, z: Tensor) -> Tensor:
        """Adapt units, edges, errors and utilities to a batch ``(B, D)``; the number of units stays.

        Returns:
            ``(N,)`` samples that each unit won.
        """
        z = z.to(self.units)
        distances = torch.cdist(z, self.units).square().masked_fill(~self.alive, torch.inf)
        near, index = distances.topk(2, dim=1, largest=False)
        won = torch.zeros_like(distances).scatter_(1, index[:, :1], 1.0)
        wins = won.sum(dim=0)
        self.errors += won.T @ near[:, 0]
        self.utilities += won.T @ (near[:, 1] - near[:, 0])
        self._renew_edges(index, wins)
        self._move(won.T @ z, wins)
        keep = (1 - self.error_decay) ** len(z)
        self.errors *= keep
        self.utilities *= keep
        self.counters["pending"] += len(z)
        return wins

    def _renew_edges(self, index: Tensor, wins: Tensor) -> None:
        self.ages += (wins[:, None] + wins[None, :]) * self.adjacency
        first, second = index.T
        self.ages[first, second] = 0.0
        self.ages[second, first] = 0.0
        self.ages.masked_fill_(self.ages > self.max_age, _NO_EDGE)

    def _move(self, sums: Tensor, wins: Tensor) -> None:
        """Move winners toward the mean of what they won, and units toward the mean of what their neighbours won."""
        beside = self.adjacency.to(sums)
        targets = ((sums, wins, self.winner_rate), (beside @ sums, beside @ wins, self.neighbor_rate))
        moved = self.units.clone()
        for total, count, rate in targets:
            share = 1 - (1 - rate) ** count
            moved += share[:, None] * (total / count.clamp_min(1)[:, None] - self.units) * (count > 0)[:, None]
        self.units.copy_(moved)

    @torch.no_grad()
    def remove_useless(self) -> Tensor:
        """Remove isolated units and those of least utility, but leave two; return ``(N,)`` which were removed."""
        isolated = self.alive & ~self.adjacency.any(dim=1)
        isolated &= isolated.cumsum(dim=0) <= self.alive.sum() - 2
        self._remove(isolated)
        # In order of utility, a unit is removed while the largest error that is left is too many times its utility.
        order = self.utilities.masked_fill(~self.alive, torch.inf).argsort(stable=True)
        errors = self.errors.masked_fill(~self.alive, 0.0)[order]
        largest = errors.flip(0).cummax(dim=0).values.flip(0)
        left = self.alive.sum() - torch.arange(self.capacity, device=order.device)
        goes = (largest > self.utility_factor * self.utilities[order]) & (largest > 0) & (left > 2)
        useless = torch.zeros_like(isolated)
        useless[order] = goes.cumprod(dim=0).bool()
        self._remove(useless)
        return isolated | useless

    def _remove(self, units: Tensor) -> None:
        """Remove the units of a mask ``(N,)`` with their edges."""
        self.alive &= ~units
        self.ages.masked_fill_(units[:, None] | units[None, :], _NO_EDGE)
        self.errors.masked_fill_(units, 0.0)
        self.utilities.masked_fill_(units, 0.0)

    @torch.no_grad()
    def insert(self) -> list[Insertion]:
        """Insert the units that are due, each between the unit of largest error and its worst neighbour."""
        inserted = []
        while self.counters["pending"] >= self.insert_every:
            self.counters["pending"] -= self.insert_every
            self.counters["used"] = min(self.capacity, self.counters["used"] + 1)
            inserted.append(self._insert_one())
        return inserted

    def _insert_one(self) -> Insertion:
        worst = self.errors.masked_fill(~self.alive, -torch.inf).argmax(dim=0, keepdim=True)
        neighbors = self.adjacency[worst[0:1]].squeeze(0)
        beside = self.errors.masked_fill(~neighbors, -torch.inf).argmax(dim=0, keepdim=True)
        new = self.alive.to(torch.int8).argmin(dim=0, keepdim=True)
        happens = ~self.alive.all() & neighbors.any() & (self.errors[worst] > 0)

        def put(buffer: Tensor, place: tuple[Tensor, ...], value: Tensor | float) -> None:
            buffer[place] = torch.where(happens, torch.as_tensor(value, dtype=buffer.dtype), buffer[place])

        middle = 0.5 * (self.units[worst] + self.units[beside])
        utility = 0.5 * (self.utilities[worst] + self.utilities[beside])
        put(self.units, (new,), middle)
        put(self.ages, (worst, beside), _NO_EDGE)
        put(self.ages, (beside, worst), _NO_EDGE)
        for unit in (worst, beside):
            put(self.ages, (unit, new), 0.0)
            put(self.ages, (new, unit), 0.0)
            put(self.errors, (unit,), self.split_factor * self.errors[unit])
        put(self.errors, (new,), self.errors[worst])
        put(self.utilities, (new,), utility)
        self.alive[new] = self.alive[new] | happens
        return Insertion(new, worst, beside, happens)
