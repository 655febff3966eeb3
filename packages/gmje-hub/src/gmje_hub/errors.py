"""Typed errors of saving and loading; each text says what was wrong and what would be right."""

__all__ = ["CorruptModelError", "HubError", "ModelNotFoundError", "UnsafeWeightsError", "UnsavableModelError"]


class HubError(Exception):
    """Base of every error that this package raises on purpose."""


class ModelNotFoundError(HubError, FileNotFoundError):
    """There is no model where one was looked for."""


class UnsafeWeightsError(HubError, ValueError):
    """Only pickled weights: loading them could run code."""


class CorruptModelError(HubError, ValueError):
    """Files that are damaged, or do not belong to the configuration."""


class UnsavableModelError(HubError, ValueError):
    """A model that its configuration does not describe, so that it could not be loaded again."""
