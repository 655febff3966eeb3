"""One process of a two-process check: trains a linear encoder under a criterion and prints what it ends with.

Run by ``test_distributed.py``; the address of the group comes from the environment, as under ``torchrun``.
"""

import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gmje_core.criteria import GJE, GMJE, GMJEGNG, GMJEMDN, GMJESMC, Criterion
from gmje_core.errors import BatchSizeError

BATCH, FEATURES, DIM, STEPS = 24, 6, 4, 4
#: Pairs that each of the two processes holds in a batch.
SIZES = ((5, 6), (5, 0), (0, 1), (0, 0), (1, 1))

CRITERIA: dict[str, Callable[[], Criterion]] = {
    "gje-running": lambda: GJE(DIM),
    "gje-learned": lambda: GJE(DIM, moments="learned"),
    "gje-batch": lambda: GJE(DIM, moments="batch"),
    "gmje-em-spherical": lambda: GMJE(DIM, 6),
    "gmje-em-full": lambda: GMJE(DIM, 5, covariance_type="full"),
    "gmje-em-low-rank": lambda: GMJE(DIM, 5, covariance_type="low_rank", rank=2),
    "gmje-em-more-than-batch": lambda: GMJE(DIM, 40, covariance_type="diag"),
    "gmje-gradient-full": lambda: GMJE(DIM, 5, covariance_type="full", update="gradient"),
    "gmje-gradient-low-rank": lambda: GMJE(DIM, 5, covariance_type="low_rank", rank=2, update="gradient"),
    "mdn-pmi-full": lambda: GMJEMDN(DIM, 3, covariance_type="full", hidden=8, context_components=5),
    "mdn-nll-diag": lambda: GMJEMDN(DIM, 3, objective="nll", hidden=8, context_components=40),
    "gng-spherical": lambda: GMJEGNG(DIM, 8, insert_every=16),
    "gng-full": lambda: GMJEGNG(DIM, 8, covariance_type="full", insert_every=16),
    "smc-spherical": lambda: GMJESMC(DIM, 40),
    "smc-full-resampling": lambda: GMJESMC(DIM, 60, covariance_type="full", weighting=0.9, ess_threshold=1.0),
}


class Pair(nn.Module):
    """Encoder and criterion under one roof, as DistributedDataParallel wants them."""

    def __init__(self, criterion: Criterion) -> None:
        super().__init__()
        self.encoder = nn.Linear(FEATURES, DIM)
        self.criterion = criterion

    def forward(self, x_context: Tensor, x_target: Tensor) -> Tensor:
        return self.criterion(self.encoder(x_context), self.encoder(x_target))


def train(name: str, rank: int, world: int) -> dict[str, object]:
    torch.manual_seed(0)
    pair = Pair(CRITERIA[name]()).double()
    model = nn.parallel.DistributedDataParallel(pair) if world > 1 else pair
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.01)
    data = torch.Generator().manual_seed(1)
    losses, gradients = [], []
    share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    for _ in range(STEPS):
        x = torch.randn(BATCH, FEATURES, generator=data, dtype=torch.float64)
        y = x + 0.3 * torch.randn(BATCH, FEATURES, generator=data, dtype=torch.float64)
        optimizer.zero_grad()
        loss = model(x[share], y[share])
        loss.backward()
        losses.append(loss.item())
        gradients.append({key: p.grad.tolist() for key, p in pair.named_parameters() if p.grad is not None})
        optimizer.step()
    state = {key: value.tolist() for key, value in pair.state_dict().items()}
    return {"losses": losses, "gradients": gradients, "state": state}


def error_of(size: int) -> str:
    """What a criterion says of a batch of which this process holds so many pairs; nothing where it takes it."""
    try:
        GMJE(DIM, 4)(*torch.randn(2, size, DIM))
    except BatchSizeError as error:
        return str(error)
    return ""


def main() -> None:
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if world > 1:
        dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    results = {name: train(name, rank, world) for name in CRITERIA}
    if world > 1:
        results["errors"] = {str(sizes): error_of(sizes[rank]) for sizes in SIZES}
        dist.destroy_process_group()
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
