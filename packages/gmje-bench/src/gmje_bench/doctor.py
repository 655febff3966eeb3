"""The collapse verdict of any embeddings, from a file of NumPy, safetensors or Parquet; nothing is ever unpickled.

It answers at once: torch, which takes seconds to load, is used only for numbers that NumPy does not know.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmje_bench.errors import DatasetError, OptionError, did_you_mean
from gmje_core import diagnostics
from gmje_core.diagnostics import Verdict

__all__ = ["Diagnosis", "diagnose", "read_embeddings"]

_SUFFIXES = (".npy", ".safetensors", ".parquet")
# Types of safetensors that only torch reads.
_UNKNOWN_TO_NUMPY = ("BF16", "F8_E4M3", "F8_E5M2")


class Diagnosis(NamedTuple):
    """The verdict on embeddings, with its evidence.

    Attributes:
        verdict: The name of the verdict, and what to change.
        evidence: Gauges by name.
        rows: Number of embeddings.
        dim: Size of the embeddings.
    """

    verdict: Verdict
    evidence: dict[str, float]
    rows: int
    dim: int


def diagnose(context: NDArray[Any], target: NDArray[Any] | None = None) -> Diagnosis:
    """The verdict of one set of embeddings, or of context and target embeddings of the same images.

    Args:
        context: ``(N, d)``.
        target: ``(N, d)``; their alignment is then part of the evidence.

    Raises:
        DatasetError: the two sets have different shapes.

    Examples:
        >>> diagnose(np.random.default_rng(0).normal(size=(500, 8))).verdict.name
        'healthy'
        >>> diagnose(np.ones((500, 8))).verdict.name
        'complete collapse'
    """
    if target is not None and target.shape != context.shape:
        raise DatasetError(f"context and target must have the same shape, got {context.shape} and {target.shape}")
    evidence = diagnostics.embedding_diagnostics(context, context if target is None else target)
    if target is None:
        evidence.pop("alignment", None)  # This is the similarity of each row with itself.
    return Diagnosis(diagnostics.judge(dict(evidence)), evidence, *context.shape)


def read_embeddings(path: Path, *, key: str | None = None) -> NDArray[Any]:
    """Read a matrix of finite numbers.

    Args:
        path: ``.npy``, ``.safetensors`` or ``.parquet``.
        key: Name of the tensor, or of the column of lists; needed where there are several. A Parquet file without
            such a column is read as a table of numbers.

    Returns:
        ``(N, d)``, ``N`` and ``d`` at least 2.

    Raises:
        DatasetError: the file is missing or damaged, or its content has another shape or holds NaN.
        OptionError: an unknown ending or key.
    """
    if path.suffix not in _SUFFIXES:
        raise OptionError(f"cannot read {path}: its ending is unknown{did_you_mean(path.suffix, _SUFFIXES)}")
    reader = {".npy": _read_npy, ".safetensors": _read_safetensors, ".parquet": _read_parquet}[path.suffix]
    try:
        matrix = reader(path, key)
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from error
    if matrix.dtype.kind not in "fiu":
        raise DatasetError(f"{path} holds {matrix.dtype}, not numbers; embeddings are a matrix of floats")
    if matrix.ndim != 2 or min(matrix.shape) < 2:
        raise DatasetError(
            f"{path} has shape {matrix.shape}; embeddings are a matrix, rows by dimensions, 2 or more each"
        )
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise DatasetError(
            f"{path} holds NaN or infinity in {int((~finite).sum())} row(s), first row {int(finite.argmin())}"
        )
    return matrix


def _read_npy(path: Path, key: str | None) -> NDArray[Any]:
    if key is not None:
        raise OptionError(f"--key means nothing for {path}: a .npy file holds one array")
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DatasetError(f"{path} is not an array of numbers: {error}") from error
    return array


def _read_safetensors(path: Path, key: str | None) -> NDArray[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            name = _the_one(path, list(file.keys()), key, "tensor")
            if file.get_slice(name).get_dtype() not in _UNKNOWN_TO_NUMPY:
                array: NDArray[Any] = file.get_tensor(name)
                return array
        with safe_open(path, "pt") as file:
            array = file.get_tensor(name).float().numpy()
            return array
    except SafetensorError as error:
        raise DatasetError(f"{path} is not a whole safetensors file: {error}") from error


def _read_parquet(path: Path, key: str | None) -> NDArray[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{path} is not a whole Parquet file: {error}") from error
    lists = [f.name for f in table.schema if pa.types.is_list(f.type) or pa.types.is_fixed_size_list(f.type)]
    if lists or key is not None:
        rows = table[_the_one(path, lists, key, "column of lists")].to_pylist()
        lengths = {len(row) if row is not None else -1 for row in rows}
        if len(lengths) > 1:
            raise DatasetError(f"{path} has embeddings of different sizes: {sorted(lengths)[:5]}")
        return np.array(rows, dtype=np.float64)
    numbers = [f.name for f in table.schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
    if not numbers:
        raise DatasetError(f"{path} has no column of numbers or of lists; its columns are {table.column_names}")
    return np.stack([table[name].to_numpy() for name in numbers], axis=1)


def _the_one(path: Path, names: list[str], key: str | None, what: str) -> str:
    if key is not None:
        if key not in names:
            raise OptionError(f"{path} has no {what} {key!r}{did_you_mean(key, names)}")
        return key
    if len(names) != 1:
        raise OptionError(f"{path} has {len(names)} {what}s; name one with --key ({', '.join(names[:8])})")
    return names[0]
