"""Checks of options that a user gives to a criterion or to the estimator, with one message for each kind of mistake."""

import math
import numbers
import operator
from typing import Any, get_args

from gmje_core.errors import ConfigError, unknown_name

__all__ = [
    "as_integer",
    "as_real",
    "check_at_least",
    "check_choice",
    "check_counts",
    "check_positive",
    "check_share",
]


def as_integer(name: str, value: object) -> int:
    """Return an integer of any kind, such as one of NumPy's, as Python's.

    Raises:
        ConfigError: the value is not an integer.

    Examples:
        >>> as_integer("rank", 2.0)
        Traceback (most recent call last):
        gmje_core.errors.ConfigError: rank must be an integer, got 2.0
    """
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError(f"{name} must be an integer, got {value!r}") from None


def as_real(name: str, value: object) -> float:
    """Return a real number of any kind, such as one of NumPy's, as a float.

    Raises:
        ConfigError: the value is not a real number.

    Examples:
        >>> as_real("tol", 1)
        1.0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    return float(value)


def check_choice(name: str, value: object, literal: Any) -> None:
    """Raise :class:`ConfigError` unless the value is one of a ``Literal``'s names; the error suggests the closest."""
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
        **values: The numbers to check, by the name that an error gives to each.
    """
    for name, value in values.items():
        if not (0 <= value <= 1) or (value == 0 and not least) or (value == 1 and not most):
            raise ConfigError(f"{name} must lie in {'[' if least else '('}0, 1{']' if most else ')'}, got {value!r}")
