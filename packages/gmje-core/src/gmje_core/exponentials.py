"""Exponentials of scores far below the largest, without the time that a CPU takes for results near zero."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["exp_", "logsumexp"]


def exp_(x: Tensor) -> Tensor:
    r"""Exponentials in place, 0 where they would be below the normal numbers of their dtype.

    That is where :math:`x < -86.3` in float32 and :math:`x < -707.3` in float64. A CPU takes ten to forty times as long
    for such exponentials, those that end as 0 among them, and most responsibilities of a mixture are of that kind.
    NaN stays NaN.

    Args:
        x: Any shape, float32 or float64, without gradient.

    Returns:
        ``x`` itself.

    Examples:
        >>> exp_(torch.tensor([0.0, -1.0, -86.0, -90.0]))
        tensor([1.0000e+00, 3.6788e-01, 4.4738e-38, 0.0000e+00])
    """
    if x.device.type != "cpu":
        return x.exp_()
    # The bound's exponential is 2.7 times the smallest normal number, so that what was below it can be told.
    return F.threshold(x.clamp_min_(_bound(x.dtype)).exp_(), 3 * torch.finfo(x.dtype).tiny, 0.0, inplace=True)


def logsumexp(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    r""":math:`\log \sum e^x` over dimensions, in a fraction of the time that :func:`torch.logsumexp` takes on a CPU.

    Summands below the normal numbers, beside the largest, count as the smallest of them, and have no gradient. It can
    be differentiated any number of times.

    Args:
        x: Any shape, float32 or float64.
        dim: One dimension or several, which the result does not have.

    Examples:
        >>> logsumexp(torch.tensor([[0.0, 0.0], [-torch.inf, 1.0], [-torch.inf, -torch.inf]]), dim=1)
        tensor([0.6931, 1.0000,   -inf])
    """
    if x.device.type != "cpu":
        return x.logsumexp(dim=dim)
    top = x.detach().amax(dim=dim, keepdim=True)
    # Infinity less itself is not a number.
    shift = top.masked_fill(top.isinf(), 0.0)
    shifted, bound = x - shift, _bound(x.dtype)
    # Without a gradient no more than one tensor of the size of x is made.
    summands = shifted.clamp_min(bound).exp() if shifted.requires_grad else shifted.clamp_min_(bound).exp_()
    total = summands.sum(dim=dim, keepdim=True)
    found = torch.where(top == -math.inf, top, total.log() + shift)
    return found.squeeze(dim)


def _bound(dtype: torch.dtype) -> float:
    """The logarithm of 2.7 times the smallest normal number."""
    return math.log(torch.finfo(dtype).tiny) + 1
