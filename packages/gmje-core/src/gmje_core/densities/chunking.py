"""Work over many components in bounded memory: chunked evaluation, gathered parameters, broadcast products.

The largest temporary has a fixed size whatever the batch and the number of components, in the backward pass too.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "apply_matrices",
    "component_index",
    "gather_components",
    "gathered_product",
    "has_graph",
    "over_blocks",
    "over_components",
    "squared_norms",
]

# Elements of the largest temporary: 1 MB in float32 stays in cache, and in the allocator between two chunks.
CHUNK = 2**18
# Rows of a block, where that many and one component fit the chunk.
ROWS = 1024


def over_blocks(function: Callable[..., Tensor], rows: Tensor, tensors: Sequence[Tensor], width: int) -> Tensor:
    """Join ``function(rows, *tensors)`` over blocks of rows and chunks of components.

    Args:
        function: Of rows ``(b, D)`` and tensors ``(k or 1, ...)``, to ``(b, k)``.
        rows: ``(B, D)``.
        tensors: ``(K or 1, ...)`` each.
        width: Elements of the temporary that one row and one component take.

    Returns:
        ``(B, K)``.
    """
    components = max(len(tensor) for tensor in tensors)
    size = max(ROWS, CHUNK // (components * width))
    axes = [0] * len(tensors)
    blocks = [over_components(function, part, tensors, axes, len(part) * width) for part in torch.split(rows, size)]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def over_components(
    function: Callable[..., Tensor], x: Tensor, tensors: Sequence[Tensor], axes: Sequence[int], elements: int
) -> Tensor:
    """Join ``function(x, *tensors)`` over chunks of components along the last axis of its results.

    Where gradients are wanted and there are several chunks, each is recomputed in the backward pass: what would
    be saved for it is the tensor that the chunks avoid.

    Args:
        function: Its result has a last axis of components.
        x: Passed whole.
        tensors: Split along the axis of components, unless of size 1 there.
        axes: That axis of each.
        elements: Elements of the temporary that one component takes.
    """
    components = max(tensor.shape[axis] for tensor, axis in zip(tensors, axes, strict=True))
    step = max(1, CHUNK // max(1, elements))
    if step >= components:
        return function(x, *tensors)
    count = -(-components // step)
    pieces = [
        [tensor] * count if tensor.shape[axis] == 1 else torch.split(tensor, step, dim=axis)
        for tensor, axis in zip(tensors, axes, strict=True)
    ]
    if has_graph(x, *tensors):
        return torch.cat([_Recomputed.apply(function, x, *piece) for piece in zip(*pieces, strict=True)], dim=-1)
    return torch.cat([function(x, *piece) for piece in zip(*pieces, strict=True)], dim=-1)


class _Recomputed(torch.autograd.Function):
    """A pure function of tensors that saves its inputs only; differentiable any number of times.

    ``torch.utils.checkpoint`` does this too, but its first call imports the compiler, which takes seconds.
    """

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()
        inputs = ctx.saved_tensors if again else [t.detach().requires_grad_(t.requires_grad) for t in ctx.saved_tensors]
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        with torch.enable_grad():
            output = ctx.function(*inputs)
        grads = iter(torch.autograd.grad(output, wanted, grad, create_graph=again))
        return (None, *[next(grads) if tensor.requires_grad else None for tensor in inputs])


def squared_norms(vectors: Tensor) -> Tensor:
    """Sum of squares over the last axis, ``(...)`` of ``(..., D)``; overwrites its argument where no gradient flows."""
    return (vectors.square() if has_graph(vectors) else vectors.square_()).sum(dim=-1)


def has_graph(*tensors: Tensor) -> bool:
    """Whether operations on the tensors are recorded, so that none of them may be overwritten."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def component_index(components: Tensor, lead: torch.Size) -> tuple[Tensor, ...]:
    """One flat index per leading axis ``(*batch, K)``, with as many entries as there are components drawn.

    Axes of size 1 are indexed by zero, so nothing that broadcasts is expanded.
    """
    batch = components.shape[components.ndim - (len(lead) - 1) :]
    index = []
    for axis, size in enumerate(lead[:-1]):
        places = torch.arange(batch[axis], device=components.device).clamp_max(size - 1)
        shape = [1] * components.ndim
        shape[components.ndim - len(batch) + axis] = batch[axis]
        index.append(places.view(shape).expand(components.shape).reshape(-1))
    index.append(components.reshape(-1).clamp_max(lead[-1] - 1))
    return tuple(index)


def gather_components(tensor: Tensor, components: Tensor, lead: int) -> Tensor:
    """Rows of a parameter for the component chosen at each place.

    Args:
        tensor: ``(*batch, K, ...)`` whose ``lead`` leading axes broadcast with ``(*batch_shape, K)``.
        components: ``(*sample_shape, *batch_shape)`` indices.
        lead: Number of leading axes, the components' included.

    Returns:
        ``(*sample_shape, *batch_shape, ...)``.
    """
    index = component_index(components, tensor.shape[:lead])
    return tensor[index].view(components.shape + tensor.shape[lead:])


def gathered_product(matrices: Tensor, components: Tensor, vectors: Tensor) -> Tensor:
    """Each vector times the matrix of its component, a bounded number of matrices at a time.

    Args:
        matrices: ``(*batch, K, i, j)``, leading axes broadcasting with ``(*batch_shape, K)``.
        components: ``(*sample_shape, *batch_shape)`` indices.
        vectors: ``(*sample_shape, *batch_shape, j)``.

    Returns:
        ``(*sample_shape, *batch_shape, i)``.
    """
    shape = matrices.shape[-2:]
    if matrices.shape[:-2].numel() == 1:
        return vectors @ matrices.reshape(shape).mT
    index = component_index(components, matrices.shape[:-2])
    result = vectors.new_empty(components.numel(), shape[0])
    flat, rows = vectors.reshape(-1, shape[1]), max(1, CHUNK // shape.numel())
    for start in range(0, len(flat), rows):
        part = slice(start, start + rows)
        result[part] = torch.einsum("nij,nj->ni", matrices[tuple(i[part] for i in index)], flat[part])
    return result.view(*components.shape, shape[0])


def apply_matrices(matrices: Tensor, vectors: Tensor, *, solve: bool = False) -> Tensor:
    """Matrices ``(*m, i, j)`` times vectors ``(*v, j)``, ``m`` broadcasting with ``v``; no matrix is repeated.

    Leading axes that only the vectors have become columns.

    Args:
        matrices: ``(*m, i, j)``.
        vectors: ``(*v, j)``.
        solve: Solve with lower-triangular matrices instead.

    Returns:
        ``(*v, i)``.
    """
    while matrices.ndim > 3 and matrices.shape[0] == 1:
        matrices = matrices.squeeze(0)
    extra = vectors.ndim - 1 - (matrices.ndim - 2)
    folded = vectors.flatten(0, extra - 1) if extra > 0 else vectors.unsqueeze(0)
    columns = folded.movedim(0, -1)
    result: Tensor = torch.linalg.solve_triangular(matrices, columns, upper=False) if solve else matrices @ columns
    return result.movedim(-1, 0).reshape(*vectors.shape[:-1], matrices.shape[-2])
