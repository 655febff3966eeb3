"""The configuration of a model: plain data with a strict JSON form, free of torch."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from gmje_core.errors import ConfigError
from gmje_core.strict_json import StrictForm

__all__ = ["SCHEMA_VERSION", "GMJEConfig"]

#: Version of the JSON form; a change of meaning changes it.
SCHEMA_VERSION = 1

LARGEST_SIZE = 65_536
MOST_LAYERS = 64
OPTION_TYPES = (str, int, float, bool, type(None))


@dataclass(frozen=True, kw_only=True)
class GMJEConfig(StrictForm):
    """Everything that a :class:`gmje_core.JointEmbeddingModel` is built from.

    Args:
        backbone: A name that :func:`gmje_core.models.backbones.build_backbone` takes.
        in_channels: Image channels.
        image_size: Side of the square images that the model was trained on, in pixels.
        small_images: Whether a ResNet has the stem for images of about 32 pixels.
        dim: Embedding size.
        hidden: Width of the projection head.
        layers: Linear layers of the projection head.
        normalize: Whether embeddings have unit norm.
        momentum: Momentum in ``[0, 1)`` of the target view's encoder, an exponential moving average of the
            context's; 0 for one encoder of both views.
        criterion: A key of :data:`gmje_core.criteria.CRITERIA`.
        criterion_options: Keyword arguments of the criterion; JSON scalars.
        schema_version: Version of the JSON form.

    Raises:
        ConfigError: a value of the wrong type or out of range.

    Examples:
        >>> config = GMJEConfig(backbone="smallconv", in_channels=1, criterion_options={"components": 64})
        >>> GMJEConfig.from_json(config.to_json()) == config
        True
        >>> GMJEConfig.from_dict(config.to_dict() | {"bakbone": "resnet18"})
        Traceback (most recent call last):
        ...
        gmje_core.errors.ConfigError: unknown key 'bakbone'; did you mean 'backbone'? ...
    """

    backbone: str = "resnet18"
    in_channels: int = 3
    image_size: int = 224
    small_images: bool = False
    dim: int = 128
    hidden: int = 2048
    layers: int = 2
    normalize: bool = True
    momentum: float = 0.0
    criterion: str = "gmje"
    criterion_options: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    what: ClassVar[str] = "the configuration"

    def __post_init__(self) -> None:
        self.check_types()
        for spec in fields(self):
            value = getattr(self, spec.name)
            largest = MOST_LAYERS if spec.name == "layers" else LARGEST_SIZE
            if type(value) is int and not 1 <= value <= largest:
                raise ConfigError(f"{spec.name} must lie in [1, {largest}], got {value!r}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must lie in [0, 1), got {self.momentum!r}")
        if self.schema_version != SCHEMA_VERSION:
            raise ConfigError(
                f"schema_version {self.schema_version} is not the one this version reads ({SCHEMA_VERSION}); "
                "a newer gmje-core may be needed"
            )
        for key, option in self.criterion_options.items():
            if not isinstance(key, str) or not isinstance(option, OPTION_TYPES):
                raise ConfigError(f"criterion_options must map names to JSON scalars, got {key!r}: {option!r}")
            if isinstance(option, float) and not math.isfinite(option):
                raise ConfigError(f"criterion_options must hold finite numbers, got {key!r}: {option!r}")
        # The caller's dictionary may change later; a configuration may not.
        object.__setattr__(self, "criterion_options", dict(self.criterion_options))
