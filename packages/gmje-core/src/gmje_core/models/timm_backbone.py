"""Every model of timm as a backbone; timm itself is imported when one is built."""

import difflib
import re
from typing import Any

import torch
from torch import Tensor, nn

from gmje_core.errors import ConfigError

__all__ = ["TimmBackbone"]


class TimmBackbone(nn.Module):
    """Any model of timm without its classifier, with random weights where not said otherwise.

    Args:
        name: timm's name of the model.
        in_channels: Channels of the images.
        image_size: Side of the images in pixels, for models that fix it when they are built (transformers);
            ``None`` for timm's own.
        pretrained: Whether to fetch the published weights of the model.

    Raises:
        ConfigError: timm is not installed, or has no such model.
    """

    def __init__(
        self, name: str, *, in_channels: int = 3, image_size: int | None = None, pretrained: bool = False
    ) -> None:
        super().__init__()
        if not re.fullmatch(r"[\w.]+", name, re.ASCII):  # "hf-hub:org/name" would ask a network
            raise ConfigError(f"backbone 'timm:{name}' does not name a model of timm (timm.list_models() lists them)")
        try:
            # Whatever timm makes when it is imported must not follow the caller's device, such as "meta".
            with torch.device("cpu"):
                import timm
        except ImportError as error:
            raise ConfigError(
                f"backbone 'timm:{name}' needs timm, which is not installed: pip install 'gmje-core[timm]'"
            ) from error
        if not timm.is_model(name):
            close = difflib.get_close_matches(name, timm.list_models(), n=3)
            hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise ConfigError(f"timm {timm.__version__} has no model {name!r}{hint} (timm.list_models() lists them)")
        settings = timm.get_pretrained_cfg(name)
        fixed = image_size is not None and settings is not None and settings.fixed_input_size
        options: dict[str, Any] = {"img_size": image_size} if fixed else {}
        self.body = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=in_channels, **options)
        # With num_classes=0 some models keep a hidden layer after the pooling, which sets the size.
        size: Any = getattr(self.body, "head_hidden_size", None) or self.body.num_features
        self.num_features = int(size)
        #: Mean and standard deviation of pixels, and more, that the published weights were trained with.
        data: Any = timm.data
        self.data_settings: dict[str, Any] = data.resolve_model_data_config(self.body)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, num_features)`` of images ``(B, in_channels, H, W)``."""
        features: Tensor = self.body(x)
        return features

    def forward_features(self, x: Tensor) -> Tensor:
        """The result of timm's method: a map ``(B, C, h, w)``, or tokens ``(B, n, C)``."""
        body: Any = self.body
        features: Tensor = body.forward_features(x)
        return features

    def forward_head(self, x: Tensor) -> Tensor:
        """Features ``(B, num_features)`` by timm's own pooling."""
        body: Any = self.body
        features: Tensor = body.forward_head(x)
        return features
