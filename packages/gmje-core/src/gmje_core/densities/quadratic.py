r"""Quadratic forms :math:`x^\top A_k x` of many rows under many symmetric matrices, as one matrix product a block.

With :math:`\varphi(x)` the products :math:`x_i x_j`, :math:`i \le j`, of a row, a form is linear in it: half of the
arithmetic of products with whole matrices, and no tensor of rows x matrices x dimensions, not even block by block.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from gmje_core.densities.distances import read_at_once

__all__ = ["accurate_forms", "fill_products", "pairs_of_dimensions", "quadratic_forms"]

# Error of a squared distance, in units of the number of dimensions, that products may have.
_TOLERATED_ERROR = {torch.float32: 5e-6, torch.float64: 1e-11}
# Where products are worth their memory and the Python around them: dimensions, components, and rows a dimension.
_DIMENSIONS, _FEWEST_COMPONENTS, _FEWEST_ROWS_A_DIMENSION = range(16, 129), 4, 4
# A block has about so many products, within a range of rows that runs fast.
_BLOCK_ELEMENTS, _FEWEST_ROWS, _MOST_ROWS = 2**20, 128, 1024


def quadratic_forms(x: Tensor, forms: Tensor) -> Tensor:
    r""":math:`x^\top A_k x` for every row and every matrix.

    Sums of products cancel where a form is steep beside its value: in a precision :math:`\epsilon` the error is about
    :math:`\epsilon |x|^2 \lVert A_k \rVert`. The backward pass is matrix products too, and may be differentiated.

    Args:
        x: Rows ``(B, D)``.
        forms: Symmetric matrices ``(K, D, D)``, of the same dtype.

    Returns:
        ``(B, K)``.

    Examples:
        >>> quadratic_forms(torch.tensor([[1.0, 2.0]]), torch.tensor([[[1.0, 1.0], [1.0, 1.0]]]))
        tensor([[9.]])
    """
    values: Tensor = _QuadraticForms.apply(x, forms)
    return values


def accurate_forms(x: Tensor, means: Tensor, inverse: Tensor) -> Tensor | None:
    r"""Precisions :math:`P_k` whose squared distances may be taken from products of dimensions, if that is worth it.

    The error of such a distance is about :math:`\epsilon (|x|^2 + |\mu|^2) \lVert P_k \rVert`; it must be small
    beside a squared distance of ``D``. The bound is read on a CPU only: a GPU would have to be waited for.

    Args:
        x: Rows ``(B, D)`` about an origin near all means.
        means: Means ``(K, D)`` about it.
        inverse: Inverse factors ``(K, D, D)``.

    Returns:
        ``(K, D, D)``, or ``None`` where products would lose digits, or cost more than they save.

    Examples:
        >>> x, means, inverse = torch.randn(128, 16), torch.zeros(4, 16), torch.eye(16).repeat(4, 1, 1)
        >>> accurate_forms(x, means, inverse).shape, accurate_forms(x, means, 1e3 * inverse)
        (torch.Size([4, 16, 16]), None)
    """
    components, dim = means.shape
    few = components < _FEWEST_COMPONENTS or len(x) < _FEWEST_ROWS_A_DIMENSION * dim
    if few or dim not in _DIMENSIONS or not read_at_once(x):
        return None
    with torch.no_grad():
        largest = max(float(part.square().sum(dim=1).max()) for part in (x, means))
        # The trace of a positive matrix, at most sqrt(D) times its norm, needs no product to be known.
        if not _digits_are_kept(x, largest * _largest_norm(inverse) ** 2 / dim**0.5):
            return None
    forms = inverse.mT @ inverse
    return forms if _digits_are_kept(x, largest * _largest_norm(forms.detach())) else None


def _largest_norm(matrices: Tensor) -> float:
    return float(torch.linalg.vector_norm(matrices, dim=(1, 2)).max())


def _digits_are_kept(x: Tensor, size: float) -> bool:
    return 0.5 * torch.finfo(x.dtype).eps * size <= _TOLERATED_ERROR[x.dtype] * x.shape[1]


def fill_products(columns: Tensor, out: Tensor) -> Tensor:
    """Write the products of any two entries of columns, the first with all, the second with all but the first, and on.

    Args:
        columns: ``(D, b)``.
        out: ``(P, b)`` for ``P = D (D + 1) / 2`` products.

    Returns:
        ``out``.

    Examples:
        >>> fill_products(torch.tensor([[2.0], [3.0]]), torch.empty(3, 1)).flatten()
        tensor([4., 6., 9.])
    """
    start = 0
    for i in range(len(columns)):
        end = start + len(columns) - i
        torch.mul(columns[i], columns[i:], out=out[start:end])
        start = end
    return out


def pairs_of_dimensions(dim: int) -> Tensor:
    """Dimensions ``(2, P)`` of the products, in the order in which :func:`fill_products` writes them."""
    return torch.triu_indices(dim, dim)


class _QuadraticForms(torch.autograd.Function):
    """The forms; the backward pass computes the products of a block again, which costs less than their memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forms: Tensor) -> Tensor:
        ctx.save_for_backward(x, forms)
        packed, values = _packed(forms), x.new_empty(len(x), len(forms))
        memory = _memory(packed, len(x))
        for rows, out in zip(x.split(memory.shape[1]), values.split(memory.shape[1]), strict=True):
            products = fill_products(rows.T.contiguous(), memory[:, : len(rows)])
            torch.mm(products.T, packed.T, out=out)
        return values

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, forms = ctx.saved_tensors
        if torch.is_grad_enabled():
            # The same, of operations that autograd knows.
            twice = 2 * torch.einsum("bk,kij,bj->bi", grad, forms, x)
            return twice, torch.einsum("bk,bi,bj->kij", grad, x, x)
        packed = _packed(forms)
        of_rows = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        of_packed = torch.zeros_like(packed) if ctx.needs_input_grad[1] else None
        memory = _memory(packed, len(x))
        size, start = memory.shape[1], 0
        for rows, part in zip(x.split(size), grad.split(size), strict=True):
            columns = rows.T.contiguous()
            if of_packed is not None:
                of_packed.addmm_(part.T, fill_products(columns, memory[:, : len(rows)]).T)
            if of_rows is not None:
                slopes = torch.mm(packed.T, part.T, out=memory[:, : len(rows)])
                of_rows[start : start + len(rows)] = _slopes_of_columns(columns, slopes).T
            start += len(rows)
        return of_rows, None if of_packed is None else _unpacked(of_packed, x.shape[1])


