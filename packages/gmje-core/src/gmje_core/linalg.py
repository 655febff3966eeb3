r"""Linear algebra of covariances: Cholesky factors, triangular inverses and reordered factors.

All functions are pure, batched over leading dimensions and differentiable. What fails shows: as an error or a warning
in functions that check their input, and as NaN in those that must not wait for the device.
"""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from gmje_core.errors import JitterWarning, NonFiniteError, NotPositiveDefiniteError, ShapeError

__all__ = [
    "LOG_2PI",
    "accumulation_dtype",
    "broadcast_shapes",
    "cholesky_or_nan",
    "full_precision",
    "half_log_det",
    "in_full_precision",
    "inverse_softplus",
    "promote",
    "reorder_factor",
    "require_finite",
    "safe_cholesky",
    "slice_or_list",
    "triangular_factor",
    "triangular_inverse",
    "whiten",
]

P = ParamSpec("P")
R = TypeVar("R")

LOG_2PI = math.log(2 * math.pi)

# Number of attempts with jitter before an error. The jitter is 10, 100, 1e3 and 1e4 times the dtype's epsilon, relative
# to the largest diagonal entry.
_JITTER_TRIES = 4


def full_precision(device_type: str = "cpu") -> AbstractContextManager[object]:
    """Context in which autocast is off: densities lose several digits in half-precision products.

    Args:
        device_type: ``tensor.device.type`` of the tensors at work.

    Examples:
        >>> a = torch.ones(2, 2)
        >>> with torch.autocast("cpu", dtype=torch.bfloat16), full_precision("cpu"):
        ...     (a @ a).dtype
        torch.float32
    """
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def in_full_precision(method: Callable[P, R]) -> Callable[P, R]:
    """Decorator of methods that runs them in :func:`full_precision` on the ``device`` of their object.

    Args:
        method: A method of an object that has a ``device``, such as a mixture.

    Returns:
        The method with autocast off.
    """

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        with full_precision(self.device.type):
            return method(self, *args, **kwargs)

    return cast("Callable[P, R]", wrapper)


def promote(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in their common dtype, and at least float32.

    Args:
        *tensors: Tensors of any real dtypes.

    Returns:
        Tensors of one floating dtype, float32 or float64.

    Examples:
        >>> [t.dtype for t in promote(torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.int64))]
        [torch.float32, torch.float32]
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """float64 where the device has it, for sums that cancel; otherwise the tensor's own dtype.

    Examples:
        >>> accumulation_dtype(torch.ones(1))
        torch.float64
    """
    return tensor.dtype if tensor.device.type == "mps" else torch.float64


def broadcast_shapes(*shapes: torch.Size) -> torch.Size:
    """Common shape of tensors of these shapes.

    Raises:
        ShapeError: they do not broadcast.

    Examples:
        >>> broadcast_shapes(torch.Size([5, 1]), torch.Size([3]))
        torch.Size([5, 3])
    """
    # torch.broadcast_shapes imports sympy on its first call, which takes seconds.
    ndim = max(len(shape) for shape in shapes)
    common = []
    for sizes in zip(*[(1,) * (ndim - len(shape)) + tuple(shape) for shape in shapes], strict=True):
        wide = {size for size in sizes if size != 1}
        if len(wide) > 1:
            raise ShapeError(f"shapes must broadcast, but are {', '.join(str(tuple(shape)) for shape in shapes)}")
        common.append(wide.pop() if wide else 1)
    return torch.Size(common)


def require_finite(name: str, tensor: Tensor) -> None:
    """Check that a tensor holds neither NaN nor infinity.

    The check reads a value from the tensor's device, so a GPU is waited for.

    Args:
        name: What the tensor is, for the message.
        tensor: ``(..., D)``; rows are counted over all leading dimensions.

    Raises:
        NonFiniteError: names the first bad row.

    Examples:
        >>> require_finite("x", torch.tensor([[0.0], [float("nan")]]))
        Traceback (most recent call last):
        ...
        gmje_core.errors.NonFiniteError: x must be finite, but holds nan in row 1 (1 of 2 rows are bad)
    """
    # One reduction decides the usual case: a sum is finite only if every term is, save for overflow.
    if torch.isfinite(tensor.detach().sum()):
        return
    rows = tensor.detach().reshape(-1, tensor.shape[-1] if tensor.ndim else 1)
    bad = ~torch.isfinite(rows).all(dim=-1)
    if not bad.any():
        return
    row = int(bad.nonzero()[0])
    value = float(rows[row][~torch.isfinite(rows[row])][0])
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(row), tensor.shape[:-1])) or (0,)
    where = f"row {row}" if tensor.ndim <= 2 else f"row {index}"
    raise NonFiniteError(
        f"{name} must be finite, but holds {value} in {where} ({int(bad.sum())} of {len(bad)} rows are bad)"
    )


