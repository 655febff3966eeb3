"""The methods of the paper: criteria of gmje_core, which take the options of the method."""

from typing import Any

from gmje_bench.errors import OptionError
from gmje_bench.methods import Objective, Setting, take_options
from gmje_core import GMJEError, build_criterion

__all__ = ["gje", "gje_batch", "gmje", "gmje_gng", "gmje_mdn", "gmje_smc"]


def gje(setting: Setting, options: dict[str, Any]) -> Objective:
    """One joint Gaussian with running moments."""
    return _objective("gje", setting, options)


def gje_batch(setting: Setting, options: dict[str, Any]) -> Objective:
    """One joint Gaussian fitted on the batch that it scores; it shows the trap, and no density is made of it."""
    return _objective("gje", setting, {"moments": "batch"} | options)


def gmje(setting: Setting, options: dict[str, Any]) -> Objective:
    """A mixture of prototypes."""
    return _objective("gmje", setting, options)


def gmje_mdn(setting: Setting, options: dict[str, Any]) -> Objective:
    """A mixture density network."""
    return _objective("gmje-mdn", setting, options)


def gmje_gng(setting: Setting, options: dict[str, Any]) -> Objective:
    """Growing Neural Gas."""
    return _objective("gmje-gng", setting, options)


def gmje_smc(setting: Setting, options: dict[str, Any]) -> Objective:
    """A Sequential Monte Carlo memory bank."""
    return _objective("gmje-smc", setting, options)


def _objective(name: str, setting: Setting, options: dict[str, Any]) -> Objective:
    momentum = take_options(name, {key: options.pop(key) for key in ("momentum",) if key in options}, {"momentum": 0.0})
    try:
        criterion = build_criterion(name, setting.dim, **options)
        return Objective(criterion, momentum=momentum["momentum"], published=(name, options))
    except GMJEError as error:
        raise OptionError(str(error)) from error
    except TypeError as error:  # A criterion raises TypeError for a text where a number belongs.
        raise OptionError(f"method {name}: an option has the wrong type ({error}); got {options}") from error
