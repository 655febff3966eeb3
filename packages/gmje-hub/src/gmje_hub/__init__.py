"""Trained models as folders of JSON and safetensors: save, load, and nothing is ever unpickled."""

from gmje_hub.errors import CorruptModelError, HubError, ModelNotFoundError, UnsafeWeightsError, UnsavableModelError
from gmje_hub.model import GMJEModel

__version__ = "0.1.0"

__all__ = [
    "CorruptModelError",
    "GMJEModel",
    "HubError",
    "ModelNotFoundError",
    "UnsafeWeightsError",
    "UnsavableModelError",
]
