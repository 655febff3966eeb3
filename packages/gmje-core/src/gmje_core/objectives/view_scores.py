"""Log-densities of views and pairs under a mixture that carries no gradient, by blocks, with their gradient.

A batch of ``B`` pairs has three tensors ``B x K`` of scores. Here a block of pairs is scored, and what its scores give
to the log-densities and to their gradients is taken before the next block; no score is stored or computed twice.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmje_core.densities.blockwise import refuse_second_gradient
from gmje_core.densities.covariance import SphericalCovariance
from gmje_core.densities.distances import for_products
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.exponentials import exp_
from gmje_core.linalg import LOG_2PI

__all__ = ["axis_aligned_log_densities"]

# Number of scores of one kind in a block: 2 MB in float32, enough for products at full speed.
_SCORES = 2**19


def axis_aligned_log_densities(
    context: GaussianMixture, target: GaussianMixture, z_context: Tensor, z_target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Log-densities of contexts, targets and pairs whose views are independent within each component.

    Under diagonal and spherical covariances the scores are matrix products,
    :math:`[z^2, z] \cdot [-\tfrac12 p_k,\, p_k \mu_k] + c_k` with precisions :math:`p`, and those of pairs are sums:
    :math:`\log q(z_c, z_t) = \log \sum_k w_k N_k(z_c) N_k(z_t)`. They can be differentiated once, with respect to the
    views.

    Args:
        context: Mixture of the context, of batch shape ``()``, with diagonal or spherical covariances; it carries no
            gradient.
        target: Mixture of the target with the same weights.
        z_context: ``(B, d_c)``.
        z_target: ``(B, d_t)``.

    Returns:
        Three tensors ``(B,)``, nats.

    Examples:
        >>> mixture = GaussianMixture.from_moments(torch.ones(3), torch.randn(3, 2), torch.eye(2), "diag", tied=True)
        >>> z = torch.randn(5, 2)
        >>> of_context, _, _ = axis_aligned_log_densities(mixture, mixture, z, z)
        >>> torch.allclose(of_context, mixture.log_prob(z), atol=1e-5)
        True
    """
    first, second = _linear(context, z_context), _linear(target, z_target)
    precise = torch.promote_types(first.features.dtype, second.features.dtype)
    first, second = (_Linear(*[part.to(precise) for part in view]) for view in (first, second))
    scores = _LogDensities.apply(*first, *second, context.log_weights.detach().to(precise))
    of_context, of_pair, of_target = scores.to(z_context.dtype)
    return of_context, of_target, of_pair


class _Linear(NamedTuple):
    """Log-densities of components without their weights, as ``features @ columns.T + constant``."""

    features: Tensor
    columns: Tensor
    constant: Tensor


def _linear(mixture: GaussianMixture, z: Tensor) -> _Linear:
    covariance, means = mixture.covariance.detach(), mixture.means.detach()
    spherical = isinstance(covariance, SphericalCovariance)
    # The variances of a spherical component are equal: one column of them serves the sum of squares.
    precision = 1 / covariance.diagonal()[:, : 1 if spherical else None]
    rows, centres = for_products(z, means, precision)
    precision = precision.to(centres).expand(len(means), -1)
    squares = rows.square().sum(dim=1, keepdim=True) if spherical else rows.square()
    scaled = precision * centres
    normaliser = covariance.half_log_det() + 0.5 * mixture.dim * LOG_2PI
    constant = -normaliser.to(centres) - 0.5 * (scaled * centres).sum(dim=1)
    return _Linear(torch.cat([squares, rows], dim=1), torch.cat([-0.5 * precision, scaled], dim=1), constant)


class _LogDensities(torch.autograd.Function):
    """``(3, B)`` log-sums over components of weighted scores of the first view, of both, and of the second."""

    @staticmethod
    def forward(
        ctx: Any,
        first: Tensor,
        first_columns: Tensor,
        first_constant: Tensor,
        second: Tensor,
        second_columns: Tensor,
        second_constant: Tensor,
        log_weights: Tensor,
    ) -> Tensor:
        count, components = len(first), len(log_weights)
        values = first.new_empty(3, count)
        # The mean columns of a view under its own responsibilities and under those of the pairs: gradients to features.
        wanted = any(ctx.needs_input_grad)
        slopes = [first.new_empty(2, count, part.shape[1]) for part in (first, second)] if wanted else []
        weighted = first_constant + log_weights
        rows = max(1, min(count, _SCORES // components))
        memory = first.new_empty(3 * rows, components)
        for start in range(0, count, rows):
            part = slice(start, min(start + rows, count))
            size = part.stop - start
            # Pairs lie between the views, so that what both give to a view is one product.
            one, both, two = memory[: 3 * size].split(size)
            torch.addmm(weighted, first[part], first_columns.T, out=one)
            torch.addmm(second_constant, second[part], second_columns.T, out=two)
            torch.add(one, two, out=both)
            two.add_(log_weights)
            top = memory[: 3 * size].amax(dim=1, keepdim=True)
            total = exp_(memory[: 3 * size].sub_(top)).sum(dim=1, keepdim=True)
            values[:, part] = total.log().add_(top).view(3, size)
            if wanted:
                for view, columns, at in (
                    (slopes[0], first_columns, slice(2 * size)),
                    (slopes[1], second_columns, slice(size, 3 * size)),
                ):
                    view[:, part] = (memory[at] @ columns).div_(total[at]).view(2, size, -1)
        ctx.save_for_backward(*slopes)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_gradient("axis_aligned_log_densities", "GaussianMixture.log_prob")
        first, second = ctx.saved_tensors
        of_first, of_both, of_second = grad.unsqueeze(2)
        of_rows = (of_first * first[0] + of_both * first[1], of_both * second[0] + of_second * second[1])
        return of_rows[0], None, None, of_rows[1], None, None, None
