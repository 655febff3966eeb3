"""Operations over many rows and many components, done block by block so that memory stays bounded.

The largest temporary tensor has a fixed size, whatever the batch and the number of components are. This holds for the
backward pass too.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "add_components",
    "apply_matrices",
    "component_index",
    "drawn_rows",
    "gather_components",
    "gathered_product",
    "has_graph",
    "over_blocks",
    "over_components",
    "refuse_second_gradient",
    "rows_of_components",
    "squared_norms",
]

# Number of elements of the largest temporary tensor. 1 MB in float32 stays in the processor's cache, and the allocator
# hands the same memory to the next chunk.
CHUNK = 2**18
# Least number of rows in a block; only one component at a time may then fit the chunk.
ROWS = 1024
# Least mean number of vectors of a matrix for which they are brought together.
_SHARED = 16
# Numbers drawn at a time, and elsewhere than on a CPU; each matrix should have so many rows among them.
_DRAWN, _DRAWN_ELSEWHERE, _DRAWN_OF_EACH = 2**20, 2**24, 64


def over_blocks(function: Callable[..., Tensor], rows: Tensor, tensors: Sequence[Tensor], width: int) -> Tensor:
    """Evaluate ``function(rows, *tensors)`` over blocks of rows and chunks of components, and join the results.

    Args:
        function: It maps rows ``(b, D)`` and tensors ``(k or 1, ...)`` to ``(b, k)``.
        rows: Tensor of shape ``(B, D)``.
        tensors: Parameters of shape ``(K or 1, ...)``.
        width: Number of temporary elements that ``function`` makes for one row and one component.

    Returns:
        Tensor of shape ``(B, K)``.

    Examples:
        >>> centers = torch.tensor([[0.0], [3.0]])
        >>> over_blocks(lambda x, c: (x.unsqueeze(1) - c).square().sum(-1), torch.tensor([[1.0]]), [centers], width=1)
        tensor([[1., 4.]])
    """
    components = max(len(tensor) for tensor in tensors)
    size = max(ROWS, CHUNK // (components * width))
    axes = [0] * len(tensors)
    blocks = [over_components(function, part, tensors, axes, len(part) * width) for part in torch.split(rows, size)]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def over_components(
    function: Callable[..., Tensor], x: Tensor, tensors: Sequence[Tensor], axes: Sequence[int], elements: int
) -> Tensor:
    """Evaluate ``function(x, *tensors)`` over chunks of components, and join the results along their last axis.

    Where gradients are wanted and there are several chunks, the backward pass computes each chunk again. Otherwise it
    would keep the tensor that the chunks are there to avoid.

    Args:
        function: A pure function whose result has the components as its last axis.
        x: Tensor that every chunk gets whole.
        tensors: Parameters that are split along their axis of components, unless that axis has size 1.
        axes: Position of the axis of components in each of ``tensors``.
        elements: Number of temporary elements that ``function`` makes for one component.

    Returns:
        Tensor whose last axis has size ``K``.

    Examples:
        >>> over_components(lambda x, scale: x * scale, torch.ones(2, 1), [torch.tensor([1.0, 5.0])], [0], elements=2)
        tensor([[1., 5.],
                [1., 5.]])
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
    """Application of a pure function that saves only its inputs and computes the rest again in the backward pass.

    It can be differentiated any number of times. ``torch.utils.checkpoint`` does the same, but its first call imports
    the compiler, which takes seconds.
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
    """Sums of squares over the last axis, from ``(..., D)`` to ``(...)``.

    Where no gradient is recorded, the squares overwrite ``vectors``: pass only tensors that nothing else uses.
    """
    return (vectors.square() if has_graph(vectors) else vectors.square_()).sum(dim=-1)


def has_graph(*tensors: Tensor) -> bool:
    """Whether autograd records operations on the tensors, so that their values may not be overwritten."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def refuse_second_gradient(function: str, plain: str) -> None:
    """Raise where a backward pass is recorded: a second gradient through it would be wrong without a word.

    Args:
        function: The function whose backward pass is not differentiable.
        plain: What is.

    Raises:
        RuntimeError: the backward pass was asked for with ``create_graph=True``.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{function} can be differentiated once, without create_graph=True; {plain} any number of times"
        )


def component_index(index: Tensor, lead: torch.Size) -> tuple[Tensor, ...]:
    """Flat indices that pick one component at each place from a tensor with leading axes ``lead``.

    An axis of size 1 is indexed by zero, so a parameter that broadcasts is never expanded.

    Args:
        index: Component numbers of shape ``(*sample_shape, *batch_shape)``.
        lead: Leading shape ``(*batch, K)`` of the parameter, which broadcasts with ``(*batch_shape, K)``.

    Returns:
        One tensor of ``index.numel()`` entries for each leading axis.

    Examples:
        >>> component_index(torch.tensor([[2, 0], [1, 1]]), torch.Size([2, 3]))
        (tensor([0, 1, 0, 1]), tensor([2, 0, 1, 1]))
    """
    batch = index.shape[index.ndim - (len(lead) - 1) :]
    flat = []
    for axis, size in enumerate(lead[:-1]):
        places = torch.arange(batch[axis], device=index.device).clamp_max(size - 1)
        shape = [1] * index.ndim
        shape[index.ndim - len(batch) + axis] = batch[axis]
        flat.append(places.view(shape).expand(index.shape).reshape(-1))
    flat.append(index.reshape(-1).clamp_max(lead[-1] - 1))
    return tuple(flat)


def gather_components(tensor: Tensor, index: Tensor, lead: int) -> Tensor:
    """Entries of a parameter for the component that was chosen at each place.

    Args:
        tensor: Parameter of shape ``(*batch, K, ...)`` whose ``lead`` leading axes broadcast with
            ``(*batch_shape, K)``.
        index: Component numbers of shape ``(*sample_shape, *batch_shape)``.
        lead: Number of leading axes, the axis of components included.

    Returns:
        Tensor of shape ``(*sample_shape, *batch_shape, ...)``.

    Examples:
        >>> gather_components(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0, 1]), lead=1)
        tensor([[3., 4.],
                [1., 2.],
                [3., 4.]])
    """
    return tensor[component_index(index, tensor.shape[:lead])].view(index.shape + tensor.shape[lead:])


def add_components(values: Tensor, tensor: Tensor, index: Tensor) -> Tensor:
    """Add to each row the row of the component that was chosen there, in place and block by block.

    Args:
        values: Tensor of shape ``(*sample_shape, *batch_shape, D)``, which is overwritten.
        tensor: Parameter of shape ``(*batch, K, D)``, which broadcasts as in :func:`gather_components`.
        index: Component numbers of shape ``(*sample_shape, *batch_shape)``.

    Returns:
        ``values``.

    Examples:
        >>> add_components(torch.zeros(2, 1), torch.tensor([[1.0], [5.0]]), torch.tensor([1, 0]))
        tensor([[5.],
                [1.]])
    """
    flat_index, flat = component_index(index, tensor.shape[:-1]), values.view(-1, values.shape[-1])
    rows = max(1, CHUNK // values.shape[-1])
    for start in range(0, len(flat), rows):
        part = slice(start, start + rows)
        flat[part] += tensor[tuple(axis[part] for axis in flat_index)]
    return values


def gathered_product(matrices: Tensor, index: Tensor, vectors: Tensor) -> Tensor:
    """Product of each vector with the matrix of its component; a bounded number of matrices is gathered at a time.

    Where many vectors share few matrices, the vectors of each matrix are brought together for one product.

    Args:
        matrices: Tensor of shape ``(*batch, K, i, j)`` whose leading axes broadcast with ``(*batch_shape, K)``.
        index: Component numbers of shape ``(*sample_shape, *batch_shape)``.
        vectors: Tensor of shape ``(*sample_shape, *batch_shape, j)``.

    Returns:
        Tensor of shape ``(*sample_shape, *batch_shape, i)``.

    Examples:
        >>> matrices = torch.stack([torch.eye(2), 2 * torch.eye(2)])
        >>> gathered_product(matrices, torch.tensor([1, 0]), torch.ones(2, 2))
        tensor([[2., 2.],
                [1., 1.]])
    """
    shape = matrices.shape[-2:]
    if matrices.shape[:-2].numel() == 1:
        return vectors @ matrices.reshape(shape).mT
    result = vectors.new_empty(index.numel(), shape[0])
    flat = vectors.reshape(-1, shape[1])
    if matrices.ndim == 3 and len(flat) >= _SHARED * len(matrices):
        for matrix, places in zip(matrices, rows_of_components(index, len(matrices)), strict=True):
            result[places] = flat[places] @ matrix.mT
        return result.view(*index.shape, shape[0])
    flat_index, rows = component_index(index, matrices.shape[:-2]), max(1, CHUNK // shape.numel())
    for start in range(0, len(flat), rows):
        part = slice(start, start + rows)
        result[part] = torch.einsum("nij,nj->ni", matrices[tuple(axis[part] for axis in flat_index)], flat[part])
    return result.view(*index.shape, shape[0])


def drawn_rows(matrices: Tensor, means: Tensor, index: Tensor) -> Tensor:
    r"""Draws :math:`\mu_k + A_k \epsilon` of the component chosen at each place, with normal :math:`\epsilon`.

    Where many places share few matrices, rows are drawn block by block, and within a block those of a matrix are
    brought together for one product. Draws carry no gradient.

    Args:
        matrices: Tensor of shape ``(*batch, K, i, j)`` whose leading axes broadcast with ``(*batch_shape, K)``.
        means: Tensor of shape ``(*batch, K, i)``, which broadcasts in the same way.
        index: Component numbers of shape ``(*sample_shape, *batch_shape)``.

    Returns:
        Tensor of shape ``(*sample_shape, *batch_shape, i)``.

    Examples:
        >>> matrices, means = torch.zeros(2, 1, 3), torch.tensor([[1.0], [5.0]])
        >>> drawn_rows(matrices, means, torch.tensor([1, 0, 1])).flatten()
        tensor([5., 1., 5.])
    """
    matrices, means = matrices.detach(), means.detach()
    components, (size, latent) = len(matrices), matrices.shape[-2:]
    if matrices.ndim != 3 or means.ndim != 2 or components == 1 or index.numel() < _SHARED * components:
        noise = torch.randn(*index.shape, latent, dtype=matrices.dtype, device=matrices.device)
        return add_components(gathered_product(matrices, index, noise), means, index)
    flat, means = index.reshape(-1), means.expand(components, -1)
    elements = _DRAWN if index.device.type == "cpu" else _DRAWN_ELSEWHERE
    # torch.randn draws 16 numbers together on a CPU: blocks of a multiple of them leave the numbers as one block does.
    rows = min(16 * -(-max(elements // latent, _DRAWN_OF_EACH * components) // 16), len(flat))
    result = matrices.new_empty(len(flat), size)
    # Memory that every block uses again is in the cache already, and takes no time to be allocated.
    noise, ordered = matrices.new_empty(2, rows, latent)
    drawn = matrices.new_empty(rows, size)
    for part, out in zip(flat.split(rows), result.split(rows), strict=True):
        places = rows_of_components(part, components)
        order, count = torch.cat(places), len(part)
        torch.index_select(noise[:count].normal_(), 0, order, out=ordered[:count])
        counts = [len(rows_of_one) for rows_of_one in places]
        pieces = zip(ordered[:count].split(counts), drawn[:count].split(counts), means, matrices, strict=True)
        for normal, row, mean, matrix in pieces:
            torch.addmm(mean, normal, matrix.mT, out=row)
        out.index_copy_(0, order, drawn[:count])
    return result.view(*index.shape, size)


def rows_of_components(index: Tensor, components: int) -> list[Tensor]:
    """The places at which each component was chosen; the program waits for the device.

    Args:
        index: Component numbers in ``[0, K)``, of any shape.
        components: ``K``.

    Returns:
        For each component the flat positions in ``index``, in increasing order.

    Examples:
        >>> rows_of_components(torch.tensor([1, 0, 1]), 3)
        [tensor([1]), tensor([0, 2]), tensor([], dtype=torch.int64)]
    """
    flat = index.reshape(-1)
    counts = torch.bincount(flat, minlength=components).tolist()
    return list(flat.to(torch.int32).argsort(stable=True).split(counts))


def apply_matrices(matrices: Tensor, vectors: Tensor, *, solve: bool = False) -> Tensor:
    """Product of matrices with vectors, or solution of triangular systems, without repeating any matrix.

    Leading axes that only the vectors have become columns of one product.

    Args:
        matrices: Tensor of shape ``(*m, i, j)``, where ``m`` broadcasts with ``v``.
        vectors: Tensor of shape ``(*v, j)``.
        solve: Solve with the matrices, which must then be lower triangular, instead of multiplying by them.

    Returns:
        Tensor of shape ``(*v, i)``.

    Examples:
        >>> lower = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
        >>> apply_matrices(lower, torch.ones(3, 2)).shape, apply_matrices(lower, torch.tensor([2.0, 3.0]), solve=True)
        (torch.Size([3, 2]), tensor([1., 2.]))
    """
    while matrices.ndim > 3 and matrices.shape[0] == 1:
        matrices = matrices.squeeze(0)
    extra = vectors.ndim - 1 - (matrices.ndim - 2)
    folded = vectors.flatten(0, extra - 1) if extra > 0 else vectors.unsqueeze(0)
    columns = folded.movedim(0, -1)
    result: Tensor = torch.linalg.solve_triangular(matrices, columns, upper=False) if solve else matrices @ columns
    return result.movedim(-1, 0).reshape(*vectors.shape[:-1], matrices.shape[-2])
