"""Typed errors of saving, loading and publishing; each text says what was wrong and what would be right."""

__all__ = [
    "AccessError",
    "CardError",
    "CorruptModelError",
    "HubError",
    "HubUnavailableError",
    "ModelNotFoundError",
    "PushConflictError",
    "UnsafeWeightsError",
    "UnsavableModelError",
]


class HubError(Exception):
    """Base of every error that this package raises on purpose."""


class ModelNotFoundError(HubError, FileNotFoundError):
    """There is no model where one was looked for: no folder, repository, revision or file."""


class UnsafeWeightsError(HubError, ValueError):
    """All weights are pickled: loading them could run code."""


class CorruptModelError(HubError, ValueError):
    """Files are damaged, hostile, or do not belong to the configuration."""


class UnsavableModelError(HubError, ValueError):
    """The model is not what its configuration describes, so that it could not be loaded again."""


class CardError(HubError, ValueError):
    """What was given for a model's card cannot stand in it."""


class AccessError(HubError, PermissionError):
    """The Hub refused the token, or there is none."""


class HubUnavailableError(HubError, ConnectionError):
    """There is no network, or the Hub is down, too busy, or breaks the connection."""


class PushConflictError(HubError):
    """Somebody else changed the branch while it was pushed to; nothing was written."""
