"""A graph of units grown on paired embeddings: where a mixture may begin, and how many components it may need."""

from typing import NamedTuple

import torch
from torch import Tensor

from gmje_core.estimation.gas import NeuralGas
from gmje_core.estimation.pairs import Pairs

__all__ = ["Grown", "grow"]

_BATCH = 256


class Grown(NamedTuple):
    """What Growing Neural Gas made of the pairs.

    Attributes:
        units: ``(n, D)`` float64.
        edges: ``(E, 2)`` indices into the units, each pair once.
        clusters: ``(n,)`` label of the connected component of each unit, from 0.
    """

    units: Tensor
    edges: Tensor
    clusters: Tensor

    def centres(self) -> Tensor:
        """``(C, D)`` mean of each cluster's units."""
        share = torch.nn.functional.one_hot(self.clusters).to(self.units)
        return (share / share.sum(dim=0)).T @ self.units


def grow(pairs: Pairs, capacity: int, steps: int, generator: torch.Generator) -> Grown:
    """Grow a gas on random batches of the pairs.

    Args:
        pairs: At least two rows that differ.
        capacity: Most units.
        steps: Batches of up to 256 rows.
        generator: Draws the batches.
    """

    def batch() -> Tensor:
        return pairs.rows(torch.randint(len(pairs), (min(_BATCH, len(pairs)),), generator=generator)).double()

    first = batch()
    gas = NeuralGas(capacity, pairs.dim, insert_every=100).to(first.device)
    gas.start(first[0], first[int((first - first[0]).square().sum(dim=1).argmax())])
    for _ in range(steps):
        gas.observe(batch())
        gas.remove_useless()
        gas.insert()
    order = gas.alive.cumsum(dim=0) - 1
    return Grown(gas.units[gas.alive].clone(), order[gas.edges], gas.clusters()[gas.alive])
