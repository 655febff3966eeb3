"""The registry of methods: what each is called, and where it is built. Free of torch.

A method is a function ``build(dim, options) -> Objective`` in a module of this package: ``dim`` is the embedding
size, ``options`` the keys that the suite gives the method. The objective holds a module that maps the two views'
embeddings ``(B, dim)`` to a scalar loss of the global batch.
"""

import importlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmje_bench.errors import OptionError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

__all__ = ["METHODS", "Method", "Objective", "build_objective", "check_methods"]


@dataclass(frozen=True)
class Objective:
    """What a method trains with.

    Args:
        criterion: Maps ``z_context`` and ``z_target`` to the loss.
        normalize: Whether the projection head scales embeddings to unit norm.
        trains: Whether there is anything to train; a random encoder is only evaluated.
        momentum: Of the target view's encoder, a moving average of the context's; 0 for one encoder of both.
    """

    criterion: "nn.Module"
    normalize: bool = True
    trains: bool = True
    momentum: float = 0.0


@dataclass(frozen=True)
class Method:
    """An entry of the registry.

    Args:
        name: What users type.
        summary: One line for ``list``.
        module: Where it is built, relative to this package.
        build: Name of the function that builds it.
    """

    name: str
    summary: str
    module: str
    build: str


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("gmje", "Gaussian mixture joint embeddings: prototypes, pointwise mutual information", "joint", "gmje"),
        Method("gmje-mdn", "mixture density network: a conditional mixture as critic", "joint", "gmje_mdn"),
        Method("gmje-gng", "Growing Neural Gas: components grown and removed in training", "joint", "gmje_gng"),
        Method("gmje-smc", "Sequential Monte Carlo: a weighted memory bank of past pairs", "joint", "gmje_smc"),
        Method("gje", "Gaussian joint embeddings: running covariance, trap-free", "joint", "gje"),
        Method("gje-batch", "the Mahalanobis Trace Trap, shown on purpose: collapses", "joint", "gje_batch"),
        Method("simclr", "SimCLR: NT-Xent (lightly)", "baselines", "simclr"),
        Method("moco", "MoCo: a queue of past targets, momentum encoder (lightly)", "baselines", "moco"),
        Method("vicreg", "VICReg: variance, invariance, covariance (lightly)", "baselines", "vicreg"),
        Method("random", "an untrained encoder: the floor", "baselines", "random"),
    )
}


def check_methods(names: Iterable[str]) -> None:
    """Raise an :class:`OptionError` with the closest name unless every name is a method.

    Examples:
        >>> check_methods(["gmje", "simclear"])
        Traceback (most recent call last):
        ...
        gmje_bench.errors.OptionError: unknown method 'simclear'; did you mean simclr? ...
    """
    for name in names:
        if name not in METHODS:
            raise OptionError(f"unknown method {name!r}{did_you_mean(name, METHODS)}")


def build_objective(name: str, dim: int, options: Mapping[str, Any]) -> Objective:
    """The objective of a method.

    Args:
        name: A key of :data:`METHODS`.
        dim: Embedding size.
        options: The method's own; unknown ones are an :class:`OptionError`.
    """
    check_methods([name])
    method = METHODS[name]
    module = importlib.import_module(f"{__name__}.{method.module}")
    objective: Objective = getattr(module, method.build)(dim, dict(options))
    return objective


def take_options(method: str, options: Mapping[str, Any], **defaults: float) -> dict[str, float]:
    """The defaults overridden by the options, which must be known and at least 0.

    Raises:
        OptionError: one is unknown, or not a finite number of at least 0.

    Examples:
        >>> take_options("simclr", {"temperature": 0.2}, temperature=0.1)
        {'temperature': 0.2}
        >>> take_options("simclr", {"temperature": "low"}, temperature=0.1)
        Traceback (most recent call last):
        ...
        gmje_bench.errors.OptionError: method simclr: temperature must be a number of at least 0, got 'low'
    """
    for key, value in options.items():
        if key not in defaults:
            raise OptionError(f"method {method} has no option {key!r}{did_you_mean(key, defaults)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise OptionError(f"method {method}: {key} must be a number of at least 0, got {value!r}")
    return defaults | dict(options)