def _slopes_of_columns(columns: Tensor, slopes: Tensor) -> Tensor:
    """Gradient of columns ``(D, b)`` from that of their products ``(P, b)``."""
    total, start = torch.zeros_like(columns), 0
    for i in range(len(columns)):
        end = start + len(columns) - i
        part = slopes[start:end]
        total[i:].addcmul_(part, columns[i])
        total[i] += torch.mul(part, columns[i:], out=part).sum(dim=0)
        start = end
    return total


def _memory(packed: Tensor, rows: int) -> Tensor:
    """Memory for the products of a block, which every block uses again: it is in the cache already."""
    count = packed.shape[1]
    return packed.new_empty(count, min(_MOST_ROWS, max(_FEWEST_ROWS, _BLOCK_ELEMENTS // count), max(1, rows)))


def _packed(forms: Tensor) -> Tensor:
    """Weights ``(K, P)`` of the products: every product of two dimensions stands once, but counts twice."""
    rows, columns = _pairs(forms.shape[-1], forms.device)
    packed = forms.flatten(1).index_select(1, rows * forms.shape[-1] + columns)
    return packed.mul_(torch.where(rows == columns, 1.0, 2.0).to(packed))


def _unpacked(packed: Tensor, dim: int) -> Tensor:
    """Symmetric matrices ``(K, D, D)`` of a number for every product, which stands in both of its places."""
    rows, columns = _pairs(dim, packed.device)
    places = rows.new_empty(dim, dim)
    places[rows, columns] = places[columns, rows] = torch.arange(len(rows), device=rows.device)
    return packed.index_select(1, places.flatten()).view(-1, dim, dim)


@functools.lru_cache(maxsize=8)
def _pairs(dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    rows, columns = pairs_of_dimensions(dim).to(device)
    return rows, columns
