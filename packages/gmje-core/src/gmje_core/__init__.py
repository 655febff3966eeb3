"""Gaussian (Mixture) Joint Embeddings: joint densities of two views, criteria to train on them, models.

Densities are :mod:`gmje_core.mixture`, losses :mod:`gmje_core.criteria` over the equations of
:mod:`gmje_core.objectives`, models :mod:`gmje_core.model`; :mod:`gmje_core.estimator` is for embeddings that you have.
"""

from gmje_core import diagnostics
from gmje_core.config import GMJEConfig
from gmje_core.criteria import GJE, GMJE, GMJEGNG, GMJEMDN, GMJESMC, Criterion, NotFittedError, build_criterion
from gmje_core.errors import (
    BatchSizeError,
    ConfigError,
    GMJEError,
    NonFiniteError,
    NotPositiveDefiniteError,
    ShapeError,
)
from gmje_core.estimator import JointEmbeddingMixture
from gmje_core.mixture import GaussianMixture, JointGaussianMixture
from gmje_core.model import GMJEModel, GMJEOutput
from gmje_core.objectives import info_nce, nt_xent, pmi
from gmje_core.preprocessing import Preprocessing

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
    "GMJEModel",
    "GMJEOutput",
    "GaussianMixture",
    "JointEmbeddingMixture",
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
