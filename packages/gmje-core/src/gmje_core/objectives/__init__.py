r"""The equations that score pairs of embeddings: likelihood, dependence, and contrast as its limit.

All are pure functions of the whole batch and give nats; means are taken over pairs.
"""

from gmje_core.objectives.contrast import bank_pmi, info_nce, info_nce_mixture, nt_xent, semiparametric_pmi
from gmje_core.objectives.dependence import (
    ComponentWeights,
    conditional_pmi,
    gaussian_information,
    gaussian_mutual_information,
    mixture_pmi,
    pmi,
)
from gmje_core.objectives.likelihood import Direction, conditional_nll, joint_nll

__all__ = [
    "ComponentWeights",
    "Direction",
    "bank_pmi",
    "conditional_nll",
    "conditional_pmi",
    "gaussian_information",
    "gaussian_mutual_information",
    "info_nce",
    "info_nce_mixture",
    "joint_nll",
    "mixture_pmi",
    "nt_xent",
    "pmi",
    "semiparametric_pmi",
]
