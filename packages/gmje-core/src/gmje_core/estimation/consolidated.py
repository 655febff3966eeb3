"""The density that answers users, once a closing stage has fitted it: parameters that belong to a module's state."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from gmje_core.counting import CountingModule
from gmje_core.densities.scaled import ScaledJointMixture
from gmje_core.errors import ConfigError, NotFittedError, ShapeError
from gmje_core.estimation.scaled import SCALES

__all__ = ["ConsolidatedDensity"]

# Log-weight of a place without a component: its density is zero in float32, and its gradient finite.
_NO_WEIGHT = -1e4
_PARTS = ("log_weights", "context_means", "target_means", "context_tril", "gain", "target_tril")


class ConsolidatedDensity(CountingModule):
    r"""Holds the parameters of a :class:`ScaledJointMixture`.

    It takes :math:`4 K (d_c^2 + d_c d_t + d_t^2)` bytes, 11.8 MB for 60 factors of 128 dimensions a view, and nothing
    before there is room or a density. A state that holds a density can be loaded whatever the room, and one without
    leaves none. Room is made on the device that the module was built on or moved to.

    Args:
        dims: Sizes of context and target.
        components: Factors ``K`` that there is always room for; 0 for none.

    Examples:
        >>> holder, eye = ConsolidatedDensity((2, 2)), torch.eye(2)[None]
        >>> grid = torch.tensor(SCALES)
        >>> holder.hold(ScaledJointMixture(torch.zeros(1, 12, 12), eye[:, 0], eye[:, 1], eye, eye, eye, grid, grid))
        >>> other = ConsolidatedDensity((2, 2))
        >>> _ = other.load_state_dict(holder.state_dict())
        >>> other()
        ScaledJointMixture(factors=1, context_scales=12, target_scales=12, context_dim=2, target_dim=2)
    """

    def __init__(self, dims: tuple[int, int], components: int = 0) -> None:
        super().__init__(fitted=0, unit_norm=0)
        self.dims, self.components = dims, components
        self._device = torch.get_default_device()
        self._make_room(components)

    @property
    def fitted(self) -> bool:
        """Whether there is a density."""
        return self.counters["fitted"] > 0

    def forward(self) -> ScaledJointMixture:
        """The density.

        Raises:
            NotFittedError: nothing was fitted yet.
        """
        if not self.fitted:
            raise NotFittedError("no density was consolidated yet: call consolidate on pairs of embeddings first")
        held = self.get_buffer(_PARTS[0]).amax(dim=(1, 2)) > _NO_WEIGHT / 2
        weights, context, target, context_tril, gain, target_tril = (self.get_buffer(name)[held] for name in _PARTS)
        scales = weights.new_tensor(SCALES)
        on_sphere = bool(self.counters["unit_norm"])
        return ScaledJointMixture(
            weights, context, target, context_tril, gain, target_tril, scales, scales, unit_norm=on_sphere
        )

    @torch.no_grad()
    def hold(self, density: ScaledJointMixture) -> None:
        """Take over the parameters of a density, float32; room that it does not fill has no weight.

        Raises:
            ShapeError: a density of other dimensions.
            ConfigError: a density of other scales than ``SCALES``, which the state does not hold.
        """
        dims = density.context_dim, density.target_dim
        if dims != self.dims:
            raise ShapeError(f"the density must have the dimensions {self.dims}, but has {dims}")
        for view, scales in zip(("context", "target"), density.scales, strict=True):
            if len(scales) != len(SCALES) or not torch.allclose(scales, scales.new_tensor(SCALES), rtol=1e-6, atol=0):
                raise ConfigError(f"the scales of the {view} must be {SCALES}, but are {scales.tolist()}")
        values = density.parameters
        self._make_room(max(self.components, len(values[0])))
        for name, value in zip(_PARTS, values, strict=True):
            buffer = self.get_buffer(name)
            # Spare places repeat the first component, so that every factor is one.
            buffer.copy_(torch.cat([value, value[:1].expand(len(buffer) - len(value), *value.shape[1:])]))
        self.get_buffer(_PARTS[0])[len(values[0]) :] = _NO_WEIGHT
        self.counters.update(fitted=1, unit_norm=int(density.unit_norm))

    def _make_room(self, components: int) -> None:
        """Make place for so many factors, where there is another number of places."""
        places = self._buffers.get(_PARTS[0])
        if components == (0 if places is None else len(places)):
            return
        (c, t), s = self.dims, len(SCALES)
        shapes = ((s, s), (c,), (t,), (c, c), (t, c), (t, t))
        for name, shape in zip(_PARTS, shapes, strict=True):
            if components:
                self.register_buffer(name, torch.zeros(components, *shape, device=self._device))
            else:
                self._buffers.pop(name, None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._device = fn(torch.empty(0, device=self._device)).device
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        held: Tensor | None = state_dict.get(f"{prefix}{_PARTS[0]}")
        counters: Tensor | None = state_dict.get(f"{prefix}_extra_state")
        empty = held is None and counters is not None and not counters.any()
        if empty:
            self._make_room(0)  # so that none of the state is missing
        elif held is not None and held.ndim:
            self._make_room(len(held))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if empty:
            self._make_room(self.components)
