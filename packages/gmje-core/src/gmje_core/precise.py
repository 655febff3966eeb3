"""Modules whose state must keep its digits, whatever the network around them is cast to."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

__all__ = ["PreciseModule"]


class PreciseModule(nn.Module):
    """A module that casts may give more digits and never fewer; its submodules follow the same rule.

    ``float()``, ``half()``, ``bfloat16()`` and ``to(dtype)`` of it, or of a model that holds it, leave a tensor of more
    digits as it is, be it a buffer, a parameter or a gradient: moments in float64 would lose what they are kept for,
    and half precision has no Cholesky factorisation. ``double()`` makes every floating tensor float64. Whole numbers
    and flags keep their type. Devices are followed always.

    Examples:
        >>> module = PreciseModule()
        >>> module.register_buffer("mean", torch.zeros(2, dtype=torch.float64))
        >>> nn.Sequential(nn.Linear(2, 2), module).bfloat16()[1].mean.dtype
        torch.float64
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def without_loss(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            kept = torch.promote_types(tensor.dtype, changed.dtype) if tensor.is_floating_point() else tensor.dtype
            return changed if changed.dtype == kept else tensor.to(changed.device, kept)

        super()._apply(without_loss, recurse)  # type: ignore[no-untyped-call]
        return self
