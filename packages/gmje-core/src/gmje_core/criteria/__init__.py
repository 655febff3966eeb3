"""The criteria: one remedy of the Mahalanobis Trace Trap a file, all with the interface of :class:`Criterion`."""

import inspect
from typing import Any

from gmje_core.criteria.base import Criterion
from gmje_core.criteria.gje import GJE
from gmje_core.criteria.gmje import GMJE
from gmje_core.criteria.gng import GMJEGNG
from gmje_core.criteria.mdn import GMJEMDN
from gmje_core.criteria.smc import GMJESMC
from gmje_core.errors import ConfigError, NotFittedError, TraceTrapWarning, unknown_name

__all__ = [
    "CRITERIA",
    "GJE",
    "GMJE",
    "GMJEGNG",
    "GMJEMDN",
    "GMJESMC",
    "Criterion",
    "NotFittedError",
    "TraceTrapWarning",
    "build_criterion",
]

#: Every criterion by the name that a configuration gives it.
CRITERIA: dict[str, type[Criterion]] = {
    "gje": GJE,
    "gmje": GMJE,
    "gmje-mdn": GMJEMDN,
    "gmje-gng": GMJEGNG,
    "gmje-smc": GMJESMC,
}


def build_criterion(name: str, dim: int | tuple[int, int], **options: Any) -> Criterion:
    """Build a criterion by its name.

    Args:
        name: A key of :data:`CRITERIA`.
        dim: Embedding size of both views, or the pair ``(d_c, d_t)``.
        **options: Keyword arguments of the criterion.

    Raises:
        ConfigError: the name or an option is unknown, or an option is out of range.

    Examples:
        >>> build_criterion("gmje", 8, components=16).components
        16
        >>> build_criterion("gmje", 8, component=16)
        Traceback (most recent call last):
        ...
        gmje_core.errors.ConfigError: unknown option of gmje 'component'; did you mean 'components'? ...
    """
    if name not in CRITERIA:
        raise ConfigError(unknown_name("criterion", name, CRITERIA))
    accepted = [key for key in inspect.signature(CRITERIA[name]).parameters if key != "dim"]
    for key in options:
        if key not in accepted:
            raise ConfigError(unknown_name(f"option of {name}", key, accepted))
    return CRITERIA[name](dim, **options)
