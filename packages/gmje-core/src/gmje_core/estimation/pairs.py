"""Paired embeddings as users hold them: NumPy arrays, tensors or lists, read as blocks of checked joint rows.

Nothing is copied whole, so a memory-mapped array may be larger than memory. Results go back as arrays to a caller who
gave arrays, and as tensors to one who gave tensors.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gmje_core.errors import InputTypeError, NonFiniteError, ShapeError

__all__ = ["Array", "Embeddings", "Kind", "Pairs", "to_kind"]

#: Embeddings that a caller may give: a tensor, or anything that NumPy can read as a matrix of numbers.
Embeddings = npt.ArrayLike | Tensor
#: Results that a caller gets back: arrays for arrays, tensors for tensors.
Array = npt.NDArray[Any] | Tensor
#: Name of the library whose arrays a caller gave and gets back.
Kind = Literal["numpy", "torch"]


class Pairs:
    """Rows of one or two views side by side, read block by block.

    Args:
        views: Embeddings ``(N, d)`` by name, in the order in which they are joined.
        dtype: Floating dtype of the blocks.
        device: Device of the blocks; ``None`` for that of the first tensor among the views, or else the CPU.

    Raises:
        InputTypeError: a view does not hold real numbers, or is sparse or masked.
        ShapeError: a view is no matrix or is empty, or the views have different numbers of rows.

    Examples:
        >>> pairs = Pairs({"Z_context": [[1, 2], [3, 4]], "Z_target": [[5], [6]]}, torch.float64)
        >>> len(pairs), pairs.dim, pairs.kind
        (2, 3, 'numpy')
        >>> pairs.rows(slice(1, 2))
        tensor([[3., 4., 6.]], dtype=torch.float64)
    """

    def __init__(
        self, views: dict[str, Embeddings], dtype: torch.dtype, device: torch.device | str | None = None
    ) -> None:
        self._views = {name: _as_matrix(name, value) for name, value in views.items()}
        sizes = {name: len(view) for name, view in self._views.items()}
        if len(set(sizes.values())) > 1:
            (first, rows), (second, others) = list(sizes.items())[:2]
            raise ShapeError(
                f"{first} and {second} must hold the same number of rows, one pair each, but hold {rows} and {others}"
            )
        tensors = [view for view in self._views.values() if isinstance(view, Tensor)]
        self.kind: Kind = "torch" if isinstance(next(iter(self._views.values())), Tensor) else "numpy"
        self._home = tensors[0].device if tensors else torch.device("cpu")
        self._given = _common_dtype(list(self._views.values()))
        self.device = self._home if device is None else torch.device(device)
        self.dtype = dtype

    def __len__(self) -> int:
        return len(next(iter(self._views.values())))

    @property
    def dims(self) -> tuple[int, ...]:
        """Number of columns of each view."""
        return tuple(view.shape[1] for view in self._views.values())

    @property
    def dim(self) -> int:
        """Number of columns of a joint row."""
        return sum(self.dims)

    def rows(self, which: slice | Tensor) -> Tensor:
        """Read joint rows.

        Args:
            which: A slice, or row numbers ``(b,)``.

        Returns:
            ``(b, D)``, in the dtype and on the device of the blocks.

        Raises:
            NonFiniteError: a row holds NaN or infinity, in the dtype of the blocks.
        """
        return torch.cat([self._read_rows(name, view, which) for name, view in self._views.items()], dim=1)

    def blocks(self, size: int) -> Iterator[Tensor]:
        """Read all joint rows in order, at most ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.rows(slice(start, start + size))

    def as_given(self, result: Tensor) -> Array:
        """Convert a result to the caller's kind, device and floating dtype (at least float32; float64 for integers)."""
        return to_kind(result.to(self._given), self.kind, self._home)

    def _read_rows(self, name: str, view: npt.NDArray[Any] | Tensor, which: slice | Tensor) -> Tensor:
        """Rows of one view, converted and checked."""
        if isinstance(view, Tensor):
            block = view[which if isinstance(which, slice) else which.to(view.device)].detach()
        else:
            part = view[which if isinstance(which, slice) else which.cpu().numpy()]
            block = torch.from_numpy(np.array(part, dtype=_numpy_dtype(part.dtype)))
        block = block.to(self.device, self.dtype)
        # A finite sum decides the usual case at once; one that overflows leaves the question open.
        if not torch.isfinite(block.sum()) and bool((bad := ~torch.isfinite(block).all(dim=1)).any()):
            place = int(bad.nonzero()[0])
            row = range(len(self))[which][place] if isinstance(which, slice) else int(which[place])
            value = float(block[place][~torch.isfinite(block[place])][0])
            raise NonFiniteError(f"{name} must be finite in {self.dtype}, but holds {value} in row {row}")
        return block


def to_kind(tensor: Tensor, kind: Kind, device: torch.device | str = "cpu") -> Array:
    """Convert a tensor to a NumPy array, or move it to a device where the kind is ``"torch"``."""
    return tensor.to(device) if kind == "torch" else tensor.cpu().numpy()


def _as_matrix(name: str, value: Embeddings) -> npt.NDArray[Any] | Tensor:
    """Matrix of real numbers with at least one row and one column; what is one already is not copied."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_complex() or value.is_quantized:
            raise InputTypeError(f"{name} must be a dense tensor of real numbers, but is {value.layout} {value.dtype}")
        matrix: npt.NDArray[Any] | Tensor = value
    else:
        matrix = _as_array(name, value)
    if matrix.ndim != 2 or 0 in matrix.shape:
        hint = "; reshape(-1, 1) makes one column of it" if matrix.ndim == 1 and len(matrix) else ""
        raise ShapeError(
            f"{name} must have shape (N, d) with at least one row and one column, but has {tuple(matrix.shape)}{hint}"
        )
    return matrix


def _as_array(name: str, value: object) -> npt.NDArray[Any]:
    """NumPy array of real numbers without a mask."""
    if isinstance(value, np.ma.MaskedArray):
        raise InputTypeError(f"{name} must have no mask, but is a masked array: fill or drop the rows that are masked")
    try:
        array: npt.NDArray[Any] = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputTypeError(f"{name} must be a matrix of numbers, but NumPy cannot read it: {error}") from error
    if array.dtype.kind not in "biuf":
        raise InputTypeError(
            f"{name} must hold real numbers, but is {type(value).__name__} of dtype {array.dtype}: convert it first, "
            f"for instance by np.asarray({name}, dtype=float)"
        )
    return array


def _numpy_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Dtype in which an array is read: float32 for single and half precision, float64 for all other numbers."""
    return np.dtype(np.float32 if dtype in (np.float16, np.float32) else np.float64)


def _common_dtype(views: list[npt.NDArray[Any] | Tensor]) -> torch.dtype:
    """Dtype of the results: float32 where all views have single or half precision, otherwise float64."""
    for view in views:
        half = view.dtype in (torch.float16, torch.bfloat16, torch.float32)
        single = half if isinstance(view, Tensor) else _numpy_dtype(view.dtype) == np.float32
        if not single:
            return torch.float64
    return torch.float32
