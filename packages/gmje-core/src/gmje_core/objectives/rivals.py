r"""Log-sums of Gaussian kernels over all other embeddings of a batch, with few passes over the ``B x 2 B`` scores."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gmje_core.densities.blockwise import refuse_second_gradient
from gmje_core.densities.distances import for_products
from gmje_core.exponentials import exp_

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
    scores = _RivalScores.apply(moved, torch.stack(precisions).to(moved)).to(both.dtype)
    return scores[: len(views[0])], scores[len(views[0]) :]


class _RivalScores(torch.autograd.Function):
    """Log-sums of the rows ``(2 B, d)`` of two views, of which ``i`` and ``B + i`` are no rivals, at two precisions."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, precisions: Tensor) -> Tensor:
        total, count = len(rows), len(rows) // 2
        halves = -0.5 * rows.square().sum(dim=1)
        kernels, norms, sums = rows.new_empty(total, total), rows.new_empty(total, 1), rows.new_empty(total)
        for part in _blocks(total):
            precision = precisions[part.start // count]
            scores = kernels[part]
            # The squared norm of a row is the same for all its rivals, and is added in the end.
            torch.addmm(precision * halves, precision * rows[part], rows.T, out=scores)
            index = torch.arange(len(scores), device=rows.device)
            place = (index + part.start) % count
            scores[index, place] = -math.inf
            scores[index, place + count] = -math.inf
            top = scores.amax(dim=1, keepdim=True)
            norms[part] = exp_(scores.sub_(top)).sum(dim=1, keepdim=True)
            sums[part] = (top + norms[part].log()).squeeze(1) + precision * halves[part]
        ctx.save_for_backward(rows, kernels, norms, precisions)
        return sums

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        refuse_second_gradient("semiparametric_pmi", "nt_xent")
        rows, kernels, norms, precisions = ctx.saved_tensors
        weights = (grad * precisions.repeat_interleave(len(rows) // 2)).unsqueeze(1) / norms
        moved = torch.empty_like(rows)
        for part in _blocks(len(rows)):
            # A row is pulled to its rivals, and to the rows that it is a rival of: one product for both.
            pulls = torch.mul(kernels[:, part], weights).T.contiguous().addcmul_(kernels[part], weights[part])
            torch.mm(pulls, rows, out=moved[part]).addcmul_(pulls.sum(dim=1, keepdim=True), rows[part], value=-1)
        return moved, None


def _blocks(total: int) -> Iterator[slice]:
    """Rows of one view at a time, of ``total / 2``, and few enough of them."""
    step, count = max(1, _SCORES // total), total // 2
    for first in (0, count):
        for start in range(first, first + count, step):
            yield slice(start, min(start + step, first + count))
