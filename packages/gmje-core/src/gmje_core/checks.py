"""Checks of the criteria's options: one message for each kind of mistake."""

import math
from typing import Any, get_args

from gmje_core.errors import ConfigError, unknown_name

__all__ = ["check_at_least", "check_choice", "check_counts", "check_positive", "check_share"]


def check_choice(name: str, value: object, literal: Any) -> None:
    """Raise :class:`ConfigError` unless the value is one of a ``Literal``'s, with the closest one named."""
    if value not in get_args(literal):
        raise ConfigError(unknown_name(name, str(value), get_args(literal)))


def check_counts(**values: int) -> None:
    """Raise :class:`ConfigError` unless every value is an integer of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}")


def check_positive(**values: float) -> None:
    """Raise :class:`ConfigError` unless every value is positive and finite."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name} must be positive and finite, got {value!r}")


def check_at_least(minimum: float, **values: float) -> None:
    """Raise :class:`ConfigError` unless every value is finite and not below the minimum."""
    for name, value in values.items():
        if not minimum <= value < math.inf:
            raise ConfigError(f"{name} must be finite and at least {minimum:g}, got {value!r}")


def check_share(*, least: bool = True, most: bool = True, **values: float) -> None:
    """Raise :class:`ConfigError` unless every value lies between 0 and 1.

    Args:
        least: Whether 0 itself is allowed.
        most: Whether 1 itself is allowed.
        **values: By name.
    """
    for name, value in values.items():
        if not (0 <= value <= 1) or (value == 0 and not least) or (value == 1 and not most):
            raise ConfigError(f"{name} must lie in {'[' if least else '('}0, 1{']' if most else ')'}, got {value!r}")
