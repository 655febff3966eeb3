"""Gaussian (Mixture) Joint Embeddings: joint densities of two views, criteria to train on them, models.

Densities are in :mod:`gmje_core.densities`, how they are learned in :mod:`gmje_core.estimation`, equations in
:mod:`gmje_core.objectives`, losses in :mod:`gmje_core.criteria`, networks in :mod:`gmje_core.models`;
:mod:`gmje_core.estimator` is for embeddings that you already have. :class:`JointEmbeddingModel` joins networks with a
criterion; ``gmje_hub.GMJEModel`` is the same model with saving, loading and publishing.

Nothing but the errors is loaded before it is asked for: ``import gmje_core`` alone costs next to nothing, and a program
that needs no network does not load torchvision.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gmje_core.errors import (
    BatchSizeError,
    ConfigError,
    GMJEError,
    NonFiniteError,
    NotFittedError,
    NotPositiveDefiniteError,
    ShapeError,
)

if TYPE_CHECKING:
    from gmje_core import diagnostics
    from gmje_core.criteria import GJE, GMJE, GMJEGNG, GMJEMDN, GMJESMC, Criterion, build_criterion
    from gmje_core.densities.joint import JointGaussianMixture
    from gmje_core.densities.mixture import GaussianMixture
    from gmje_core.estimator import JointEmbeddingMixture
    from gmje_core.models.config import GMJEConfig
    from gmje_core.models.model import GMJEOutput, JointEmbeddingModel
    from gmje_core.models.preprocessing import Preprocessing
    from gmje_core.objectives import info_nce, nt_xent, pmi

__version__ = "0.1.0"

__all__ = [
    "GJE",
    "GMJE",
    "GMJEGNG",
    "GMJEMDN",
    "GMJESMC",
    "BatchSizeError",
    "ConfigError",
    "Criterion",
    "GMJEConfig",
    "GMJEError",
    "GMJEOutput",
    "GaussianMixture",
    "JointEmbeddingMixture",
    "JointEmbeddingModel",
    "JointGaussianMixture",
    "NonFiniteError",
    "NotFittedError",
    "NotPositiveDefiniteError",
    "Preprocessing",
    "ShapeError",
    "build_criterion",
    "diagnostics",
    "info_nce",
    "nt_xent",
    "pmi",
]

#: The modules that hold the names which are loaded on their first use.
_MODULES = {
    "criteria": ("GJE", "GMJE", "GMJEGNG", "GMJEMDN", "GMJESMC", "Criterion", "build_criterion"),
    "densities.joint": ("JointGaussianMixture",),
    "densities.mixture": ("GaussianMixture",),
    "estimator": ("JointEmbeddingMixture",),
    "models.config": ("GMJEConfig",),
    "models.model": ("GMJEOutput", "JointEmbeddingModel"),
    "models.preprocessing": ("Preprocessing",),
    "objectives": ("info_nce", "nt_xent", "pmi"),
}
_PLACES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}
_ROOMS = ("criteria", "densities", "diagnostics", "estimation", "estimator", "models", "objectives")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:  # a type checker must go on reporting names that do not exist

    def __getattr__(name: str) -> Any:
        """Load a public name on its first use, and say where ``GMJEModel`` is.

        That is an :class:`ImportError`, because ``from gmje_core import GMJEModel`` would replace the text of an
        :class:`AttributeError` by a general one.
        """
        if name in _PLACES:
            value = getattr(import_module(_PLACES[name]), name)
            globals()[name] = value  # the next use does not come here
            return value
        if name in _ROOMS:
            return import_module(f"{__name__}.{name}")
        if name == "GMJEModel":
            raise ImportError("GMJEModel is in gmje_hub: from gmje_hub import GMJEModel", name=name, path=__file__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
