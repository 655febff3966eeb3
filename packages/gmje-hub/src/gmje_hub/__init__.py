"""Trained models as folders and repositories of JSON and safetensors: nothing is ever unpickled."""

from typing import TYPE_CHECKING, Any

from gmje_hub.errors import (
    AccessError,
    CardError,
    CorruptModelError,
    HubError,
    HubUnavailableError,
    ModelNotFoundError,
    PushConflictError,
    UnsafeWeightsError,
    UnsavableModelError,
)

if TYPE_CHECKING:
    from gmje_hub.model import GMJEModel

__version__ = "0.1.0"

__all__ = [
    "AccessError",
    "CardError",
    "CorruptModelError",
    "GMJEModel",
    "HubError",
    "HubUnavailableError",
    "ModelNotFoundError",
    "PushConflictError",
    "UnsafeWeightsError",
    "UnsavableModelError",
]


if not TYPE_CHECKING:  # a type checker must go on reporting names that do not exist

    def __getattr__(name: str) -> Any:
        """The model, imported when it is asked for, so that the command line answers without torch."""
        if name == "GMJEModel":
            from gmje_hub.model import GMJEModel

            return GMJEModel
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