def safe_cholesky(matrix: Tensor, *, name: str = "covariance") -> Tensor:
    r"""Lower Cholesky factor, with jitter only on the members that need it.

    Where the factorisation of a member fails, :math:`c\,\epsilon \max_i A_{ii}` is added to its diagonal,
    :math:`\epsilon` the precision of the dtype and :math:`c = 10, \dots, 10^4`, with a :class:`JitterWarning`;
    then an error. Members that succeed are left untouched.

    Args:
        matrix: ``(..., D, D)`` symmetric (the lower triangle is read), float32 or float64.
        name: What the matrix is, for messages.

    Returns:
        ``(..., D, D)`` lower triangular, positive diagonal.

    Raises:
        ShapeError: the last two dimensions differ.
        NonFiniteError: NaN or infinity.
        NotPositiveDefiniteError: a member is not positive definite, beyond what rounding explains.

    Examples:
        >>> safe_cholesky(torch.tensor([[4.0, 2.0], [2.0, 5.0]]))
        tensor([[2., 0.],
                [1., 2.]])
        >>> safe_cholesky(torch.diag_embed(torch.tensor([[1.0, 1.0], [1.0, -1.0]])))
        Traceback (most recent call last):
        ...
        gmje_core.errors.NotPositiveDefiniteError: covariance of component 1 is not positive definite: ...
    """
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ShapeError(f"{name} must have shape (..., D, D), but has {tuple(matrix.shape)}")
    require_finite(name, matrix)
    factor: Tensor
    info: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    if not info.any():
        return factor
    failed_first = info > 0
    scale = matrix.detach().diagonal(dim1=-2, dim2=-1).amax(dim=-1).clamp_min(torch.finfo(matrix.dtype).tiny)
    jitter = torch.zeros_like(scale)
    for attempt in range(1, _JITTER_TRIES + 1):
        level = 10.0**attempt * torch.finfo(matrix.dtype).eps
        jitter = torch.where(info > 0, level * scale, jitter)
        factor, info = torch.linalg.cholesky_ex(
            matrix + torch.diag_embed(jitter.unsqueeze(-1).expand(matrix.shape[:-1]))
        )
        if not info.any():
            warnings.warn(
                f"{name} is not positive definite in {matrix.dtype} for {int(failed_first.sum())} of "
                f"{failed_first.numel()} members, first {_member(failed_first)}: at most {level:.1e} of the largest "
                "variance was added to their diagonals",
                JitterWarning,
                stacklevel=2,
            )
            return factor
    smallest = float(torch.linalg.eigvalsh(matrix.detach()[info > 0][0])[0])
    raise NotPositiveDefiniteError(
        f"{name} of {_member(info > 0)} is not positive definite: its smallest eigenvalue is {smallest:.3g}, and "
        f"jitter of {level:.1e} of its largest variance does not help; add a ridge, or check that it is symmetric"
    )


def _member(failed: Tensor) -> str:
    """``component 3`` (or ``component (1, 3)``) for the first true entry of a mask."""
    if failed.ndim == 0:
        return "component 0"
    index = [int(i) for i in failed.nonzero()[0]]
    return f"component {index[0] if len(index) == 1 else tuple(index)}"


def cholesky_or_nan(matrix: Tensor) -> Tensor:
    r"""Lower Cholesky factor of matrices that are positive definite by construction, without a check of any value.

    A member whose factorisation fails becomes NaN. Whether one failed is never read, so that a GPU is not waited for.

    Args:
        matrix: ``(..., D, D)`` symmetric (the lower triangle is read), float32 or float64.

    Returns:
        ``(..., D, D)`` lower triangular, positive diagonal or NaN.

    Examples:
        >>> cholesky_or_nan(torch.diag_embed(torch.tensor([[4.0, 1.0], [1.0, -1.0]])))
        tensor([[[2., 0.],
                 [0., 1.]],
        <BLANKLINE>
                [[nan, nan],
                 [nan, nan]]])
    """
    factor: Tensor
    info: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    return torch.where((info == 0)[..., None, None], factor, math.nan)


def half_log_det(scale_tril: Tensor) -> Tensor:
    r""":math:`\tfrac12 \log |L L^\top| = \sum_i \log L_{ii}`.

    Args:
        scale_tril: ``(..., D, D)``.

    Returns:
        ``(...)``, nats.

    Examples:
        >>> half_log_det(torch.diag(torch.tensor([1.0, 4.0])))   # log 4
        tensor(1.3863)
    """
    diagonal: Tensor = scale_tril.diagonal(dim1=-2, dim2=-1)
    return diagonal.log().sum(dim=-1)


