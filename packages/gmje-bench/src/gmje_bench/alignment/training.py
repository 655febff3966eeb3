"""How the rivals that are networks are trained: Adam with a cosine to zero, stopped on pairs set aside."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["split", "train"]

_VALIDATION, _RATE = 0.1, 4e-3


def split(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw which of ``count`` pairs, a tenth of them, are set aside; returns their numbers and those of the rest."""
    order = torch.randperm(count, generator=generator)
    held = max(2, int(_VALIDATION * count))
    return order[:held], order[held:]


def train(
    module: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    context: Tensor,
    target: Tensor,
    epochs: int,
    seed: int,
    *,
    batch: int = 256,
    rate: float = _RATE,
) -> Tensor:
    """Train a module; it ends with the parameters that were best on the pairs set aside.

    Args:
        module: The module, on which Adam works.
        loss_of: A function from contexts and targets of a batch to the loss.
        context: ``(N, d_c)``.
        target: ``(N, d_t)``.
        epochs: Number of passes over the pairs that are not set aside.
        seed: Seed of the split and of the order of the pairs.
        batch: Pairs in a step.
        rate: Learning rate at the start.

    Returns:
        Numbers of the pairs set aside.
    """
    generator = torch.Generator().manual_seed(seed)
    aside, rest = split(len(context), generator)
    batch = min(batch, len(rest))
    steps = epochs * (len(rest) // batch)
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    least, best = math.inf, copy.deepcopy(module.state_dict())
    for _ in range(epochs):
        module.train()
        shuffled = rest[torch.randperm(len(rest), generator=generator)]
        for index in shuffled[: len(rest) // batch * batch].split(batch):
            loss = loss_of(context[index], target[index])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimizer.step()
            schedule.step()
        module.eval()
        with torch.no_grad():
            score = float(loss_of(context[aside], target[aside]))
        if score < least:
            least, best = score, copy.deepcopy(module.state_dict())
    module.load_state_dict(best)
    return aside
