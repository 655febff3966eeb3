"""The families of densities that are fitted to pairs of embeddings afterwards, each at its best size.

A fit is a function ``fit(pairs, seed) -> Fitted`` of training pairs; sizes are chosen by the mean log-density of the
validation pairs among them, and no function sees test pairs. On one core, 36,000 pairs of 2 x 128 dimensions take less
than 1 s for the Gaussian, 2 s for 2,000 kernels, 20 s for three sizes of full mixtures on 9,000 of the pairs, and about
a minute for the scaled one; a mixture of factor analysers takes about half a minute for each size.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.subject import TrainingPairs
from gmje_core import GaussianMixture, JointEmbeddingMixture, JointGaussianMixture
from gmje_core.densities.covariance import SphericalCovariance
from gmje_core.densities.joint import JointDensity
from gmje_core.errors import ConvergenceWarning
from gmje_core.estimation.consolidation import fit_density

__all__ = ["FITS", "Fitted", "fit_factors", "fit_gaussian", "fit_kernels", "fit_mixture", "fit_scaled", "mean_log_prob"]

# So many pairs are scored at once.
_ROWS = 500


@dataclass(frozen=True)
class Fitted:
    """A density of pairs and how it was chosen.

    Attributes:
        density: The density, in the units of the pairs.
        validation_log_prob: Mean joint log-density of the validation pairs, nats.
        choices: The chosen sizes by name.
    """

    density: JointDensity
    validation_log_prob: float
    choices: Mapping[str, float] = field(default_factory=dict)


def fit_gaussian(pairs: TrainingPairs, seed: int) -> Fitted:
    r"""One full Gaussian, :math:`(1 - a) S + a \operatorname{tr}(S) / D \cdot I` with the best shrinkage :math:`a`."""
    z = torch.cat([pairs.context, pairs.target], dim=1).double()
    mean, sample = z.mean(dim=0), torch.cov(z.T, correction=0)
    isotropic = sample.diagonal().mean() * torch.eye(len(sample)).to(sample)

    def shrunk(amount: float) -> JointDensity:
        covariance = (1 - amount) * sample + amount * isotropic
        return JointGaussianMixture.from_moments(
            torch.ones(1).to(z), mean[None], covariance[None], pairs.context.shape[1]
        )

    return _best(({"shrinkage": amount} for amount in PROTOCOL.density_shrinkages), shrunk, pairs.validation)


def fit_kernels(pairs: TrainingPairs, seed: int) -> Fitted:
    """A spherical Gaussian kernel on each of a number of pairs, drawn at random, of the best width."""
    order = torch.randperm(len(pairs.context), generator=torch.Generator().manual_seed(seed))
    rows = order[: PROTOCOL.density_kernels]
    means = torch.cat([pairs.context[rows], pairs.target[rows]], dim=1).float()
    spread = float(means.double().var(dim=0, correction=0).mean())

    def kernels(width: float) -> JointDensity:
        covariance = SphericalCovariance(torch.full((1,), width**2 * spread), means.shape[1])
        mixture = GaussianMixture(torch.zeros(len(means)), means, covariance)
        return JointGaussianMixture.from_mixture(mixture, pairs.context.shape[1])

    return _best(({"width": width} for width in PROTOCOL.density_widths), kernels, pairs.validation)


def fit_mixture(pairs: TrainingPairs, seed: int) -> Fitted:
    """A mixture of Gaussians with full covariances, by EM, with the best number of components."""
    sizes = ({"components": count} for count in PROTOCOL.density_full)
    return _best(sizes, lambda components: _mixture(pairs, seed, components), pairs.validation)


def fit_factors(pairs: TrainingPairs, seed: int) -> Fitted:
    """A mixture of factor analysers, by EM, with the best number of components and rank."""
    sizes = (
        {"components": count, "rank": min(rank, pairs.context.shape[1] + pairs.target.shape[1])}
        for count, rank in PROTOCOL.density_low_rank
    )
    return _best(sizes, lambda components, rank: _mixture(pairs, seed, components, rank), pairs.validation)


def fit_scaled(pairs: TrainingPairs, seed: int) -> Fitted:
    """The calibrated mixture with scales that criteria get in their closing stage, of the size that they get."""
    fit = fit_density(
        pairs.context,
        pairs.target,
        pairs.validation,
        passes=pairs.passes,
        exchangeable=pairs.exchangeable,
        seed=seed,
    )
    return Fitted(fit.density, fit.validation_log_prob, {"components": len(fit.density.log_weights)})


#: The fits by the names of their kinds, in the order of tables.
FITS: dict[str, Callable[[TrainingPairs, int], Fitted]] = {
    "gaussian": fit_gaussian,
    "kde": fit_kernels,
    "mixture": fit_mixture,
    "factors": fit_factors,
    "scaled": fit_scaled,
}


@torch.no_grad()
def mean_log_prob(density: JointDensity, context: Tensor, target: Tensor) -> float:
    """Mean joint log-density in nats of pairs ``(n, d_c)`` and ``(n, d_t)``."""
    dtype = density.context.mean.dtype
    blocks = zip(context.to(dtype).split(_ROWS), target.to(dtype).split(_ROWS), strict=True)
    return float(torch.cat([density.log_prob(*block).double() for block in blocks]).mean())


def _best(
    sizes: Iterable[Mapping[str, float]], make: Callable[..., JointDensity], validation: tuple[Tensor, Tensor]
) -> Fitted:
    """The density of the sizes that give the validation pairs the largest mean log-density."""
    tried = []
    for size in sizes:
        density = make(*size.values())
        tried.append(Fitted(density, mean_log_prob(density, *validation), size))
    return max(tried, key=lambda fitted: fitted.validation_log_prob)


def _mixture(pairs: TrainingPairs, seed: int, components: float, rank: float | None = None) -> JointDensity:
    """A mixture fitted to at most so many pairs; a component gets no fewer than two pairs."""
    rows = slice(0, PROTOCOL.density_rows)
    count = max(1, min(int(components), len(pairs.context[rows]) // 2))
    density = JointEmbeddingMixture(
        count,
        "full" if rank is None else "low_rank",
        rank=1 if rank is None else int(rank),
        reg_covar=PROTOCOL.fitted_reg_covar,
        max_iter=PROTOCOL.density_rounds,
        random_state=seed,
        dtype="float32",
    )
    with warnings.catch_warnings():
        # A mixture whose likelihood could still rise is good enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        density.fit(pairs.context[rows].float(), pairs.target[rows].float())
    return density.density_
