"""Typed errors of the library; each text says what was wrong, with the value, and what would be right.

All derive from :class:`GMJEError` and from the builtin that fits, so callers may catch either.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "BatchSizeError",
    "CollapseWarning",
    "CollapsedError",
    "ConfigError",
    "ConvergenceWarning",
    "DensityFileError",
    "GMJEError",
    "InputTypeError",
    "JitterWarning",
    "NonFiniteError",
    "NotFittedError",
    "NotPositiveDefiniteError",
    "ScaleWarning",
    "ShapeError",
    "TraceTrapWarning",
    "unknown_name",
]


class GMJEError(Exception):
    """Base of every error that this library raises on purpose."""


class ShapeError(GMJEError, ValueError):
    """Tensors whose shapes do not fit each other or the density."""


class NonFiniteError(GMJEError, ValueError):
    """NaN or infinity where a finite number is needed."""


class NotPositiveDefiniteError(GMJEError, ValueError):
    """A covariance, variance or factor that is not positive definite."""


class BatchSizeError(GMJEError, ValueError):
    """A batch too small for its objective, or of different sizes on different ranks."""


class CollapsedError(GMJEError, ValueError):
    """Embeddings that are all the same: no density can be fitted to them."""


class ConfigError(GMJEError, ValueError):
    """An option that is unknown or out of range."""


class CollapseWarning(UserWarning):
    """A run has turned bad: the text names the verdict and what to change."""


class JitterWarning(RuntimeWarning):
    """A covariance was not positive definite in its precision and something was added to its diagonal."""


class ConvergenceWarning(UserWarning):
    """EM ended before its lower bound settled, or with components that no row belongs to."""


class DensityFileError(GMJEError, ValueError):
    """A file that is damaged, holds something else, or whose parts do not fit each other."""


class ScaleWarning(UserWarning):
    """The regularisation outweighs the embeddings' own variance."""


class NotFittedError(GMJEError, RuntimeError):
    """The density was asked for before any batch was seen."""


class TraceTrapWarning(UserWarning):
    """The covariance is asked to score the batch it is fitted on."""


class InputTypeError(GMJEError, TypeError):
    """Embeddings that are not a dense matrix of real numbers."""


def unknown_name(kind: str, value: object, choices: Iterable[str]) -> str:
    """Text for a name that is not among the choices, with the closest one suggested.

    Args:
        kind: What the name stands for.
        value: The name given.
        choices: The names that exist.

    Returns:
        One sentence.

    Examples:
        >>> unknown_name("covariance_type", "ful", ["full", "diag"])
        "unknown covariance_type 'ful'; did you mean 'full'? (choose from full, diag)"
        >>> unknown_name("direction", 3, ["target", "context"])
        'unknown direction 3 (choose from target, context)'
    """
    names = list(choices)
    close = difflib.get_close_matches(str(value), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {kind} {value!r}{hint} (choose from {', '.join(names)})"
