"""Where samples come from: the learned density, and densities fitted to the embeddings of any method."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from sklearn.mixture import GaussianMixture as SklearnMixture
from threadpoolctl import threadpool_limits
from torch import Tensor

from gmje_bench.protocol import PROTOCOL
from gmje_core import GaussianMixture
from gmje_core.densities.covariance import SphericalCovariance
from gmje_core.densities.joint import JointDensity
from gmje_core.seeds import seeded

__all__ = ["FITTED", "Source", "fit_gaussian", "fit_kernel", "fit_mixture", "of_density", "of_joint"]

# These widths of the kernels are tried, in standard deviations of a coordinate.
_WIDTHS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
_ROWS = 500


class Source(NamedTuple):
    """A density to sample from.

    Attributes:
        sample: A function from a count and a seed to samples ``(count, d)``, float64.
        log_prob: A function from points ``(n, d)`` to log-densities ``(n,)`` in nats, float64.
    """

    sample: Callable[[int, int], Tensor]
    log_prob: Callable[[Tensor], Tensor]


def of_density(density: GaussianMixture) -> Source:
    """Make a source of a mixture."""
    dtype = density.mean.dtype

    @torch.no_grad()
    def sample(count: int, seed: int) -> Tensor:
        with seeded(seed, density.mean.device):
            return density.sample((count,)).double()

    @torch.no_grad()
    def log_prob(z: Tensor) -> Tensor:
        return torch.cat([density.log_prob(part.to(dtype)).double() for part in z.split(_ROWS)])

    return Source(sample, log_prob)


def of_joint(density: JointDensity) -> Source:
    """Make a source of the contexts of a joint density, which knows whether its samples lie on the sphere."""
    marginal = of_density(density.context)

    @torch.no_grad()
    def sample(count: int, seed: int) -> Tensor:
        with seeded(seed, density.context.mean.device):
            return density.sample((count,))[0].double()

    return Source(sample, marginal.log_prob)


def fit_gaussian(z: Tensor, seed: int) -> Source:
    """One Gaussian with the moments of the embeddings ``(N, d)``."""
    z = z.double()
    covariance = torch.cov(z.T, correction=0) + PROTOCOL.fitted_reg_covar * torch.eye(z.shape[1], dtype=z.dtype)
    return of_density(GaussianMixture.from_moments(torch.ones(1).to(z), z.mean(0)[None], covariance[None]))


def fit_kernel(z: Tensor, seed: int) -> Source:
    """A Gaussian kernel on every embedding ``(N, d)``, its width chosen on a tenth of them set aside."""
    z = z.double()
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
    aside, rest = order.split([max(1, len(z) // 10), len(z) - max(1, len(z) // 10)])

    def kernels(rows: Tensor, width: float) -> Source:
        variance = torch.full((1,), width**2, dtype=z.dtype)
        weights = torch.zeros(len(rows), dtype=z.dtype)
        return of_density(GaussianMixture(weights, rows, SphericalCovariance(variance, z.shape[1])))

    best = max(_WIDTHS, key=lambda width: float(kernels(z[rest], width).log_prob(z[aside][:500]).mean()))
    return kernels(z, best)


def fit_mixture(z: Tensor, seed: int) -> Source:
    """A mixture of Gaussians with full covariances, by scikit-learn's EM, of embeddings ``(N, d)``."""
    components = min(PROTOCOL.mixture_components, max(1, len(z) // (2 * z.shape[1])))
    with threadpool_limits(1), warnings.catch_warnings(action="ignore"):  # A fit that has not converged is good enough.
        fitted = SklearnMixture(
            components,
            covariance_type="full",
            reg_covar=PROTOCOL.fitted_reg_covar,
            max_iter=PROTOCOL.fitted_rounds,
            tol=1e-2,
            random_state=seed,
        ).fit(z.double().numpy())
    weights, means, covariances = map(torch.from_numpy, (fitted.weights_, fitted.means_, fitted.covariances_))
    return of_density(GaussianMixture.from_moments(weights, means, covariances))


#: Densities that are fitted to the embeddings of any method, by the names of :data:`gmje_bench.runs.SOURCES`.
FITTED: dict[str, Callable[[Tensor, int], Source]] = {
    "gaussian": fit_gaussian,
    "kde": fit_kernel,
    "mixture": fit_mixture,
}
