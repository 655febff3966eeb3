r"""Moment matching: an affine map of each view after which a density's samples have the moments of the embeddings.

Shrinkage and shared scales leave the moments of a mixture a little off. A map close to the identity repairs them and
costs almost no likelihood.
"""

import torch
from torch import Tensor

from gmje_core.densities.scaled import ScaledJointMixture

__all__ = ["match_moments", "transport_map", "view_moments"]

# Least eigenvalue, relative to the largest, of products of covariances too; variance below which a direction is left.
_LEAST, _LEFT = 1e-15, 1e-6

Moments = tuple[Tensor, Tensor]


def transport_map(source: Tensor, target: Tensor) -> Tensor:
    r"""The symmetric map that takes a centred Gaussian to another one with the least mean squared displacement.

    .. math:: T = A^{-1/2} (A^{1/2} B A^{1/2})^{1/2} A^{-1/2}, \qquad T A T^\top = B

    (Peyré and Cuturi, 2019, "Computational optimal transport", remark 2.31). Its root is of squares of variances, so
    that these should be no more than six orders of magnitude apart.

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
def match_moments(density: ScaledJointMixture, context: Tensor, target: Tensor | None) -> ScaledJointMixture:
    """The density mapped so that each of its views has the mean and covariance of the embeddings.

    Where the density has ``unit_norm`` these are the moments before samples are brought to the sphere. Aiming at those
    after it inflates the radial direction, of which the sphere keeps nothing, and costs tens of nats. Directions with
    less than a millionth of the largest variance are left as they are.

    Args:
        density: The density.
        context: ``(N, d_c)`` embeddings.
        target: ``(N, d_t)``; ``None`` to leave the target as it is. Where another encoder gives the target, the scales
            of context and conditional both shape its marginal, and mapping it costs tens of nats.

    Examples:
        >>> from gmje_core.estimation.scaled import fit_scaled_mixture
        >>> z = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> fit = fit_scaled_mixture(z[:300], z[:300] + 0.1, (z[300:], z[300:] + 0.1), components=2)
        >>> (mean, _), _ = view_moments(match_moments(fit.density, z, z + 0.1))
        >>> torch.allclose(mean.float(), z.mean(dim=0), atol=1e-5)
        True
    """
    maps = []
    for z, (mean, covariance) in zip((context, target), view_moments(density), strict=True):
        aim_mean, aim_covariance = (mean, covariance) if z is None else _moments(z)
        ridge = _LEFT * torch.linalg.eigvalsh(aim_covariance)[-1] * torch.eye(len(mean)).to(covariance)
        matrix = transport_map(covariance + ridge, aim_covariance + ridge)
        maps.append((matrix, aim_mean - matrix @ mean))
    return density.mapped(maps[0], maps[1])


def view_moments(density: ScaledJointMixture) -> tuple[Moments, Moments]:
    """Mean ``(d,)`` and covariance ``(d, d)`` of each view, context first, in float64.

    Examples:
        >>> eye, zero, one = torch.eye(2)[None], torch.zeros(1, 2), torch.ones(1)
        >>> density = ScaledJointMixture(torch.zeros(1, 1, 1), zero, zero, eye, 2 * eye, eye, one, one)
        >>> [covariance.diagonal().tolist() for _, covariance in view_moments(density)]
        [[1.0, 1.0], [5.0, 5.0]]
    """
    weights, context_means, target_means, context_tril, gain, target_tril = (
        part.double() for part in density.parameters
    )
    scale_a, scale_b = (scales.double() for scales in density.scales)
    weights = weights.exp()
    # Mean scales of each component, times its weight.
    of_context = (weights.sum(dim=2) @ scale_a)[:, None, None] * (context_tril @ context_tril.mT)
    of_target = (weights.sum(dim=1) @ scale_b)[:, None, None] * (target_tril @ target_tril.mT)
    within = of_context.sum(dim=0), (gain @ of_context @ gain.mT + of_target).sum(dim=0)
    share, moments = weights.sum(dim=(1, 2)), []
    for means, inside in zip((context_means, target_means), within, strict=True):
        mean = share @ means
        centred = means - mean
        moments.append((mean, inside + (share[:, None] * centred).T @ centred))
    return moments[0], moments[1]


def _moments(z: Tensor) -> Moments:
    z = z.double()
    return z.mean(dim=0), torch.cov(z.T, correction=0).view(z.shape[1], z.shape[1])


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Power of a symmetric positive-definite matrix, whose eigenvalues are kept away from zero."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(_LEAST * float(values[-1]))
    power: Tensor = (vectors * values**exponent) @ vectors.T
    return power
