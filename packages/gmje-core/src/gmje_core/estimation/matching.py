r"""Moment matching: an affine map of each view after which a density's samples have the moments of the embeddings.

Shrinkage and shared scales leave the moments of a mixture a little off, and bringing samples to the unit sphere moves
them again. A map close to the identity repairs both, and costs almost no likelihood.
"""

import torch
from torch import Tensor

from gmje_core.densities.scaled import ScaledJointMixture

__all__ = ["match_moments", "transport_map"]

# Samples of one round of matching on the sphere, and how many rounds there are.
_SAMPLES, _ROUNDS = 20_000, 5
# Least eigenvalue of a covariance, in units of the largest.
_LEAST = 1e-9

Moments = tuple[Tensor, Tensor]


def transport_map(source: Tensor, target: Tensor) -> Tensor:
    r"""The symmetric map that takes a centred Gaussian to another one with the least mean squared displacement.

    .. math:: T = A^{-1/2} (A^{1/2} B A^{1/2})^{1/2} A^{-1/2}, \qquad T A T^\top = B

    (Peyré and Cuturi, 2019, "Computational optimal transport", remark 2.31).

    Args:
        source: :math:`A`, ``(d, d)`` float64.
        target: :math:`B`, ``(d, d)`` float64.

    Returns:
        ``(d, d)`` symmetric positive definite.

    Examples:
        >>> transport_map(torch.diag(torch.tensor([1.0, 4.0])), torch.diag(torch.tensor([9.0, 4.0])))
        tensor([[3., 0.],
                [0., 1.]])
    """
    root, inverse_root = _power(source, 0.5), _power(source, -0.5)
    return inverse_root @ _power(root @ target @ root, 0.5) @ inverse_root


@torch.no_grad()
def match_moments(density: ScaledJointMixture, context: Tensor, target: Tensor, *, seed: int = 0) -> ScaledJointMixture:
    """The density mapped so that each view of its samples has the mean and covariance of the embeddings.

    Args:
        density: The density. Where it has ``unit_norm``, the moments are those of samples on the sphere, found in
            rounds of sampling; elsewhere they are exact.
        context: ``(N, d_c)`` embeddings.
        target: ``(N, d_t)``.
        seed: Seed of the samples.

    Examples:
        >>> from gmje_core.estimation.scaled import fit_scaled_mixture
        >>> z = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> fit = fit_scaled_mixture(z[:300], z[:300] + 0.1, (z[300:], z[300:] + 0.1), components=2)
        >>> (mean, _), _ = match_moments(fit.density, z, z + 0.1).view_moments()
        >>> torch.allclose(mean.float(), z.mean(dim=0), atol=1e-5)
        True
    """
    wanted = _moments(context), _moments(target)
    if not density.unit_norm:
        return _matched(density, wanted)
    aims = wanted
    for index in range(_ROUNDS):
        matched = _matched(density, aims)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + index)  # PyTorch's distributions take no generator.
            found = [_moments(view) for view in matched.sample((_SAMPLES,))]
        # What the sphere takes from the moments is added to what is aimed at.
        aims = _corrected(aims[0], wanted[0], found[0]), _corrected(aims[1], wanted[1], found[1])
    return _matched(density, aims)


def _corrected(aim: Moments, wanted: Moments, found: Moments) -> Moments:
    ratio = _power(wanted[1], 0.5) @ _power(found[1], -0.5)
    return aim[0] + wanted[0] - found[0], ratio @ aim[1] @ ratio.T


def _matched(density: ScaledJointMixture, aims: tuple[Moments, Moments]) -> ScaledJointMixture:
    maps = []
    for (mean, covariance), (aim_mean, aim_covariance) in zip(density.view_moments(), aims, strict=True):
        matrix = transport_map(covariance, aim_covariance)
        maps.append((matrix, aim_mean - matrix @ mean))
    return density.mapped(maps[0], maps[1])


def _moments(z: Tensor) -> Moments:
    z = z.double()
    return z.mean(dim=0), torch.cov(z.T, correction=0).view(z.shape[1], z.shape[1])


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Power of a symmetric positive-definite matrix, whose eigenvalues are kept away from zero."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(_LEAST * float(values[-1]))
    power: Tensor = (vectors * values**exponent) @ vectors.T
    return power