def triangular_inverse(scale_tril: Tensor) -> Tensor:
    """Inverse of lower-triangular factors.

    Args:
        scale_tril: ``(..., D, D)`` lower triangular.

    Returns:
        ``(..., D, D)`` lower triangular.

    Examples:
        >>> triangular_inverse(torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
        tensor([[ 0.5000,  0.0000],
                [-0.5000,  1.0000]])
    """
    eye = torch.eye(scale_tril.shape[-1], dtype=scale_tril.dtype, device=scale_tril.device)
    # The inverse is solved for from the right, X L = I, because LAPACK then copies less.
    inverse: Tensor = torch.linalg.solve_triangular(scale_tril, eye, upper=False, left=False)
    return inverse


def whiten(x: Tensor, scale_tril: Tensor) -> Tensor:
    r""":math:`L^{-1} x` for the rows ``x``.

    Args:
        x: ``(..., N, D)`` centred rows.
        scale_tril: ``(..., D, D)``.

    Returns:
        ``(..., N, D)``, of unit covariance where ``x`` has covariance :math:`L L^T`.

    Examples:
        >>> whiten(torch.tensor([[2.0, 3.0]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
        tensor([[1., 2.]])
    """
    columns: Tensor = torch.linalg.solve_triangular(scale_tril, x.mT, upper=False)
    return columns.mT


def reorder_factor(scale_tril: Tensor, indices: Sequence[int]) -> Tensor:
    r"""Triangular factor of the covariance of chosen dimensions, in the order given.

    With :math:`P L = (Q R)^\top`, the factor of :math:`P \Sigma P^\top` is :math:`R^\top`: the covariance is never
    formed, so its condition number is never squared. Worked in float64 where the device has it.

    Args:
        scale_tril: ``(..., D, D)`` lower triangular.
        indices: Dimensions to keep, in the order to keep them.

    Returns:
        ``(..., m, m)`` lower triangular, positive diagonal, in the dtype given.

    Examples:
        >>> scale_tril = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
        >>> reorder_factor(scale_tril, [1])     # the standard deviation of the second dimension
        tensor([[5.]])
    """
    count = len(indices)
    if list(indices) == list(range(count)):
        return scale_tril[..., :count, :count]
    width = max(indices) + 1
    return triangular_factor(scale_tril[..., slice_or_list(indices), :width])


def triangular_factor(root: Tensor) -> Tensor:
    r"""Lower-triangular factor of :math:`A A^\top`, from a QR of :math:`A^\top` in float64 where the device has it.

    Args:
        root: ``(..., m, n)`` of rank ``m``.

    Returns:
        ``(..., m, m)`` lower triangular, positive diagonal, in the dtype given.

    Examples:
        >>> triangular_factor(torch.tensor([[0.0, 2.0], [3.0, 4.0]]))
        tensor([[2., 0.],
                [4., 3.]])
    """
    upper: Tensor = torch.linalg.qr(root.to(accumulation_dtype(root)).mT, mode="reduced").R
    sign = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(upper)
    return (upper * sign.unsqueeze(-1)).mT.tril().to(root.dtype)


def slice_or_list(indices: Sequence[int]) -> slice | list[int]:
    """A slice where the indices follow each other, so that indexing gives a view; otherwise the list of them.

    A list that indexes a tensor on a GPU is first copied there, for which the program waits; a slice is not.

    Args:
        indices: At least one index, none of them negative.

    Returns:
        What to put between the brackets.

    Examples:
        >>> slice_or_list([2, 3, 4]), slice_or_list([2, 4])
        (slice(2, 5, None), [2, 4])
    """
    start, count = indices[0], len(indices)
    return slice(start, start + count) if list(indices) == list(range(start, start + count)) else list(indices)


def inverse_softplus(y: Tensor | float) -> Tensor:
    r"""The ``x`` with ``softplus(x) = y``: :math:`y + \log(1 - e^{-y})`.

    Args:
        y: Positive.

    Returns:
        Same shape as ``y``.

    Raises:
        NotPositiveDefiniteError: ``y`` is not positive.

    Examples:
        >>> torch.nn.functional.softplus(inverse_softplus(0.1))
        tensor(0.1000)
    """
    value = torch.as_tensor(y)
    if not (value > 0).all():
        raise NotPositiveDefiniteError(f"softplus takes positive values only, got {float(value.min())}")
    return value + torch.log(-torch.expm1(-value))
