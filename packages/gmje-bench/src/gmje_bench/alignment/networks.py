"""The rivals that are networks: regression, and GMJE-MDN in the directions in which pairs are not one Gaussian."""

import torch
from torch import Tensor, nn

from gmje_bench.alignment.conditional import Conditional, whiten
from gmje_bench.alignment.training import train
from gmje_core import GaussianMixture
from gmje_core.criteria.mdn import GMJEMDN
from gmje_core.densities.covariance import FullCovariance
from gmje_core.estimation.em import CovarianceForm
from gmje_core.estimation.pairs import Pairs
from gmje_core.estimator.subspace import fit_in_subspace
from gmje_core.linalg import safe_cholesky
from gmje_core.seeds import seeded

__all__ = ["fit_mdn", "fit_mse"]

_HIDDEN, _LAYERS = 64, 2
_MDN_HIDDEN, _MDN_COMPONENTS = 96, 12
# The mixture that finds the directions.
_FORM, _COARSE, _ROUNDS, _TOL = CovarianceForm("full", False, 1, 1e-6), 16, 40, 1e-3


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
    with seeded(seed):
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


def fit_mdn(context: Tensor, target: Tensor, epochs: int, seed: int) -> Conditional:
    """GMJE-MDN on fixed embeddings: a mixture density network in the directions that matter.

    A joint mixture finds the directions of each view in which pairs are not one Gaussian. The network maps those of the
    context to a mixture, with full covariances, of those of the whitened target; the others are Gaussian, and linear
    in the context. Both are changes of variables, exact in the density.

    Arguments and result are those of :func:`fit_mse`.
    """
    sizes = context.shape[1], target.shape[1]
    pairs = Pairs({"context": context, "target": target}, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    fitted = fit_in_subspace(pairs, _FORM, _COARSE, "auto", "k-means++", generator, max_iter=_ROUNDS, tol=_TOL)
    seen, answered = fitted.space.views(sizes[0])
    axes, _ = torch.linalg.qr(answered.axes, mode="complete")
    affine = answered.mean, answered.factor @ axes
    whitened = whiten(target, *affine)
    size = answered.size
    criterion = GMJEMDN(
        dim=(seen.size, size),
        components=_MDN_COMPONENTS,
        covariance_type="full" if size > 1 else "diag",
        hidden=_MDN_HIDDEN,
        hidden_layers=_LAYERS,
        objective="nll",
        context_components=1,
        seed=seed,
        check_every=0,
    )
    train(criterion, criterion, seen.coordinates(context).float(), whitened[:, :size].float(), epochs, seed)
    rest = _Regression(seen.whitened(context), whitened[:, size:])
    return Conditional(lambda z: rest.join(criterion.condition(seen.coordinates(z).float()), seen.whitened(z)), affine)


class _Regression:
    """Linear Gaussian answers ``(N, m)`` to whitened contexts ``(N, d_c)``, both of mean 0; ``m`` may be 0."""

    def __init__(self, context: Tensor, answers: Tensor) -> None:
        self._gain = torch.linalg.lstsq(context, answers).solution
        residuals = answers - context @ self._gain
        covariance = residuals.T @ residuals / len(answers)
        self._factor = safe_cholesky(covariance).float() if len(covariance) else covariance.float()

    def join(self, mixture: GaussianMixture, context: Tensor) -> GaussianMixture:
        """The mixture ``(n,)`` of the first coordinates, and beside it the answers to contexts ``(n, d_c)``."""
        size, answers = mixture.dim, (context @ self._gain).float()
        first = torch.linalg.cholesky(mixture.covariance.dense())
        factor = first.new_zeros(*mixture.means.shape, size + len(self._factor))
        factor = nn.functional.pad(factor, (0, 0, 0, len(self._factor)))
        factor[..., :size, :size] = first
        factor[..., size:, size:] = self._factor
        means = torch.cat([mixture.means, answers.unsqueeze(1).expand(-1, mixture.components, -1)], dim=2)
        return GaussianMixture(mixture.log_weights, means, FullCovariance(factor), validate_args=False)
