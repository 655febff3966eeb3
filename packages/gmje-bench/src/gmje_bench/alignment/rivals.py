r"""The rivals: each fits fixed pairs of embeddings and answers with the distribution of the target given a context.

All get the same training pairs; those that need it set a tenth of them aside to stop on. None sees the truth.
"""

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gmje_bench.alignment.conditional import Conditional, principal_axes, whiten
from gmje_bench.alignment.flow import fit_flow
from gmje_bench.alignment.training import train
from gmje_bench.errors import OptionError, did_you_mean
from gmje_core import GaussianMixture, JointGaussianMixture
from gmje_core.criteria.mdn import GMJEMDN
from gmje_core.densities.covariance import FullCovariance
from gmje_core.errors import ConvergenceWarning
from gmje_core.estimator import JointEmbeddingMixture
from gmje_core.linalg import safe_cholesky

__all__ = ["RIVALS", "Rival", "fit_gje", "fit_gmje", "fit_mdn", "fit_mse", "get_rival"]

_HIDDEN, _LAYERS = 64, 2
#: Numbers of components that GMJE tries, upwards, until BIC gets worse.
_GMJE_COMPONENTS = (1, 2, 4, 8, 16, 32, 64)
# Target size up to which the network's covariances are full.
_FULL = 4


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


def fit_mse(context: Tensor, target: Tensor, epochs: int, seed: int) -> Conditional:
    """Least-squares regression by a small network; as a density, a Gaussian with the residuals' covariance.

    Args:
        context: ``(N, d_c)``.
        target: ``(N, d_t)``.
        epochs: Largest number of passes over the pairs.
        seed: Seed of the split, of the network's start and of the order of the pairs.

    Returns:
        The conditional: one Gaussian around the prediction. Its covariance is that of the pairs set aside.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body: list[nn.Module] = []
        for index in range(_LAYERS):
            body += [nn.Linear(_HIDDEN if index else context.shape[1], _HIDDEN), nn.SiLU()]
        network = nn.Sequential(*body, nn.Linear(_HIDDEN, target.shape[1]))
    center, scale = context.mean(dim=0), context.std()

    def predict(z: Tensor) -> Tensor:
        prediction: Tensor = network((z - center) / scale)
        return prediction

    aside = train(network, lambda c, t: (predict(c) - t).square().sum(dim=1).mean(), context, target, epochs, seed)
    with torch.no_grad():
        residuals = (target[aside] - predict(context[aside])).double()
        second_moment = residuals.T @ residuals / len(residuals)
        covariance = FullCovariance(safe_cholesky(second_moment).float().unsqueeze(0))

    return Conditional(lambda z: GaussianMixture(torch.zeros(1), predict(z).unsqueeze(1), covariance))


def fit_gje(context: Tensor, target: Tensor, epochs: int, seed: int) -> Conditional:
    """One joint Gaussian with the moments of the pairs: the maximum of likelihood, in closed form.

    Arguments and result are those of :func:`fit_mse`; epochs and seed play no part.
    """
    pairs = torch.cat([context, target], dim=1).double()
    mean, covariance = pairs.mean(dim=0), torch.cov(pairs.T, correction=0)
    joint = JointGaussianMixture.from_moments(torch.ones(1).double(), mean[None], covariance[None], context.shape[1])
    return Conditional(joint.condition)


def fit_gmje(context: Tensor, target: Tensor, epochs: int, seed: int) -> Conditional:
    """A joint mixture with full covariances, by EM; the number of components by BIC.

    Arguments and result are those of :func:`fit_mse`; EM runs until it converges, whatever the epochs.
    """
    best, least = None, math.inf
    for components in _GMJE_COMPONENTS:
        if components * (context.shape[1] + target.shape[1] + 1) > len(context):
            break
        density = JointEmbeddingMixture(components, max_iter=200, tol=1e-4, random_state=seed)
        with warnings.catch_warnings():
            # A mixture whose likelihood could still rise is good enough.
            warnings.simplefilter("ignore", ConvergenceWarning)
            density.fit(context, target)
        bic = density.bic(context, target)
        if bic >= least:
            break
        best, least = density, bic
    assert best is not None
    return Conditional(best.density_.condition)


def fit_mdn(context: Tensor, target: Tensor, epochs: int, seed: int) -> Conditional:
    """GMJE-MDN on fixed embeddings: a mixture density network, on targets whitened by their principal axes.

    Whitening is a change of variables, exact in the density, which makes directions of little variance as easy to
    learn as the others. Conditional covariances are full up to four dimensions, low-rank plus diagonal beyond.

    Arguments and result are those of :func:`fit_mse`.
    """
    size = target.shape[1]
    large = size > _FULL
    affine = principal_axes(target)
    whitened = whiten(target, *affine).to(target.dtype)
    criterion = GMJEMDN(
        dim=(context.shape[1], size),
        components=8 if large else 12,
        covariance_type="low_rank" if large else "full" if size > 1 else "diag",
        rank=2,
        hidden=_HIDDEN,
        hidden_layers=_LAYERS,
        objective="nll",
        context_components=1,
        seed=seed,
        check_every=0,
    )
    train(criterion, criterion, context, whitened, epochs, seed, batch=512 if large else 256)
    return Conditional(criterion.condition, affine)


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
