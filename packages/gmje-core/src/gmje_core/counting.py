"""Modules that count: the counters are Python numbers, so that no device is asked for them, and belong to the state."""

import torch
from torch import Tensor

from gmje_core.errors import ShapeError
from gmje_core.precise import PreciseModule

__all__ = ["CountingModule"]


class CountingModule(PreciseModule):
    """A module with named counters, which ``state_dict`` holds as one integer tensor; casts leave its state exact.

    Args:
        **counters: Names and first values.

    Examples:
        >>> module = CountingModule(steps=0)
        >>> module.counters["steps"] += 3
        >>> other = CountingModule(steps=0)
        >>> _ = other.load_state_dict(module.state_dict())
        >>> other.counters
        {'steps': 3}
    """

    def __init__(self, **counters: int) -> None:
        super().__init__()
        self.counters = counters

    def get_extra_state(self) -> Tensor:
        """The counters' values, an int64 tensor in the order in which they were named."""
        return torch.tensor(list(self.counters.values()), dtype=torch.long)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the counters' values from a loaded state.

        Raises:
            ShapeError: a state of another number of counters.
        """
        if state.shape != (len(self.counters),):
            raise ShapeError(
                f"the state of {type(self).__name__} must hold the counters {', '.join(self.counters)}, but has shape "
                f"{tuple(state.shape)}"
            )
        self.counters = dict(zip(self.counters, map(int, state.tolist()), strict=True))
