"""The projection head, from a backbone's features to the embeddings whose joint density is learned."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmje_core.errors import ConfigError

__all__ = ["ProjectionHead"]


class ProjectionHead(nn.Module):
    """Multi-layer perceptron from features to embeddings, batch-normalised between its layers.

    Args:
        in_features: Size of the features.
        hidden: Width of the hidden layers.
        out_features: Size of the embeddings.
        layers: Number of linear layers; 1 is a linear map.
        normalize: Give embeddings of unit norm, in float32 at least.

    Raises:
        ConfigError: a size below 1.

    Examples:
        >>> head = ProjectionHead(256, 512, 64, layers=3)
        >>> z = head(torch.randn(8, 256))
        >>> z.shape, bool(torch.allclose(z.norm(dim=1), torch.ones(8)))
        (torch.Size([8, 64]), True)
    """

    def __init__(
        self, in_features: int, hidden: int, out_features: int, *, layers: int = 2, normalize: bool = True
    ) -> None:
        super().__init__()
        sizes = {"in_features": in_features, "hidden": hidden, "out_features": out_features, "layers": layers}
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{name} must be at least 1, got {size!r}")
        modules: list[nn.Module] = []
        for index in range(layers - 1):
            width = in_features if index == 0 else hidden
            modules += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
        modules.append(nn.Linear(in_features if layers == 1 else hidden, out_features))
        self.layers = nn.Sequential(*modules)
        self.normalize = normalize

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings ``(B, out_features)`` of features ``(B, in_features)``."""
        z: Tensor = self.layers(features)
        if not self.normalize:
            return z
        return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=-1)
