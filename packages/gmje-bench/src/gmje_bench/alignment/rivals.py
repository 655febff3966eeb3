r"""The rivals: each fits fixed pairs of embeddings and answers with the distribution of the target given a context.

All get the same training pairs; those that need it set a tenth of them aside to stop on. None sees the truth.
"""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gmje_bench.alignment.conditional import Conditional
from gmje_bench.alignment.flow import fit_flow
from gmje_bench.alignment.networks import fit_mdn, fit_mse
from gmje_bench.alignment.training import split
from gmje_bench.errors import OptionError, did_you_mean
from gmje_core import JointGaussianMixture
from gmje_core.errors import ConvergenceWarning
from gmje_core.estimator import JointEmbeddingMixture

__all__ = ["RIVALS", "Rival", "fit_gje", "fit_gmje", "fit_mdn", "fit_mse", "get_rival"]

# Numbers of components that GMJE tries, upwards; each has so many pairs at least.
_GMJE_COMPONENTS, _GMJE_ROWS = (4, 16, 48), 20


class Rival(NamedTuple):
    """One way to predict a target embedding.

    Attributes:
        name: The name that the command line takes.
        title: Words for tables and figures.
        fit: A function from contexts ``(N, d_c)``, targets ``(N, d_t)``, epochs and a seed to the conditional.
    """

    name: str
    title: str
    fit: Callable[[Tensor, Tensor, int, int], Conditional]


def get_rival(name: str) -> Rival:
    """Look up a rival by its name.

    Raises:
        OptionError: no rival has this name.

    Examples:
        >>> get_rival("gje").title
        'GJE'
    """
    if name not in RIVALS:
        raise OptionError(f"unknown alignment method {name!r}{did_you_mean(name, RIVALS)}")
    return RIVALS[name]


def fit_gje(context: Tensor, target: Tensor, epochs: int, seed: int) -> Conditional:
    """One joint Gaussian with the moments of the pairs: the maximum of likelihood, in closed form.

    Arguments and result are those of :func:`fit_mse`; epochs and seed play no part.
    """
    pairs = torch.cat([context, target], dim=1).double()
    mean, covariance = pairs.mean(dim=0), torch.cov(pairs.T, correction=0)
    joint = JointGaussianMixture.from_moments(torch.ones(1).double(), mean[None], covariance[None], context.shape[1])
    return Conditional(joint.condition)


def fit_gmje(context: Tensor, target: Tensor, epochs: int, seed: int) -> Conditional:
    """A joint mixture with full covariances in the directions that matter, by EM.

    The number of components grows as long as the targets set aside, which EM does not see, become likelier given their
    contexts, by more than the standard error of that gain.

    Arguments and result are those of :func:`fit_mse`; EM runs until it converges, whatever the epochs.
    """
    aside, rest = split(len(context), torch.Generator().manual_seed(seed))
    best: Conditional | None = None
    highest = torch.empty(0)
    for components in _GMJE_COMPONENTS:
        if components * _GMJE_ROWS > len(rest):
            break
        density = JointEmbeddingMixture(
            components, subspace="auto", max_iter=60, tol=2e-4, dtype="float32", random_state=seed
        )
        with warnings.catch_warnings():
            # A mixture whose likelihood could still rise is good enough.
            warnings.simplefilter("ignore", ConvergenceWarning)
            density.fit(context[rest], target[rest])
        fitted = Conditional(density.density_.condition)
        log_prob = fitted.log_prob(target[aside], context[aside]).double()
        gain = log_prob - highest if best is not None else torch.ones(2)
        if float(gain.mean()) <= float(gain.std()) / math.sqrt(len(gain)):
            break
        best, highest = fitted, log_prob
    assert best is not None
    return best


#: All rivals by name, in the order of tables and pictures.
RIVALS: dict[str, Rival] = {
    rival.name: rival
    for rival in (
        Rival("mse", "MSE regression", fit_mse),
        Rival("gje", "GJE", fit_gje),
        Rival("gmje", "GMJE", fit_gmje),
        Rival("mdn", "GMJE-MDN", fit_mdn),
        Rival("flow", "spline flow", fit_flow),
    )
}
