"""Densities that are fitted afterwards to the embeddings of any method, so that all methods can be compared.

Embeddings are brought to unit mean variance first: a density of a method that shrinks them is then no better for it.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from gmje_bench.protocol import PROTOCOL
from gmje_core import JointEmbeddingMixture
from gmje_core.densities.joint import JointDensity
from gmje_core.diagnostics import check_spread
from gmje_core.errors import ConvergenceWarning
from gmje_core.seeds import seeded

__all__ = ["Scale", "conditional_log_prob", "embedding_log_prob", "fit_joint"]

# So many rows are evaluated at once, because a conditional holds the means of all components for each row.
_ROWS = 100


@dataclass(frozen=True)
class Scale:
    """One centre and one scale for all coordinates.

    Attributes:
        center: ``(d,)``, the mean.
        factor: Root of the mean variance.
    """

    center: Tensor
    factor: float

    @classmethod
    def of(cls, z: Tensor) -> "Scale":
        """The centre and scale of embeddings ``(N, d)``.

        Raises:
            CollapsedError: all embeddings are equal up to rounding.

        Examples:
            >>> Scale.of(torch.tensor([[0.0], [4.0]])).factor
            2.0
        """
        check_spread(z)
        z = z.double()
        return cls(z.mean(dim=0), float(z.var(dim=0, correction=0).mean().sqrt()))

    def apply(self, z: Tensor) -> Tensor:
        """Scale embeddings to mean zero and mean variance one, in float64."""
        return (z.double() - self.center) / self.factor


def fit_joint(context: Tensor, target: Tensor, seed: int) -> JointDensity:
    """A joint Gaussian mixture of pairs by EM: full covariance, the same for all components.

    A covariance of each component's own would have a parameter for every few numbers of the data.

    Args:
        context: ``(N, d)``, scaled.
        target: ``(N, d)``, scaled alike.
        seed: Seed of the start of EM.
    """
    density = JointEmbeddingMixture(
        PROTOCOL.fitted_components,
        "full",
        tied=True,
        reg_covar=PROTOCOL.fitted_reg_covar,
        max_iter=PROTOCOL.fitted_rounds,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # A mixture whose likelihood could still rise is good enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        density.fit(context, target)
    return density.density_


@torch.no_grad()
def embedding_log_prob(density: JointDensity, z: Tensor) -> Tensor:
    """Marginal log-density ``(N,)`` in nats of embeddings ``(N, d)`` as contexts; float64."""
    marginal = density.context
    dtype = marginal.mean.dtype
    return torch.cat([marginal.log_prob(part.to(dtype)).double() for part in z.split(10 * _ROWS)])


@torch.no_grad()
def conditional_log_prob(
    density: JointDensity, context: Tensor, target: Tensor, samples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Conditional log-densities of targets, and of samples of the density at the same contexts.

    Args:
        density: The density that is evaluated.
        context: ``(n, d)``.
        target: ``(n, d)``.
        samples: Number ``S`` at each context.
        seed: Seed of the samples.

    Returns:
        ``(n,)`` and ``(S, n)``, nats, float64.
    """
    dtype = density.context.mean.dtype
    of_target, of_samples = [], []
    with seeded(seed, density.context.mean.device):
        for z_context, z_target in zip(context.to(dtype).split(_ROWS), target.to(dtype).split(_ROWS), strict=True):
            posterior = density.condition(z_context)
            of_target.append(posterior.log_prob(z_target).double())
            of_samples.append(posterior.log_prob(posterior.sample((samples,))).double())
    return torch.cat(of_target), torch.cat(of_samples, dim=1)
