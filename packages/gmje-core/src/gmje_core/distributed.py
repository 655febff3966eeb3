"""The collectives that a criterion needs to see the global batch: a gather that carries gradient, and its checks.

Every rank computes the loss of the whole batch. The backward pass sums the gradients of all ranks and keeps
the local slice, so that the mean over ranks taken by DistributedDataParallel gives the gradient of one
process on the global batch, without a factor of the world size.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from gmje_core.errors import BatchSizeError

__all__ = ["all_gather_with_grad", "broadcast", "gather_pairs", "rank", "world_size"]


def world_size() -> int:
    """Number of processes in the default group; 1 where none was initialised.

    Examples:
        >>> world_size()
        1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process in the default group; 0 where none was initialised.

    Examples:
        >>> rank()
        0
    """
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _AllGatherWithGrad(torch.autograd.Function):
    """All-gather along the first dimension whose adjoint is all-reduce(SUM), then the local slice."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(world_size())]
        dist.all_gather(parts, local)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        size = grad.shape[0] // world_size()
        return grad[rank() * size : (rank() + 1) * size]


def all_gather_with_grad(local: Tensor) -> Tensor:
    """Rows of all ranks, in rank order; the identity on one process.

    Args:
        local: ``(B, ...)``, the same shape on every rank.

    Returns:
        ``(world_size * B, ...)``, differentiable with respect to ``local``.

    Examples:
        >>> all_gather_with_grad(torch.arange(3.0))
        tensor([0., 1., 2.])
    """
    if world_size() == 1:
        return local
    gathered: Tensor = _AllGatherWithGrad.apply(local.contiguous())
    return gathered


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """In-place copy of one rank's tensor to every rank; the identity on one process.

    Examples:
        >>> broadcast(torch.ones(2))
        tensor([1., 1.])
    """
    if world_size() > 1:
        dist.broadcast(tensor, source)
    return tensor


def gather_pairs(z_context: Tensor, z_target: Tensor) -> tuple[Tensor, Tensor]:
    """The global batch of pairs, with gradient, in one collective.

    Args:
        z_context: ``(B, d_c)``, this rank's context embeddings.
        z_target: ``(B, d_t)``, this rank's target embeddings, same dtype.

    Returns:
        ``(world_size * B, d_c)`` and ``(world_size * B, d_t)``.

    Raises:
        BatchSizeError: the ranks hold batches of different sizes. Raised on every rank.

    Examples:
        >>> z_context, z_target = gather_pairs(torch.zeros(4, 2), torch.ones(4, 3))
        >>> z_context.shape, z_target.shape
        (torch.Size([4, 2]), torch.Size([4, 3]))
    """
    if world_size() == 1:
        return z_context, z_target
    sizes = [torch.empty(1, dtype=torch.long, device=z_context.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([z_context.shape[0]], device=z_context.device))
    counts = [int(size) for size in sizes]
    if len(set(counts)) > 1:
        raise BatchSizeError(
            f"every process must hold the same number of pairs, but the batch sizes by rank are {counts}; "
            "drop the last incomplete batch (drop_last=True)"
        )
    joined = all_gather_with_grad(torch.cat([z_context, z_target], dim=1))
    return joined[:, : z_context.shape[1]], joined[:, z_context.shape[1] :]
