r"""Log-sums of Gaussian kernels over all other embeddings of a batch, with few passes over the ``B x 2 B`` scores."""

import math
from typing import Any

import torch
from torch import Tensor

from gmje_core.densities.blockwise import refuse_second_gradient
from gmje_core.densities.distances import for_products

__all__ = ["rival_scores"]

# Number of scores in a block: 2 MB in float32, which stay in the cache between passes.
_SCORES = 2**19


def rival_scores(views: tuple[Tensor, Tensor], precisions: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    r"""How much of the batch lies around each embedding: its log-sums over the other items, in both views.

    .. math:: \log \sum_{j \ne i} \Big[ e^{-\frac{p}{2} |z^i - z_c^j|^2} + e^{-\frac{p}{2} |z^i - z_t^j|^2} \Big]

    for :math:`z = z_c` with the first precision :math:`p` and for :math:`z = z_t` with the second. Differentiable once
    with respect to the views. Exponentials are taken once, in place, and kept for the gradient: ``4 B^2`` numbers.

    Args:
        views: Two tensors ``(B, d)``, ``B`` at least 2.
        precisions: Scalars; they carry no gradient.

    Returns:
        Two tensors ``(B,)``, nats.

    Examples:
        >>> scores, _ = rival_scores((torch.eye(2), torch.eye(2)), (torch.tensor(1.0), torch.tensor(1.0)))
        >>> scores                                                   # two rivals at the squared distance 2
        tensor([-0.3069, -0.3069])
    """
    both = torch.cat(views)
    # Distances do not depend on the origin, so that gradients need not pass through the choice of it.
    moved, _ = for_products(both, both, both.new_ones(1, 1))
    first, second = moved.split(len(views[0]))
    scores = [
        _RivalScores.apply(own, torch.cat([first, second]), precision.to(moved)).to(both.dtype)
        for own, precision in zip((first, second), precisions, strict=True)
    ]
    return scores[0], scores[1]


class _RivalScores(torch.autograd.Function):
    """Log-sums of rows ``(B, d)`` over candidates ``(2 B, d)``, of which ``i`` and ``B + i`` are not row ``i``'s."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, candidates: Tensor, precision: Tensor) -> Tensor:
        count, columns = len(rows), len(candidates)
        # The squared norm of a row is the same for all its candidates, and is added in the end.
        offsets, scaled = -0.5 * precision * candidates.square().sum(dim=1), precision * rows
        shares, sums = rows.new_empty(count, columns), rows.new_empty(count)
        step = max(1, _SCORES // columns)
        for start in range(0, count, step):
            place = torch.arange(start, min(start + step, count), device=rows.device)
            part = shares[start : start + step]
            torch.addmm(offsets, scaled[start : start + step], candidates.T, out=part)
            index = place - start
            part[index, place] = -math.inf
            part[index, place + count] = -math.inf
            top = part.amax(dim=1, keepdim=True)
            total = part.sub_(top).exp_().sum(dim=1, keepdim=True)
            part.div_(total)
            sums[start : start + step] = (top + total.log()).squeeze(1)
        ctx.save_for_backward(rows, candidates, shares, precision)
        return sums - 0.5 * (scaled * rows).sum(dim=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_gradient("semiparametric_pmi", "nt_xent")
        rows, candidates, shares, precision = ctx.saved_tensors
        weights = precision * grad.unsqueeze(1)
        pull = torch.mm(shares, candidates).sub_(rows).mul_(weights)
        # Every candidate is pulled to the rows that it is a rival of.
        usage = shares.T @ torch.cat([rows * weights, weights], dim=1)
        push = usage[:, :-1].addcmul_(candidates, usage[:, -1:], value=-1)
        return pull, push, None
