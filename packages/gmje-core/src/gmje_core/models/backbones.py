"""Backbones by name: the networks from images to the features that downstream tasks use.

Each family is a module of its own, which is imported when one of its backbones is built.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from gmje_core.errors import ConfigError, unknown_name

__all__ = ["Backbone", "backbone_names", "build_backbone"]

TIMM_PREFIX = "timm:"


class Backbone(Protocol):
    """The interface that all backbones share: an ``nn.Module`` of timm's two steps, with its number of features."""

    num_features: int

    def __call__(self, x: Tensor) -> Tensor:
        """Features ``(B, num_features)`` of images ``(B, in_channels, H, W)``; the two steps below."""

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map before pooling, ``(B, num_features, h, w)``, of images; transformers give tokens."""

    def forward_head(self, x: Tensor) -> Tensor:
        """Features ``(B, num_features)`` of that map."""


def build_smallconv(in_channels: int, small_images: bool) -> nn.Module:
    """A :class:`gmje_core.models.smallconv.SmallConv`; which ``small_images`` does not change."""
    from gmje_core.models.smallconv import SmallConv

    return SmallConv(in_channels)


def resnet_builder(depth: int) -> Callable[[int, bool], nn.Module]:
    """The function that builds a :class:`gmje_core.models.resnet.ResNet` of a depth."""

    def build(in_channels: int, small_images: bool) -> nn.Module:
        # Whatever torchvision makes when it is imported must not follow the caller's device, such as "meta".
        with torch.device("cpu"):
            from gmje_core.models.resnet import ResNet

        return ResNet(depth, in_channels=in_channels, small_images=small_images)

    return build


#: Functions of the number of channels and of ``small_images``, by the backbone's name.
BUILDERS: dict[str, Callable[[int, bool], nn.Module]] = {
    "smallconv": build_smallconv,
    "resnet18": resnet_builder(18),
    "resnet34": resnet_builder(34),
    "resnet50": resnet_builder(50),
}


def backbone_names() -> tuple[str, ...]:
    """Names that :func:`build_backbone` knows; ``"timm:NAME"`` adds every model of timm.

    Examples:
        >>> backbone_names()
        ('smallconv', 'resnet18', 'resnet34', 'resnet50')
    """
    return tuple(BUILDERS)


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
    if name.startswith(TIMM_PREFIX):
        if small_images:
            raise ConfigError(f"small_images changes the stem of ResNets only, not of {name!r}: set it to False")
        from gmje_core.models.timm_backbone import TimmBackbone

        return TimmBackbone(name.removeprefix(TIMM_PREFIX), in_channels=in_channels, image_size=image_size)
    if name not in BUILDERS:
        raise ConfigError(unknown_name("backbone", name, [*BUILDERS, f"{TIMM_PREFIX}NAME"]))
    return BUILDERS[name](in_channels, small_images)
