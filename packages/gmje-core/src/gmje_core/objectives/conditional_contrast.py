r"""The mean of :func:`~gmje_core.objectives.conditional_pmi` by blocks of targets, with its gradient in the same pass.

A batch of ``B`` pairs has ``B x B K`` scores. Here a block of targets is scored against all components, and what its
scores give to the mean and to every gradient is added up before the next block; no score is stored or computed twice.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gmje_core.densities.blockwise import refuse_second_gradient
from gmje_core.densities.covariance import SphericalCovariance
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.exponentials import exp_
from gmje_core.objectives.dependence import conditional_pmi

__all__ = ["mean_conditional_pmi"]

# Number of scores in a block: 4 MB in float32, enough for products at full speed.
_SCORES = 2**20


def mean_conditional_pmi(posterior: GaussianMixture, z_target: Tensor, noise: Tensor) -> Tensor:
    r"""Mean over the pairs of :func:`~gmje_core.objectives.conditional_pmi`, differentiable once.

    Under diagonal and spherical covariances the scores are one matrix product,
    :math:`[z^2, z] \cdot [-\tfrac12 p_{jk},\, p_{jk} \mu_{jk}] + c_{jk}` with precisions :math:`p`, in the precision of
    the mixture: with noise of variance :math:`\tau \mathbb{E}|z|^2` its rounding errors are about :math:`1/\tau` times
    those of a sum. Other forms take the mean of :func:`~gmje_core.objectives.conditional_pmi`.

    Args:
        posterior: Mixtures of the target given the batch's contexts, of batch shape ``(B,)``.
        z_target: ``(B, d_t)``.
        noise: Scalar, variance of the channel noise of a target dimension, which is added to the covariances.

    Returns:
        Scalar, nats per pair.

    Examples:
        >>> means = torch.randn(5, 2, 3)
        >>> posterior = GaussianMixture.from_moments(torch.ones(5, 2), means, torch.eye(3).expand(5, 2, 3, 3), "diag")
        >>> z_target, noise = torch.randn(5, 3), torch.tensor(0.1)
        >>> plain = conditional_pmi(posterior, z_target, noise).mean()
        >>> torch.allclose(mean_conditional_pmi(posterior, z_target, noise), plain, atol=1e-5)
        True
    """
    if not posterior.covariance.axis_aligned:
        return conditional_pmi(posterior, z_target, noise).mean()
    smooth = posterior.covariance.add_diagonal(noise)
    means = posterior.means.flatten(0, 1)
    origin = means.detach().mean(dim=0)
    rows, centres = z_target.to(means) - origin, means - origin
    if isinstance(smooth, SphericalCovariance):
        precision = (1 / smooth.variance.flatten()).unsqueeze(1)
        squares = rows.square().sum(dim=1, keepdim=True)
    else:
        precision = 1 / smooth.diagonal().flatten(0, 1)
        squares = rows.square()
    scaled = precision * centres
    constant = posterior.log_weights.flatten() - smooth.half_log_det().flatten() - 0.5 * (scaled * centres).sum(dim=1)
    # A number that all scores have in common cancels; without it they keep more digits.
    constant = constant - constant.detach().mean()
    # The constant is the column of a one, so that it and its gradient are part of the products.
    columns = torch.cat([-0.5 * precision, scaled, constant.unsqueeze(1)], dim=1)
    features = torch.cat([squares, rows, rows.new_ones(len(rows), 1)], dim=1)
    # Products of a width that is no multiple of 16 are slower on a CPU.
    features, columns = (F.pad(part, (0, -part.shape[1] % 16)) for part in (features, columns))
    mean: Tensor = _MeanContrast.apply(features, columns, posterior.components)
    return mean


class _MeanContrast(torch.autograd.Function):
    """Mean of own minus total log-sums of ``rows @ columns.T``, where row ``i`` owns the ``i``-th group of columns."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, size: int) -> Tensor:
        count = len(rows)
        wanted = any(ctx.needs_input_grad)
        grad_rows, grad_columns = torch.empty_like(rows), torch.zeros_like(columns)
        mean = rows.new_zeros((), dtype=torch.float64)
        step = max(1, _SCORES // len(columns))
        # Memory that every block uses again takes no time to be allocated.
        memory = rows.new_empty(min(step, count), len(columns))
        for start in range(0, count, step):
            part = rows[start : start + step]
            scores = torch.mm(part, columns.T, out=memory[: len(part)])
            place = torch.arange(len(part), device=rows.device)
            own = scores.view(len(part), count, size)[place, start + place]
            own_total = own.logsumexp(dim=1)
            top = scores.amax(dim=1, keepdim=True)
            shares = exp_(scores.sub_(top))
            total = shares.sum(dim=1, keepdim=True)
            mean += (own_total - (total.log() + top).squeeze(1)).sum(dtype=torch.float64)
            if wanted:
                # The gradient with respect to the scores, over minus the number of rows and their totals, takes their
                # place; the rows are divided by the totals in its stead, because they are fewer.
                shares.view(len(part), count, size)[place, start + place] -= (own - own_total[:, None]).exp() * total
                torch.mm(shares, columns, out=grad_rows[start : start + step]).div_(total)
                grad_columns.addmm_(shares.T, part / total)
        if wanted:
            ctx.save_for_backward(*[grad.div_(-count) for grad in (grad_rows, grad_columns)])
        return (mean / count).to(rows.dtype) + math.log(count)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_gradient("mean_conditional_pmi", "conditional_pmi(...).mean()")
        return (*[grad * saved for saved in ctx.saved_tensors], None)
