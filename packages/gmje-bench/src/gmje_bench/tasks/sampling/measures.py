"""Distances between two clouds of points: pure functions, each near its best value for two samples of one density."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Manifolds", "frechet_distance", "manifold_measures", "maximum_mean_discrepancy"]


def frechet_distance(x: Tensor, y: Tensor) -> float:
    r"""Fréchet distance of the Gaussians with the moments of two samples (Heusel et al., 2017).

    .. math::
        |m_x - m_y|^2 + \operatorname{tr}\left(C_x + C_y - 2 (C_x^{1/2} C_y C_x^{1/2})^{1/2}\right)

    Args:
        x: ``(n, d)``.
        y: ``(m, d)``.

    Returns:
        In squared units of the points, at least 0; biased upwards in small samples.

    Examples:
        >>> points = torch.randn(50, 3)
        >>> frechet_distance(points, points) < 1e-9, round(frechet_distance(points, points + 2), 6)
        (True, 12.0)
    """
    x, y = x.double(), y.double()
    root = _root(torch.cov(x.T).reshape(x.shape[1], -1))
    covariance = torch.cov(y.T).reshape(y.shape[1], -1)
    cross = torch.linalg.eigvalsh(root @ covariance @ root).clamp_min(0).sqrt().sum()
    distance = (x.mean(0) - y.mean(0)).square().sum() + root.square().sum() + covariance.trace() - 2 * cross
    return max(float(distance), 0.0)


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root; eigenvalues below zero come from rounding and count as zero."""
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root


class Manifolds(NamedTuple):
    """How two clouds cover each other.

    Attributes:
        precision: Share of the samples within the reach of a real point (Kynkäänniemi et al., 2019).
        recall: Share of the real points within the reach of a sample.
        density: Real points whose reach holds a sample, in units of what is expected (Naeem et al., 2020); may
            exceed 1.
        coverage: Share of the real points whose reach holds a sample.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_measures(real: Tensor, samples: Tensor, neighbours: int) -> Manifolds:
    """Precision, recall, density and coverage; the reach of a point ends at its k-th neighbour of its own cloud.

    Args:
        real: ``(n, d)``.
        samples: ``(m, d)``.
        neighbours: ``k``, below ``n`` and ``m``.

    Raises:
        ValueError: ``k`` is out of range.

    Examples:
        >>> points = torch.randn(50, 2)
        >>> manifold_measures(points, points, 3)[1:2], manifold_measures(points, points + 100, 3)
        ((1.0,), Manifolds(precision=0.0, recall=0.0, density=0.0, coverage=0.0))
    """
    if not 1 <= neighbours < min(len(real), len(samples)):
        raise ValueError(f"neighbours must lie in [1, {min(len(real), len(samples)) - 1}], got {neighbours}")
    reach, sample_reach = (torch.cdist(z, z).kthvalue(neighbours + 1, dim=1).values for z in (real, samples))
    distances = torch.cdist(real, samples)
    within = distances <= reach[:, None]
    return Manifolds(
        precision=float(within.any(dim=0).double().mean()),
        recall=float((distances <= sample_reach).any(dim=1).double().mean()),
        density=float(within.double().sum(dim=0).mean() / neighbours),
        coverage=float(within.any(dim=1).double().mean()),
    )


def maximum_mean_discrepancy(x: Tensor, y: Tensor) -> float:
    r"""Squared MMD with a Gaussian kernel as wide as the median distance of the pooled points (Gretton et al., 2012).

    Args:
        x: ``(n, d)``.
        y: ``(m, d)``.

    Returns:
        Without bias: 0 in the mean for two samples of one density, and sometimes below.

    Examples:
        >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        >>> abs(maximum_mean_discrepancy(x[:100], x[100:])) < 0.02 < maximum_mean_discrepancy(x, x + 3)
        True
    """
    x, y = x.double(), y.double()
    squares = [torch.cdist(a, b).square() for a, b in ((x, x), (y, y), (x, y))]
    width = float(torch.cat([square.flatten() for square in squares]).median())
    if width == 0:  # The median is zero where more than half of the points are the same.
        width = float(squares[2].mean()) or math.inf
    within_x, within_y, between = ((-square / width).exp() for square in squares)
    n, m = len(x), len(y)
    own = (within_x.sum() - n) / (n * (n - 1)) + (within_y.sum() - m) / (m * (m - 1))
    return float(own - 2 * between.mean())
