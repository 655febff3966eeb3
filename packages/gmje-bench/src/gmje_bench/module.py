"""What is trained: a backbone, a projection head and a criterion, with one forward pass that gives the loss."""

import torch
from torch import Tensor, nn

from gmje_bench.methods import build_objective
from gmje_bench.suite import Suite
from gmje_core import Criterion, diagnostics
from gmje_core.distributed import gather_pairs
from gmje_core.networks import MomentumEncoder, ProjectionHead, build_backbone

__all__ = ["JointEmbedding", "build_module"]


class JointEmbedding(nn.Module):
    """Backbone, projection head and criterion under one roof, as DistributedDataParallel wants them.

    Args:
        backbone: Images to features; has ``num_features``.
        projector: Features to embeddings.
        criterion: Two views' embeddings to the loss of the global batch.
        trains: Whether there is anything to train.
        momentum: Of the target view's encoder, a moving average of the context's; 0 for one encoder of both.
        name: The method's, for messages.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        criterion: nn.Module,
        trains: bool = True,
        momentum: float = 0.0,
        name: str = "",
    ) -> None:
        super().__init__()
        self.name = name
        self.backbone, self.projector, self.criterion, self.trains = backbone, projector, criterion, trains
        self.target_encoder = MomentumEncoder(nn.Sequential(backbone, projector), momentum) if momentum else None
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, context: Tensor, target: Tensor) -> Tensor:
        """The loss of the global batch; both views pass the network together, save where the target has its own.

        Args:
            context: ``(b, C, S, S)``, this process's share of the global batch.
            target: The other view of the same images.

        Returns:
            Scalar, float32 or float64: only the network runs in mixed precision, the loss of every method does not.
        """
        z_context, z_target = self._embed(context, target)
        self._last = (z_context.detach(), z_target.detach())
        dtype = torch.promote_types(z_context.dtype, torch.float32)
        with torch.autocast(context.device.type, enabled=False):
            loss: Tensor = self.criterion(z_context.to(dtype), z_target.to(dtype))
        return loss

    def _embed(self, context: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if self.target_encoder is None:
            z_context, z_target = self.projector(self.backbone(torch.cat([context, target]))).chunk(2)
            return z_context, z_target
        if self.training and torch.is_grad_enabled():
            self.target_encoder.update(nn.Sequential(self.backbone, self.projector))
        return self.projector(self.backbone(context)), self.target_encoder(target)

    def diagnostics(self) -> dict[str, float | str]:
        """Gauges of the last global batch with their verdict; every process must call it."""
        if isinstance(self.criterion, Criterion):
            return self.criterion.diagnostics()
        if self._last is None:
            return {}
        values = diagnostics.embedding_diagnostics(*gather_pairs(*(z.float() for z in self._last)))
        verdict = diagnostics.judge(values)
        return {**values, "verdict": verdict.name, "advice": verdict.advice}


def build_module(method: str, suite: Suite, channels: int, seed: int, image_size: int | None = None) -> JointEmbedding:
    """The module of a method; the encoder starts from the same weights for every method of a seed."""
    network = suite.network
    torch.manual_seed(seed)
    backbone = build_backbone(
        network.backbone, in_channels=channels, small_images=network.small_images, image_size=image_size
    )
    objective = build_objective(method, network.dim, suite.method.get(method, {}))
    torch.manual_seed(seed + 1)
    projector = ProjectionHead(
        int(backbone.num_features),  # type: ignore[arg-type]
        network.hidden,
        network.dim,
        layers=network.layers,
        normalize=objective.normalize,
    )
    return JointEmbedding(
        backbone, projector, objective.criterion, objective.trains, momentum=objective.momentum, name=method
    )
