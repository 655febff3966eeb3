"""The methods of the paper: criteria of gmje_core, options passed through."""

from typing import Any

from gmje_bench.errors import OptionError
from gmje_bench.methods import Objective
from gmje_core import GMJEError, build_criterion

__all__ = ["gje", "gje_batch", "gmje"]


def gje(dim: int, options: dict[str, Any]) -> Objective:
    """One joint Gaussian with running moments."""
    return _objective("gje", dim, options)


def gje_batch(dim: int, options: dict[str, Any]) -> Objective:
    """One joint Gaussian fitted on the batch that it scores."""
    return _objective("gje", dim, {"covariance": "batch"} | options)


def gmje(dim: int, options: dict[str, Any]) -> Objective:
    """A mixture of prototypes."""
    return _objective("gmje", dim, options)


def _objective(name: str, dim: int, options: dict[str, Any]) -> Objective:
    try:
        return Objective(build_criterion(name, dim, **options))
    except GMJEError as error:
        raise OptionError(str(error)) from error
    except TypeError as error:  # a text where a number belongs
        raise OptionError(f"method {name}: an option has the wrong type ({error}); got {options}") from error
