"""A fitted conditional density of the target, asked as a truth is, perhaps of targets that were whitened before."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Generator, Tensor

from gmje_bench.alignment.truths import drawn_by

__all__ = ["Conditional", "Posterior", "principal_axes", "whiten"]

# Contexts that are evaluated at once.
_ROWS = 1000


class Posterior(Protocol):
    """What a model answers for contexts ``(n, d_c)``: a distribution of batch shape ``(n,)``."""

    @property
    def mean(self) -> Tensor:
        """Means ``(n, d_t)``."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-densities ``(..., n)`` of targets ``(..., n, d_t)``."""

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw targets ``(*sample_shape, n, d_t)``."""


class Conditional:
    r"""A fitted conditional, asked as a truth is; :math:`z_t = \text{center} + A w` with a density of ``w``.

    Args:
        posterior: A function from contexts ``(n, d_c)`` to the distribution of ``w``, of batch shape ``(n,)``.
        affine: The centre ``(d_t,)`` and the invertible ``A``, ``(d_t, d_t)``, where the distribution is of whitened
            targets.

    Examples:
        >>> from gmje_core import JointGaussianMixture
        >>> joint = JointGaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None], 1)
        >>> Conditional(joint.condition).log_prob(torch.zeros(3, 1), torch.zeros(3, 1))
        tensor([-0.9189, -0.9189, -0.9189])
    """

    def __init__(self, posterior: Callable[[Tensor], Posterior], affine: tuple[Tensor, Tensor] | None = None) -> None:
        self._posterior, self._affine = posterior, affine

    @torch.no_grad()
    def log_prob(self, target: Tensor, context: Tensor) -> Tensor:
        """Log-density ``(..., n)`` in nats of targets ``(..., n, d_t)`` given contexts ``(n, d_c)``."""
        constant: Tensor | float = 0.0
        if self._affine is not None:
            target = whiten(target, *self._affine)
            constant = torch.linalg.slogdet(self._affine[1]).logabsdet
        parts = zip(target.split(_ROWS, dim=-2), context.split(_ROWS), strict=True)
        return torch.cat([self._posterior(c).log_prob(t.to(c.dtype)) for t, c in parts], dim=-1) - constant

    @torch.no_grad()
    def sample_target(self, context: Tensor, count: int, generator: Generator) -> Tensor:
        """Draw targets ``(count, n, d_t)`` of contexts ``(n, d_c)``."""
        with drawn_by(generator):
            return self._restore(torch.cat([self._posterior(c).sample((count,)) for c in context.split(_ROWS)], dim=1))

    @torch.no_grad()
    def mean(self, context: Tensor) -> Tensor:
        """Conditional means ``(n, d_t)`` of contexts ``(n, d_c)``."""
        return self._restore(torch.cat([self._posterior(c).mean for c in context.split(_ROWS)]))

    def _restore(self, w: Tensor) -> Tensor:
        if self._affine is None:
            return w
        center, matrix = self._affine
        return center + w.to(matrix) @ matrix.mT


def principal_axes(z: Tensor) -> tuple[Tensor, Tensor]:
    """Centre, and the matrix whose columns are principal axes as long as the deviations along them; float64."""
    center = z.double().mean(dim=0)
    variances, axes = torch.linalg.eigh(torch.cov(z.double().T, correction=0).view(z.shape[1], z.shape[1]))
    return center, axes * variances.clamp_min(1e-12 * variances.max()).sqrt()


def whiten(z: Tensor, center: Tensor, matrix: Tensor) -> Tensor:
    """Coordinates ``w`` of ``z = center + matrix w``, in the dtype of the matrix."""
    whitened: Tensor = torch.linalg.solve(matrix, (z - center).to(matrix).unsqueeze(-1)).squeeze(-1)
    return whitened
