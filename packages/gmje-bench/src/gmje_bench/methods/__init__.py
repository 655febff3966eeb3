"""The registry of methods: what each is called, and where it is built. Free of torch.

A method is a function ``build(setting, options) -> Objective``; :class:`Objective` holds a module that maps the two
views' embeddings to the loss of the global batch. Methods of other packages come by entry point, those of a user's
file by :func:`register_file`; see :mod:`gmje_bench.methods.plugins`.
"""

import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmje_bench.errors import OptionError, did_you_mean
from gmje_bench.methods.settings import settings_of

if TYPE_CHECKING:
    from torch import nn

    from gmje_core import JointEmbeddingModel

__all__ = ["METHODS", "Method", "Objective", "Setting", "build_objective", "check_methods", "take_options"]


@dataclass(frozen=True)
class Setting:
    """What a method may know before it is built.

    Args:
        dim: Embedding size.
        classes: Number of classes of the data, which only methods with labels may use.
    """

    dim: int
    classes: int


@dataclass(frozen=True)
class Objective:
    """The criterion of a method, and how it is trained.

    Args:
        criterion: Maps ``z_context`` and ``z_target``, each ``(b, dim)`` of this process's share of the batch, to
            the loss of the global batch. A method ``predict`` of it, where there is one, maps ``z_context`` to the
            ``z_target`` that it expects.
        normalize: Whether the projection head scales embeddings to unit norm.
        trains: Whether there is anything to train; a random encoder is only evaluated.
        momentum: Decay of the target view's encoder, a moving average of the context's; 0 for one encoder of both.
        symmetric: Whether, with a momentum encoder, each view is the context once and the loss is the mean of both.
        labels: Whether the criterion takes the labels ``(b,)`` as a third argument.
        published: Where the criterion is one of gmje_core's: its name and options, with which the trained model is
            saved as one that ``GMJEModel.from_pretrained`` loads.
        model: A trained model that is only evaluated, in place of a network of the suite.
    """

    criterion: "nn.Module"
    normalize: bool = True
    trains: bool = True
    momentum: float = 0.0
    symmetric: bool = False
    labels: bool = False
    published: "tuple[str, dict[str, Any]] | None" = None
    model: "JointEmbeddingModel | None" = None


Build = Callable[[Setting, Mapping[str, Any]], Objective]


@dataclass(frozen=True)
class Method:
    """An entry of the registry.

    Args:
        name: What users type.
        summary: One line for ``list``.
        load: A function that imports what builds the method.
        source: Where a method that is not of this package comes from.
        pretrained: Whether it is one trained model, which is measured once: no seed changes its weights.
    """

    name: str
    summary: str
    load: Callable[[], Build]
    source: str = ""
    pretrained: bool = False


def _own(name: str, summary: str, module: str) -> Method:
    def load() -> Build:
        build: Build = getattr(importlib.import_module(f"{__name__}.{module}"), name.replace("-", "_"))
        return build

    return Method(name, summary, load)


#: Every method by the name that users type; plug-ins add theirs.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _own("gmje", "Gaussian mixture joint embeddings: prototypes, pointwise mutual information", "joint"),
        _own("gmje-mdn", "mixture density network: a conditional mixture as critic", "joint"),
        _own("gmje-gng", "Growing Neural Gas: components grown and removed in training", "joint"),
        _own("gmje-smc", "Sequential Monte Carlo: a weighted memory bank of past pairs", "joint"),
        _own("gje", "Gaussian joint embeddings: running covariance, trap-free", "joint"),
        _own("gje-batch", "the Mahalanobis Trace Trap, shown on purpose: collapses", "joint"),
        _own("simclr", "SimCLR: NT-Xent (lightly)", "baselines"),
        _own("moco", "MoCo: a queue of past targets, momentum encoder (lightly)", "baselines"),
        _own("byol", "BYOL: predict a momentum encoder's embedding, by cosine (lightly)", "baselines"),
        _own("simsiam", "SimSiam: predict the other view, gradient stopped (lightly)", "baselines"),
        _own("vicreg", "VICReg: variance, invariance, covariance (lightly)", "baselines"),
        _own("barlow", "Barlow Twins: cross-correlation near the identity (lightly)", "baselines"),
        _own("swav", "SwaV: swapped assignments to prototypes, two crops (lightly)", "baselines"),
        _own("dino", "DINO: a momentum teacher's assignments, centred and sharpened, two crops (lightly)", "baselines"),
        _own("lejepa", "LeJEPA: views agree, embeddings are an isotropic Gaussian (lightly)", "baselines"),
        _own("jepa", "deterministic joint-embedding predictor: squared error, momentum encoder", "baselines"),
        _own("supervised", "trained on the labels: a ceiling for the same budget", "baselines"),
        _own("random", "an untrained encoder: the floor", "baselines"),
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


def build_objective(name: str, setting: Setting, options: Mapping[str, Any]) -> Objective:
    """Build the objective of a method.

    Args:
        name: A key of :data:`METHODS`.
        setting: What the method may know.
        options: What differs from the settings of the method.

    Raises:
        OptionError: the method or an option is unknown, or an option is out of range.
    """
    check_methods([name])
    return METHODS[name].load()(setting, settings_of(name) | dict(options))


def take_options(method: str, options: Mapping[str, Any], defaults: Mapping[str, float]) -> dict[str, float]:
    """The defaults overridden by the options, which must be known and at least 0.

    Args:
        method: The name of the method, for messages.
        options: What is asked for.
        defaults: Every option that there is, with its value where it is not asked for.

    Raises:
        OptionError: an option is unknown, or not a finite number of at least 0.

    Examples:
        >>> take_options("simclr", {"temperature": 0.2}, {"temperature": 0.1})
        {'temperature': 0.2}
        >>> take_options("simclr", {"temperature": "low"}, {"temperature": 0.1})
        Traceback (most recent call last):
        ...
        gmje_bench.errors.OptionError: method simclr: temperature must be a number of at least 0, got 'low'
    """
    check_known(method, options, defaults)
    for key, value in options.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise OptionError(f"method {method}: {key} must be a number of at least 0, got {value!r}")
    return dict(defaults) | dict(options)


def check_known(method: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise an :class:`OptionError` with the closest name unless every option is known."""
    known = list(known)
    for key in options:
        if key not in known:
            raise OptionError(f"method {method} has no option {key!r}{did_you_mean(key, known)}")
