"""Pairs, generators and densities for the tests of the synthetic tasks."""

import torch
from torch import Tensor

from gmje_bench.alignment.tasks import TASKS, make_truth

ALL = list(TASKS)
# Kolmogorov's statistic times sqrt(n) exceeds this once in 10 000 uniform samples.
KOLMOGOROV = 2.23


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs(name: str, count: int, dim: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    context, target = make_truth(name, dim=dim).sample(count, generator(seed))
    return context.float(), target.float()


def normal(x: Tensor, mean: Tensor, deviation: float | Tensor) -> Tensor:
    return torch.distributions.Normal(mean, deviation).log_prob(x)
