"""Alignment and uniformity on the sphere (Wang and Isola, 2020)."""

import torch
from torch import Tensor, nn

from gmje_bench.methods import Objective, Setting
from gmje_core.distributed import gather_pairs


class AlignUniform(nn.Module):
    """Positive pairs close, all pairs spread: the loss of the global batch."""

    def __init__(self, weight: float, scale: float) -> None:
        super().__init__()
        self.weight, self.scale = weight, scale

    def forward(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        """Embeddings ``(b, dim)`` of this process's pairs, of unit norm."""
        z_context, z_target = gather_pairs(z_context, z_target)  # those of all processes, with gradient
        alignment = (z_context - z_target).square().sum(dim=1).mean()
        uniformity = [torch.pdist(z).square().mul(-self.scale).exp().mean().log() for z in (z_context, z_target)]
        return alignment + self.weight * sum(uniformity) / 2


def options() -> dict[str, float]:
    """Names and defaults; the section ``[method.align_uniform]`` of a suite may change them."""
    return {"weight": 1.0, "scale": 2.0}


def build(setting: Setting, weight: float, scale: float) -> Objective:
    """What is trained with: the setting says the embeddings' size and the number of classes."""
    return Objective(AlignUniform(weight, scale), normalize=True)
