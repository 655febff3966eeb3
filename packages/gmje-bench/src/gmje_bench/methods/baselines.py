"""The baselines, with lightly's losses, and an encoder without any."""

from typing import Any

import torch
from lightly.loss import NTXentLoss, VICRegLoss
from torch import Tensor, nn

from gmje_bench.errors import OptionError
from gmje_bench.methods import Objective, take_options
from gmje_core.distributed import world_size

__all__ = ["moco", "random", "simclr", "vicreg"]


def simclr(dim: int, options: dict[str, Any]) -> Objective:
    """NT-Xent over the views of the global batch (Chen et al., 2020)."""
    chosen = take_options("simclr", options, temperature=0.1)
    if chosen["temperature"] < 1e-6:  # a softmax of infinities
        raise OptionError(f"method simclr: temperature must be at least 1e-6, got {chosen['temperature']}")
    return Objective(NTXentLoss(**chosen, gather_distributed=world_size() > 1))


def moco(dim: int, options: dict[str, Any]) -> Objective:
    """InfoNCE against a queue of past targets, with a momentum encoder of the target (He et al., 2020)."""
    chosen = take_options("moco", options, temperature=0.1, queue=4096, momentum=0.99)
    if chosen["temperature"] < 1e-6:
        raise OptionError(f"method moco: temperature must be at least 1e-6, got {chosen['temperature']}")
    if chosen["queue"] < 1 or chosen["queue"] != int(chosen["queue"]):
        raise OptionError(f"method moco: queue must be an integer of at least 1, got {chosen['queue']}")
    if not chosen["momentum"] < 1:
        raise OptionError(f"method moco: momentum must lie in [0, 1), got {chosen['momentum']}")
    loss = NTXentLoss(
        chosen["temperature"],
        memory_bank_size=(int(chosen["queue"]), dim),
        gather_distributed=world_size() > 1,
    )
    return Objective(loss, momentum=chosen["momentum"])


def vicreg(dim: int, options: dict[str, Any]) -> Objective:
    """Variance, invariance and covariance of unnormalised embeddings (Bardes et al., 2022)."""
    chosen = take_options("vicreg", options, lambda_param=25.0, mu_param=25.0, nu_param=1.0)
    return Objective(VICRegLoss(**chosen, gather_distributed=world_size() > 1), normalize=False)


class _Zero(nn.Module):
    """A loss without gradient."""

    def forward(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        return torch.zeros((), device=z_context.device)


def random(dim: int, options: dict[str, Any]) -> Objective:
    """The initial encoder, as it is."""
    take_options("random", options)
    return Objective(_Zero(), trains=False)
