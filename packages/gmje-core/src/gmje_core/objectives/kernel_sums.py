r"""Log-sums of kernels between the samples of a batch, by blocks of rows, with a gradient that stores one matrix."""

from typing import Any

import torch
from torch import Tensor

from gmje_core.densities.blockwise import refuse_second_gradient
from gmje_core.densities.distances import for_products

__all__ = ["log_sums_over_others"]

# Number of scores in a block: 2 MB in float32, which stay in the processor's cache.
_SCORES = 2**19


def log_sums_over_others(z: Tensor, precision: Tensor, groups: int = 2) -> Tensor:
    r"""Log-sum of Gaussian kernels around all samples but those of the same item; differentiable once in ``z``.

    .. math:: \log \sum_{j:\; j \not\equiv i \bmod B} \exp\big(-\tfrac12 p_i |z_i - z_j|^2\big)

    The rows hold ``groups`` views of ``B`` items one after the other. The distances are products about a common
    origin, in float32 where that keeps enough digits.

    Args:
        z: ``(groups B, d)``.
        precision: ``(groups B,)`` inverse variances :math:`p_i`, without gradient.
        groups: Number of views.

    Returns:
        ``(groups B,)``, nats, without the kernels' normalising constant; not finite where squares overflow.

    Examples:
        >>> z = torch.tensor([[0.0], [3.0], [0.0], [3.0]])          # two views of two items
        >>> log_sums_over_others(z, torch.ones(4))                  # log 2 - 9 / 2
        tensor([-3.8069, -3.8069, -3.8069, -3.8069])
    """
    wide = precision.detach().amax().expand(1, 1)
    rows, _ = for_products(z, z.detach(), wide)
    sums: Tensor = _LogSumsOverOthers.apply(rows, precision.detach().to(rows), groups)
    return sums.to(z.dtype)


class _LogSumsOverOthers(torch.autograd.Function):
    """The function above of rows whose origin was moved."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, precision: Tensor, groups: int) -> Tensor:
        count, items = len(z), len(z) // groups
        halves = 0.5 * z.square().sum(dim=1)
        wanted = ctx.needs_input_grad[0]
        shares = z.new_empty(count if wanted else 0, count)
        sums, step = z.new_empty(count), max(1, _SCORES // count)
        for start in range(0, count, step):
            block = torch.arange(start, min(start + step, count), device=z.device)
            part = slice(start, start + len(block))
            scores = shares[part] if wanted else z.new_empty(len(block), count)
            torch.addmm(-halves, z[part], z.T, out=scores)
            scores.sub_(halves[part, None]).mul_(precision[part, None])
            for view in range(groups):
                scores[block - start, (block + view * items) % count] = torch.finfo(z.dtype).min
            top = scores.amax(dim=1, keepdim=True)
            total = scores.sub_(top).exp_().sum(dim=1, keepdim=True)
            scores.div_(total)
            sums[part] = (total.log() + top).squeeze(1)
        ctx.save_for_backward(z, precision, shares)
        return sums

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_gradient("log_sums_over_others", "the log-sum of squared_mahalanobis")
        z, precision, shares = ctx.saved_tensors
        weights = shares * (grad * precision)[:, None]
        # A pair of samples pulls both of them.
        own = weights.sum(dim=1) + weights.sum(dim=0)
        gradient = torch.addmm(weights @ z, weights.T, z)
        return gradient.sub_(own[:, None] * z), None, None
