"""The optimisers of pretraining: AdamW and SGD of PyTorch, and LARS of lightly."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from gmje_bench.suites import Training

__all__ = ["MOMENTUM", "build_optimizer", "set_rate"]

MOMENTUM = 0.9


def build_optimizer(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    """Build the optimiser of a module, without weight decay on vectors and on parameters of the criterion.

    LARS (You et al., 2017) is lightly's, which this package depends on already: it leaves parameters without weight
    decay out of its scaling, as SimCLR and BYOL do. On CUDA, AdamW and SGD are PyTorch's fused forms.

    Args:
        module: What is trained, on its device; parameters of the criterion have names that begin with ``criterion.``.
        training: The kind of optimiser, its rates and its weight decay.

    Returns:
        An optimiser of three groups: decayed parameters, vectors, and those of the criterion.
    """
    decayed: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    of_criterion: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        of_encoder = vectors if parameter.ndim < 2 else decayed
        (of_criterion if name.startswith("criterion.") else of_encoder).append(parameter)
    rate = training.peak_rate
    # Each group follows the schedule from its own highest rate.
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": training.weight_decay, "peak": rate},
        {"params": vectors, "weight_decay": 0.0, "peak": rate},
        {"params": of_criterion, "weight_decay": 0.0, "peak": training.criterion_learning_rate or rate},
    ]
    groups = [group for group in groups if group["params"]]
    fused = True if any(p.is_cuda for p in decayed) else None
    if training.optimizer == "lars":
        # The import brings Lightning along, which takes seconds.
        from lightly.utils.lars import LARS

        lars: torch.optim.Optimizer = LARS(groups, lr=rate, momentum=MOMENTUM)
        return lars
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, fused=fused)
    return torch.optim.AdamW(groups, lr=rate, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, schedule: Callable[[float], float]) -> None:
    """Set the learning rate of every group.

    Args:
        optimizer: What :func:`build_optimizer` made, or a wrapper of it.
        schedule: A function from a group's highest rate to its rate in this step.
    """
    for group in optimizer.param_groups:
        group["lr"] = schedule(group["peak"])
