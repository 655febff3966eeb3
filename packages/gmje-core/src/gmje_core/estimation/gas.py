r"""Growing Neural Gas with utility, in batches: a graph of units of fixed capacity with a mask of those alive.

Fritzke (1995, 1997). One distance matrix a batch, scattered sums as matrix products: the same on every device and
rank.
"""

import torch
from torch import Tensor, nn

__all__ = ["NeuralGas"]

# Age of an edge that is not there: finite, so that every state can be saved.
_NO_EDGE = -1.0


class NeuralGas(nn.Module):
    r"""Units, edges with ages, errors and utilities.

    A sample's nearest unit wins it and moves by ``winner_rate``, its neighbours by ``neighbor_rate``; of ``n``
    samples that a unit wins in one batch it moves to their mean by :math:`1 - (1 - e)^n`, as one by one.

    Args:
        capacity: Most units alive at one time.
        dim: ``D``.
        winner_rate: :math:`e_b`.
        neighbor_rate: :math:`e_n`.
        insert_every: Samples between two insertions (:math:`\lambda`).
        max_age: Of an edge, in samples won by its ends since it was last renewed (:math:`a_{max}`).
        split_factor: What is left of the errors of the two units between which one is inserted (:math:`\alpha`).
        error_decay: Share of errors and utilities that is forgotten with each sample (:math:`\beta`).
        utility_factor: The unit of least utility goes when the largest error is so many times that (``k``). The
            usual 3 suits two dimensions; errors grow with the dimension and utilities do not.
    """

    units: Tensor
    alive: Tensor
    errors: Tensor
    utilities: Tensor
    ages: Tensor
    pending: Tensor

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
        super().__init__()
        self.capacity, self.winner_rate, self.neighbor_rate = capacity, winner_rate, neighbor_rate
        self.insert_every, self.max_age, self.split_factor = insert_every, max_age, split_factor
        self.error_decay, self.utility_factor = error_decay, utility_factor
        self.register_buffer("units", torch.zeros(capacity, dim, dtype=torch.float64))
        self.register_buffer("alive", torch.zeros(capacity, dtype=torch.bool))
        self.register_buffer("errors", torch.zeros(capacity, dtype=torch.float64))
        self.register_buffer("utilities", torch.zeros(capacity, dtype=torch.float64))
        #: Symmetric ages of the edges; below zero where there is none.
        self.register_buffer("ages", torch.full((capacity, capacity), _NO_EDGE, dtype=torch.float64))
        #: Samples seen since the last insertion.
        self.register_buffer("pending", torch.zeros((), dtype=torch.long))

    @property
    def adjacency(self) -> Tensor:
        """``(N, N)`` boolean, symmetric."""
        return self.ages >= 0

    @property
    def edges(self) -> Tensor:
        """``(E, 2)`` indices of connected units, each pair once, smaller index first."""
        return self.adjacency.triu(1).nonzero()

    def clusters(self) -> Tensor:
        """``(N,)`` label of the connected component of each unit, from 0; -1 for units that are not alive."""
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
    def start(self, first: Tensor, second: Tensor) -> None:
        """Two units, joined by an edge."""
        self.units[0], self.units[1] = first.to(self.units), second.to(self.units)
        self.alive[:2] = True
        self.ages[0, 1] = self.ages[1, 0] = 0.0

    @torch.no_grad()
    def observe(self, z: Tensor) -> Tensor:
        """Adapt units, edges, errors and utilities to a batch ``(B, D)``; the number of units stays.

        Returns:
            ``(N,)`` samples that each unit won.
        """
        z = z.to(self.units)
        distances = torch.cdist(z, self.units).square().masked_fill(~self.alive, torch.inf)
        near, index = distances.topk(2, dim=1, largest=False)
        won = torch.nn.functional.one_hot(index[:, 0], self.capacity).to(z)
        wins = won.sum(dim=0)
        self.errors += won.T @ near[:, 0]
        self.utilities += won.T @ (near[:, 1] - near[:, 0])
        self._renew_edges(index, wins)
        self._move(won.T @ z, wins)
        keep = (1 - self.error_decay) ** len(z)
        self.errors *= keep
        self.utilities *= keep
        self.pending += len(z)
        return wins

    def _renew_edges(self, index: Tensor, wins: Tensor) -> None:
        self.ages += (wins[:, None] + wins[None, :]) * self.adjacency
        first, second = index.T
        self.ages[first, second] = 0.0
        self.ages[second, first] = 0.0
        self.ages[self.ages > self.max_age] = _NO_EDGE

    def _move(self, sums: Tensor, wins: Tensor) -> None:
        """Winners toward the mean of what they won, neighbours toward the mean of what their neighbours won."""
        beside = self.adjacency.to(sums)
        targets = ((sums, wins, self.winner_rate), (beside @ sums, beside @ wins, self.neighbor_rate))
        moved = self.units.clone()
        for total, count, rate in targets:
            share = 1 - (1 - rate) ** count
            moved += share[:, None] * (total / count.clamp_min(1)[:, None] - self.units) * (count > 0)[:, None]
        self.units.copy_(moved)

    @torch.no_grad()
    def remove_useless(self) -> Tensor:
        """Remove isolated units and those of least utility; returns their indices ``(R,)``."""
        removed = []
        isolated = self.alive & ~self.adjacency.any(dim=1)
        for unit in isolated.nonzero().flatten().tolist():
            if int(self.alive.sum()) > 2:
                removed.append(unit)
                self._remove(unit)
        while int(self.alive.sum()) > 2:
            utilities = self.utilities.masked_fill(~self.alive, torch.inf)
            least = int(utilities.argmin())
            worst = float(self.errors[self.alive].max())
            if worst <= self.utility_factor * float(utilities[least]) or worst == 0:
                break
            removed.append(least)
            self._remove(least)
        return torch.tensor(removed, dtype=torch.long, device=self.units.device)

    def _remove(self, unit: int) -> None:
        self.alive[unit] = False
        self.ages[unit] = _NO_EDGE
        self.ages[:, unit] = _NO_EDGE
        self.errors[unit] = self.utilities[unit] = 0.0

    @torch.no_grad()
    def insert(self) -> list[tuple[int, int, int]]:
        """Insert the units that are due; returns ``(new, worst, neighbour)`` of each."""
        inserted = []
        while int(self.pending) >= self.insert_every:
            self.pending -= self.insert_every
            if bool(self.alive.all()):
                continue
            worst = int(self.errors.masked_fill(~self.alive, -torch.inf).argmax())
            neighbors = self.adjacency[worst]
            if not bool(neighbors.any()) or float(self.errors[worst]) <= 0:
                continue
            beside = int(self.errors.masked_fill(~neighbors, -torch.inf).argmax())
            new = int((~self.alive).nonzero()[0])
            self._insert_between(new, worst, beside)
            inserted.append((new, worst, beside))
        return inserted

    def _insert_between(self, new: int, worst: int, beside: int) -> None:
        self.units[new] = 0.5 * (self.units[worst] + self.units[beside])
        self.alive[new] = True
        self.ages[worst, beside] = self.ages[beside, worst] = _NO_EDGE
        for unit in (worst, beside):
            self.ages[unit, new] = self.ages[new, unit] = 0.0
            self.errors[unit] *= self.split_factor
        self.errors[new] = self.errors[worst]
        self.utilities[new] = 0.5 * (self.utilities[worst] + self.utilities[beside])
