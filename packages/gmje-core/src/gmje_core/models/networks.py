"""Encoders: backbones by name, and the projection head that sits on them.

A backbone turns images into features, which are what downstream tasks use; the head turns features into the
embeddings whose joint density is learned.
"""

import difflib
import itertools
import re
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from gmje_core.errors import ConfigError, unknown_name

__all__ = [
    "Backbone",
    "MomentumEncoder",
    "ProjectionHead",
    "ResNet",
    "SmallConv",
    "TimmBackbone",
    "backbone_names",
    "build_backbone",
]

_TIMM = "timm:"


class Backbone(Protocol):
    """What every backbone is: an ``nn.Module`` that says how many features it gives, in timm's two steps."""

    num_features: int

    def __call__(self, x: Tensor) -> Tensor:
        """Features ``(B, num_features)`` of images ``(B, in_channels, H, W)``; the two steps below."""

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map before pooling, ``(B, num_features, h, w)``, of images; transformers give tokens."""

    def forward_head(self, x: Tensor) -> Tensor:
        """Features ``(B, num_features)`` of that map."""


class SmallConv(nn.Module):
    """Four 3x3 convolutions of stride 2 with batch normalisation and ReLU, then global average pooling.

    Made to be trained on a CPU, on images of about 28x28 to 64x64 pixels. Weights and images are kept in
    channels-last order, which is a quarter faster there.

    Args:
        in_channels: Channels of the images.
        widths: Channels after each convolution; the last is the number of features.

    Examples:
        >>> network = SmallConv(in_channels=1)
        >>> network(torch.zeros(2, 1, 28, 28)).shape, network.num_features
        (torch.Size([2, 256]), 256)
    """

    def __init__(self, in_channels: int = 3, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        channels = [in_channels, *widths]
        blocks = [_conv_block(*pair) for pair in itertools.pairwise(channels)]
        self.blocks = nn.Sequential(*blocks).to(memory_format=torch.channels_last)
        self.num_features = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, num_features)`` of images ``(B, in_channels, H, W)``."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, ``(B, num_features, h, w)``."""
        features: Tensor = self.blocks(x.contiguous(memory_format=torch.channels_last))
        return features

    def forward_head(self, x: Tensor) -> Tensor:
        """The mean of the map over its places."""
        return x.mean(dim=(2, 3))


class ResNet(TorchvisionResNet):  # type: ignore[misc]
    """Torchvision's residual network without its classifier; parameters keep torchvision's names.

    Args:
        depth: 18, 34 or 50.
        in_channels: Channels of the images.
        small_images: First convolution 3x3 with stride 1 and no max-pooling, for images up to about 64x64.

    Examples:
        >>> ResNet(18, in_channels=1, small_images=True)(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 512])
    """

    def __init__(self, depth: int, *, in_channels: int = 3, small_images: bool = False) -> None:
        block, layers = {
            18: (BasicBlock, [2, 2, 2, 2]),
            34: (BasicBlock, [3, 4, 6, 3]),
            50: (Bottleneck, [3, 4, 6, 3]),
        }[depth]
        super().__init__(block, layers, num_classes=1)
        self.fc = nn.Identity()
        self.num_features = 512 * block.expansion
        if small_images:
            self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        elif in_channels != 3:
            self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, num_features)`` of images ``(B, in_channels, H, W)``."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, ``(B, num_features, h, w)``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return features

    def forward_head(self, x: Tensor) -> Tensor:
        """The mean of the map over its places."""
        features: Tensor = self.avgpool(x).flatten(1)
        return features


