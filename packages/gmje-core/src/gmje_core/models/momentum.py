"""The target view's encoder as a moving average of the context's."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gmje_core.errors import ConfigError

__all__ = ["MomentumEncoder"]


class MomentumEncoder(nn.Module):
    r"""Exponential moving average of an encoder, for the target view (He et al., 2020).

    :math:`\theta_t \leftarrow m \theta_t + (1-m) \theta`. Only parameters are averaged; batch normalisation keeps
    statistics of its own, because it passes the target views itself. No gradient goes through it.

    Args:
        encoder: The encoder to follow; it is copied.
        momentum: ``m`` in ``[0, 1)``.

    Raises:
        ConfigError: momentum out of range.

    Examples:
        >>> encoder = nn.Linear(2, 1, bias=False)
        >>> target = MomentumEncoder(encoder, momentum=0.9)
        >>> _ = encoder.weight.data.fill_(1.0), target.update(encoder)     # the first update copies
        >>> _ = encoder.weight.data.fill_(2.0), target.update(encoder)
        >>> target(torch.tensor([[1.0, 0.0]]))
        tensor([[1.1000]])
    """

    def __init__(self, encoder: nn.Module, momentum: float) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ConfigError(f"momentum must lie in [0, 1), got {momentum!r}")
        self.average = AveragedModel(encoder, multi_avg_fn=get_ema_multi_avg_fn(momentum))
        self.average.requires_grad_(False)

    def update(self, encoder: nn.Module) -> None:
        """Move toward the encoder's parameters; the first call takes them."""
        self.average.update_parameters(encoder)

    def forward(self, x: Tensor) -> Tensor:
        """The averaged encoder's output, which carries no gradient."""
        with torch.no_grad():
            z: Tensor = self.average(x)
        return z
