"""The encoder in timm's layout, which ``timm.create_model("hf-hub:org/name")`` and Transformers' ``AutoModel`` load.

A model of timm is a ``config.json`` with the name of an architecture and a ``model.safetensors`` with timm's names of
the parameters. Torchvision's ResNets have the same names, so nothing is computed anew. Only the backbone goes along:
timm has no place for a projection head or a density.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined

from gmje_core.files import write_folder
from gmje_core.models.config import GMJEConfig
from gmje_core.models.preprocessing import resize_side
from gmje_hub.errors import HubError
from gmje_hub.folder import CONFIG, README, WEIGHTS

if TYPE_CHECKING:
    from torch import Tensor

    from gmje_core import JointEmbeddingModel

__all__ = ["TimmLayoutError", "architecture", "export_timm"]

_PREFIX = "timm:"
_CARD = """---
library_name: timm
pipeline_tag: image-feature-extraction
tags: [self-supervised-learning, gaussian-joint-embeddings, "arxiv:2603.26799"]
---

# {{ title }}

The image encoder of the Gaussian joint-embedding model {{ source }}, without its density.

```python
import timm

model = timm.create_model("hf-hub:org/name", pretrained=True)  # the name that you published this folder by
```

`transformers.AutoModel.from_pretrained` and `pipeline("image-feature-extraction")` load it as well.
"""


class TimmLayoutError(HubError, ValueError):
    """timm has no architecture for the model's backbone."""


def architecture(config: GMJEConfig) -> str | None:
    """Timm's name of a configuration's backbone; ``None`` where timm has no such network.

    Examples:
        >>> architecture(GMJEConfig(backbone="resnet50")), architecture(GMJEConfig(backbone="timm:convnext_atto"))
        ('resnet50', 'convnext_atto')
        >>> architecture(GMJEConfig(backbone="resnet18", small_images=True)) is None
        True
    """
    if config.backbone.startswith(_PREFIX):
        return config.backbone.removeprefix(_PREFIX)
    return config.backbone if config.backbone.startswith("resnet") and not config.small_images else None


def export_timm(model: "JointEmbeddingModel", folder: Path, *, source: str = "") -> None:
    """Write a model's backbone as timm keeps models, after timm's network has given the same features, bit by bit.

    Args:
        model: A model on the CPU in float32; it is put in evaluation mode.
        folder: Folder to make, which must not exist; it appears whole or not at all.
        source: Name of the model, for the card.

    Raises:
        TimmLayoutError: timm is not installed or has no such architecture, the features differ, or the folder exists.
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save

    if folder.exists():
        raise TimmLayoutError(f"{folder} exists; choose another folder")
    settings = _settings(model)
    state = _state(model)
    _check(model, settings, state)
    content = {
        WEIGHTS: save(state, {"format": "pt"}),
        CONFIG: (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode(),
        README: _card(folder.name, source).encode(),
    }
    write_folder(folder, content)


def _settings(model: "JointEmbeddingModel") -> dict[str, Any]:
    """The content of timm's ``config.json``; images are presented as the model's preprocessing does."""
    config, preprocessing = model.config, model.preprocessing
    name = architecture(config)
    if name is None:
        stem = " with the stem for small images" if config.small_images else ""
        raise TimmLayoutError(
            f"timm has no architecture for the backbone {config.backbone!r}{stem}; resnet18, resnet34, resnet50 with "
            "the usual stem and timm:NAME have one"
        )
    pretrained: dict[str, Any] = {"input_size": [config.in_channels, config.image_size, config.image_size]}
    if preprocessing is not None:
        pretrained |= {
            "mean": list(preprocessing.image_mean),
            "std": list(preprocessing.image_std),
            "crop_pct": config.image_size / resize_side(config.image_size),
            "crop_mode": "center",
            "interpolation": "bilinear",
        }
    arguments: dict[str, Any] = {"in_chans": config.in_channels}
    if config.backbone.startswith(_PREFIX) and _is_fixed(name):
        arguments["img_size"] = config.image_size
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": int(model.backbone.num_features),  # type: ignore[arg-type]
        "model_args": arguments,
        "pretrained_cfg": {**pretrained, "num_classes": 0, "fixed_input_size": "img_size" in arguments},
    }


def _state(model: "JointEmbeddingModel") -> "dict[str, Tensor]":
    backbone: Any = model.backbone
    body = backbone.body if model.config.backbone.startswith(_PREFIX) else backbone
    return {name: value.detach().contiguous() for name, value in body.state_dict().items()}


def _check(model: "JointEmbeddingModel", settings: dict[str, Any], state: "dict[str, Tensor]") -> None:
    import torch

    timm = _timm()
    other = timm.create_model(settings["architecture"], num_classes=0, **settings["model_args"])
    other.load_state_dict(state)
    config = model.config
    shape = (2, config.in_channels, config.image_size, config.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = other.eval()(images)
    if not torch.equal(found, model.features(images)):
        difference = float((found - model.features(images)).abs().max())
        raise TimmLayoutError(
            f"timm's {settings['architecture']} gives features that differ by {difference:.3g}; nothing was written"
        )


def _is_fixed(name: str) -> bool:
    settings = _timm().get_pretrained_cfg(name)
    return settings is not None and bool(settings.fixed_input_size)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise TimmLayoutError("this needs timm, which is not installed: pip install 'gmje-core[timm]'") from error
    return timm


def _card(title: str, source: str) -> str:
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(_CARD).render(title=title, source=source)