class TimmBackbone(nn.Module):
    """Any model of timm, with random weights and without its classifier.

    Args:
        name: timm's name of the model.
        in_channels: Channels of the images.
        image_size: Side of the images in pixels, for models that fix it when they are built (transformers);
            ``None`` for timm's own.

    Raises:
        ConfigError: timm is not installed, or has no such model.
    """

    def __init__(self, name: str, *, in_channels: int = 3, image_size: int | None = None) -> None:
        super().__init__()
        if not re.fullmatch(r"[\w.]+", name, re.ASCII):  # "hf-hub:org/name" would ask a network
            raise ConfigError(f"backbone 'timm:{name}' does not name a model of timm (timm.list_models() lists them)")
        try:
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
        self.body = timm.create_model(name, pretrained=False, num_classes=0, in_chans=in_channels, **options)
        # With num_classes=0 some models keep a hidden layer after the pooling, which sets the size.
        size: Any = getattr(self.body, "head_hidden_size", None) or self.body.num_features
        self.num_features = int(size)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, num_features)`` of images ``(B, in_channels, H, W)``."""
        features: Tensor = self.body(x)
        return features

    def forward_features(self, x: Tensor) -> Tensor:
        """Timm's own: a map ``(B, C, h, w)``, or tokens ``(B, n, C)``."""
        body: Any = self.body
        features: Tensor = body.forward_features(x)
        return features

    def forward_head(self, x: Tensor) -> Tensor:
        """Timm's own pooling, to ``(B, num_features)``."""
        body: Any = self.body
        features: Tensor = body.forward_head(x)
        return features


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


class MomentumEncoder(nn.Module):
    r"""Exponential moving average of an encoder, for the target view (He et al., 2020).

    :math:`\theta_t \leftarrow m \theta_t + (1-m) \theta`. Only parameters are averaged; batch normalisation keeps
    statistics of its own, because it passes the target views itself. No gradient goes through it.

    Args:
        encoder: What is followed; it is copied.
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
        """What the encoder gives, without gradient."""
        with torch.no_grad():
            z: Tensor = self.average(x)
        return z


_Builder = Callable[[int, bool], nn.Module]

_BACKBONES: dict[str, _Builder] = {
    "smallconv": lambda in_channels, _: SmallConv(in_channels),
    "resnet18": lambda in_channels, small: ResNet(18, in_channels=in_channels, small_images=small),
    "resnet34": lambda in_channels, small: ResNet(34, in_channels=in_channels, small_images=small),
    "resnet50": lambda in_channels, small: ResNet(50, in_channels=in_channels, small_images=small),
}


def backbone_names() -> tuple[str, ...]:
    """Names that :func:`build_backbone` knows; ``"timm:NAME"`` adds every model of timm.

    Examples:
        >>> backbone_names()
        ('smallconv', 'resnet18', 'resnet34', 'resnet50')
    """
    return tuple(_BACKBONES)


def build_backbone(
    name: str, *, in_channels: int = 3, small_images: bool = False, image_size: int | None = None
) -> nn.Module:
    """A backbone by name, with random weights.

    Args:
        name: One of :func:`backbone_names`, or ``"timm:NAME"`` (needs the extra ``gmje-core[timm]``).
        in_channels: Channels of the images.
        small_images: ResNets only: a stem for images up to about 64x64. ``smallconv`` is made for those
            anyway.
        image_size: Side of the images in pixels; matters only to timm's models of fixed input size.

    Returns:
        Module from images ``(B, in_channels, H, W)`` to features ``(B, num_features)``, with the attribute
        ``num_features``; see :class:`Backbone`.

    Raises:
        ConfigError: unknown name, timm missing, or an option that the backbone cannot follow.

    Examples:
        >>> build_backbone("smallconv", in_channels=1).num_features
        256
        >>> build_backbone("resnet19")
        Traceback (most recent call last):
        ...
        gmje_core.errors.ConfigError: unknown backbone 'resnet19'; did you mean 'resnet18'? ...
    """
    if in_channels < 1:
        raise ConfigError(f"in_channels must be at least 1, got {in_channels!r}")
    if name.startswith(_TIMM):
        if small_images:
            raise ConfigError(f"small_images changes the stem of ResNets only, not of {name!r}: set it to False")
        return TimmBackbone(name.removeprefix(_TIMM), in_channels=in_channels, image_size=image_size)
    if name not in _BACKBONES:
        raise ConfigError(unknown_name("backbone", name, [*_BACKBONES, f"{_TIMM}NAME"]))
    return _BACKBONES[name](in_channels, small_images)


def _conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
