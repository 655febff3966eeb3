"""Transfers between a device and the memory of the host."""

import torch
from torch import Tensor

__all__ = ["copy_to_host"]


def copy_to_host(*tensors: Tensor) -> list[Tensor]:
    """Copies of several tensors on the CPU, in one transfer.

    Args:
        *tensors: On one device, of dtypes that float64 can hold.

    Returns:
        Tensors of the same shapes and dtypes, without gradient.

    Examples:
        >>> copy_to_host(torch.tensor([True, False]), torch.tensor(2.5))
        [tensor([ True, False]), tensor(2.5000)]
    """
    packed = torch.cat([tensor.detach().double().flatten() for tensor in tensors]).cpu()
    parts = packed.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]
