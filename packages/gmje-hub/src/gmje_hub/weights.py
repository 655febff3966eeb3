"""Names, shapes and dtypes that a configuration's weights must have, known without allocating any of them."""

import math

import torch
from torch import Tensor

import gmje_core
from gmje_core import ConfigError, GMJEConfig
from gmje_hub.errors import CorruptModelError
from gmje_hub.folder import CONFIG, LARGEST_HEADER, ModelFiles, brief

__all__ = ["check_weights", "largest_file", "mismatch_of", "not_finite"]

# The names of dtypes in safetensors, and the same dtypes in torch.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
Described = dict[str, tuple[torch.dtype, tuple[int, ...]]]


def check_weights(files: ModelFiles) -> None:
    """Check that the header of the weights is that of the configuration's model; nothing of its size is allocated.

    Raises:
        CorruptModelError: names, shapes or dtypes differ, or the configuration builds no model.
    """
    expected = _expected(files.config, str(files.weights))
    found = {name: (DTYPES[info.dtype], info.shape) for name, info in files.tensors.items()}
    if mismatch := _mismatch(found, expected):
        raise CorruptModelError(f"{files.weights} does not fit {CONFIG}: {mismatch}")


def largest_file(config: GMJEConfig, place: str) -> int:
    """Most bytes that the weights of a configuration's model take, so that no more need be fetched.

    Args:
        config: Configuration of the model.
        place: Name of the model's folder or repository, for the message.

    Raises:
        CorruptModelError: the configuration builds no model.

    Examples:
        >>> config = GMJEConfig(backbone="smallconv", dim=8, hidden=16, criterion="gje")
        >>> largest_file(config, "here") - LARGEST_HEADER < 2**22
        True
    """
    tensors = _expected(config, place).values()
    return 8 + LARGEST_HEADER + sum(dtype.itemsize * math.prod(shape) for dtype, shape in tensors)


def mismatch_of(state: dict[str, Tensor], config: GMJEConfig) -> str:
    """Text that says why a state cannot be loaded into a configuration's model; empty where it can."""
    return _mismatch(_described(state), _expected(config, "a state"))


def not_finite(state: dict[str, Tensor]) -> str:
    """Text that names the tensors with NaN or infinity; empty where all numbers are finite."""
    floating = ((key, value) for key, value in state.items() if value.is_floating_point())
    return _list_some([f"{key} holds NaN or infinity" for key, value in floating if not torch.isfinite(value).all()])


def _described(state: dict[str, Tensor]) -> Described:
    return {key: (value.dtype, tuple(value.shape)) for key, value in state.items()}


def _expected(config: GMJEConfig, place: str) -> Described:
    """Dtype and shape of every tensor in the model of a configuration; no tensor is allocated."""
    try:
        with torch.device("meta"):
            return _described(gmje_core.JointEmbeddingModel(config).state_dict())
    except (ConfigError, ValueError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        raise CorruptModelError(f"{CONFIG} beside {place} builds no model: {brief(error)}") from error


def _mismatch(found: Described, expected: Described) -> str:
    """Text that says how names, shapes and dtypes differ; empty where they agree."""
    problems = [f"missing {key}" for key in expected.keys() - found.keys()]
    problems += [f"unexpected {key}" for key in found.keys() - expected.keys()]
    for key in expected.keys() & found.keys():
        if found[key] != expected[key]:
            (dtype, shape), (right_dtype, right_shape) = found[key], expected[key]
            problems.append(f"{key} is {dtype} {shape} instead of {right_dtype} {right_shape}")
    return _list_some(problems)


def _list_some(problems: list[str]) -> str:
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(sorted(problems)[:3]) + more
