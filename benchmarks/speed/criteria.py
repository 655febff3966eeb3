"""A training step of every criterion beside lightly's ``NTXentLoss``: loss and gradients of 1024 pairs, d = 128.

The step of a criterion holds more than a loss: its density scores the batch, and learns it after. It is measured where
training spends its time: when a gas has grown to its capacity and a bank is full.
"""

import sys
from collections.abc import Iterator
from functools import partial

import torch
from _measure import Call, Case, main
from lightly.loss import NTXentLoss
from torch import Tensor
from torch.nn import functional as F

from gmje_core.criteria import GJE, GMJE, GMJEGNG, GMJEMDN, GMJESMC, Criterion

BATCH, DIM, CLUSTERS = 1024, 128, 64
COMPONENTS, PARTICLES, MIXTURE = 512, 4096, 8
#: Batches that a criterion sees before it is measured; a gas inserts ten units in each.
WARM = 60
PEER = "lightly NTXentLoss"


def cases() -> Iterator[Case]:
    """One row for each criterion, and the mixture density network with a batch four times as large."""
    products = 2.0 * BATCH * DIM
    # The scores of all views of the batch by each other, which are symmetric, and the product that is their gradient.
    batch = 3.0 * (2 * BATCH) ** 2 * DIM
    rows = [
        # The joint score of a batch under the critic, the two views' scores, and their gradients.
        ("GJE", lambda: GJE(DIM), 2.0, batch + 3 * 2 * BATCH * (2 * DIM) ** 2),
        (
            f"GMJE, K = {COMPONENTS}",
            lambda: GMJE(DIM, COMPONENTS),
            2.0,
            batch + products * COMPONENTS * (2 + 2 + 2 + 4),
        ),
        (
            f"GNG, K = {COMPONENTS}",
            lambda: GMJEGNG(DIM, COMPONENTS),
            2.0,
            batch + products * COMPONENTS * (4 + 2 + 2 + 4),
        ),
        (f"SMC, {PARTICLES} particles", lambda: GMJESMC(DIM, PARTICLES), 1.0, batch + products * PARTICLES * 8),
        (f"MDN, K = {MIXTURE}", lambda: GMJEMDN(DIM, MIXTURE), 0.5, products * 2 * BATCH * MIXTURE * (1 + 2)),
    ]
    for name, make, goal, flops in rows:
        what = f"step of {name}, B = {BATCH}, d = {DIM}"
        yield Case(what, PEER, goal, partial(build, make, BATCH), flops=flops)
    large = 4 * BATCH
    yield Case(
        f"step of MDN, K = {MIXTURE}, B = {large}, d = {DIM}",
        PEER,
        None,
        partial(build, lambda: GMJEMDN(DIM, MIXTURE), large),
        flops=16 * products * 2 * BATCH * MIXTURE * (1 + 2),
        memory=True,
    )


def build(make: partial[Criterion], batch: int) -> tuple[Call, Call]:
    """Both steps on the same sequence of batches."""
    torch.manual_seed(0)
    batches = pairs(batch, count=8)
    criterion, peer = make(), NTXentLoss(temperature=0.1)
    for index in range(WARM if batch == BATCH else 2):
        criterion(*batches[index % len(batches)])
    seen = [0, 0]

    def ours() -> None:
        step(criterion, batches[seen[0] % len(batches)])
        seen[0] += 1

    def theirs() -> None:
        step(peer, batches[seen[1] % len(batches)])
        seen[1] += 1

    return ours, theirs


def pairs(batch: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of unit-norm embeddings of two views, around random centres."""
    centres = torch.randn(CLUSTERS, DIM)

    def view(labels: Tensor, items: Tensor) -> Tensor:
        return F.normalize(centres[labels] + items + 0.5 * torch.randn(batch, DIM), dim=1)

    made = []
    for _ in range(count):
        labels, items = torch.randint(CLUSTERS, (batch,)), 0.5 * torch.randn(batch, DIM)
        made.append((view(labels, items), view(labels, items)))
    return made


def step(loss: torch.nn.Module, pair: tuple[Tensor, Tensor]) -> None:
    """Loss and gradients of the embeddings and of the loss's parameters."""
    leaves = [z.detach().requires_grad_() for z in pair]
    loss.zero_grad(set_to_none=True)
    loss(*leaves).backward()


if __name__ == "__main__":
    sys.exit(main(__doc__, cases()))
