"""A graph of units that grows on paired embeddings: it proposes a number of components and their first means."""

from typing import NamedTuple

import torch
from torch import Tensor

from gmje_core.estimation.gas import NeuralGas
from gmje_core.estimation.pairs import Pairs

__all__ = ["GrownGraph", "grow_graph"]

# Rows of a batch that the gas sees.
_BATCH_SIZE = 256


class GrownGraph(NamedTuple):
    """Graph that Growing Neural Gas made of the pairs.

    Attributes:
        units: Positions ``(n, D)``, in float64.
        edges: Indices of the two units of each edge, ``(E, 2)``; every edge is listed once.
        clusters: Label of the connected component of each unit, ``(n,)``, counted from 0.
    """

    units: Tensor
    edges: Tensor
    clusters: Tensor

    def centres(self) -> Tensor:
        """Mean ``(C, D)`` of the units of each connected component."""
        share = torch.nn.functional.one_hot(self.clusters).to(self.units)
        return (share / share.sum(dim=0)).T @ self.units


def grow_graph(pairs: Pairs, capacity: int, steps: int, generator: torch.Generator) -> GrownGraph:
    """Grow a neural gas on random batches of the pairs.

    Args:
        pairs: At least two rows that differ.
        capacity: Most units that the graph may have.
        steps: Number of batches of up to 256 rows.
        generator: CPU generator that draws the batches.
    """

    def draw_batch() -> Tensor:
        return pairs.rows(torch.randint(len(pairs), (min(_BATCH_SIZE, len(pairs)),), generator=generator)).double()

    first = draw_batch()
    gas = NeuralGas(capacity, pairs.dim, insert_every=100).to(first.device)
    gas.start(first)
    for _ in range(steps):
        gas.observe(draw_batch())
        gas.remove_useless()
        gas.insert()
    order = gas.alive.cumsum(dim=0) - 1
    return GrownGraph(gas.units[gas.alive].clone(), order[gas.edges], gas.clusters()[gas.alive])
