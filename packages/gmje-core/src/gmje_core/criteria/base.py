"""The one face of every criterion: what it checks, how it sees the global batch, what it reports.

A remedy subclasses :class:`Criterion` and says three things: the loss of a global batch, the density it has
learned, and its own gauges.
"""

import warnings
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from gmje_core.densities.joint import JointDensity
from gmje_core.diagnostics import HEALTHY, embedding_diagnostics, judge
from gmje_core.distributed import gather_pairs, world_size
from gmje_core.errors import (
    BatchSizeError,
    CollapseWarning,
    ConfigError,
    NonFiniteError,
    NotFittedError,
    ShapeError,
)
from gmje_core.linalg import full_precision

__all__ = ["Criterion"]


class Criterion(nn.Module, ABC):
    """A loss on pairs of embeddings that owns a joint density of them.

    Call it on the two views' embeddings; it returns the loss and, in training mode, updates its density *after*
    scoring. Every rank passes its own pairs and gets the loss of the global batch.

    Args:
        dim: Embedding size of both views, or the pair ``(d_c, d_t)``.
        check_every: Steps between automatic collapse checks, each of which may warn once per run; 0 for none.

    Raises:
        ConfigError: an argument out of range.
    """

    #: Steps seen in training mode.
    steps: Tensor

    def __init__(self, dim: int | tuple[int, int], *, check_every: int = 100) -> None:
        super().__init__()
        dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim, dim)
        if len(dims) != 2 or any(not isinstance(d, int) or d < 1 for d in dims):
            raise ConfigError(f"dim must be a positive integer or a pair of them, got {dim!r}")
        if check_every < 0:
            raise ConfigError(f"check_every must be 0 (never) or a number of steps, got {check_every!r}")
        self.context_dim, self.target_dim = dims
        self.check_every = check_every
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self._last: tuple[Tensor, Tensor] | None = None
        self._gauges: dict[str, Tensor | float] = {}
        self._warned = False

    @property
    def dim(self) -> int:
        """Size ``D = d_c + d_t`` of the joint embedding."""
        return self.context_dim + self.target_dim

    def forward(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        """Loss of the global batch.

        Args:
            z_context: ``(B, d_c)``, this rank's context embeddings, any floating dtype.
            z_target: ``(B, d_t)``, this rank's target embeddings.

        Returns:
            Scalar in nats per pair, float32 or float64, the same on every rank.

        Raises:
            ShapeError: sizes that differ from ``dim`` or from each other.
            BatchSizeError: fewer than 2 pairs, or ranks with batches of different sizes.
            NonFiniteError: NaN or infinity in the embeddings or in the loss.
        """
        self._check_shapes(z_context, z_target)
        with full_precision(z_context.device.type):
            dtype = torch.promote_types(torch.promote_types(z_context.dtype, z_target.dtype), torch.float32)
            z_context, z_target = gather_pairs(z_context.to(dtype), z_target.to(dtype))
            self._check_values(z_context, z_target)
            self._last = (z_context.detach(), z_target.detach())
            loss = self._loss(z_context, z_target)
        if not torch.isfinite(loss):
            raise NonFiniteError(
                f"{type(self).__name__} gave the loss {loss.item()} at step {int(self.steps)} on finite "
                "embeddings: their scale is beyond what the density can represent"
            )
        if self.training:
            self.steps += 1
            if self.check_every and int(self.steps) % self.check_every == 0:
                self._warn_if_bad()
        return loss

    @abstractmethod
    def density(self) -> JointDensity:
        """The learned joint density of context and target, detached from any graph.

        Raises:
            NotFittedError: no batch has been seen.
        """

    def diagnostics(self) -> dict[str, float | str]:
        """Gauges of the last batch, the verdict's name and its advice.

        Keys: those of :func:`gmje_core.diagnostics.embedding_diagnostics`; ``trace_ratio`` (scored before the
        update) and ``self_scored``; for mixtures ``component_usage``; ``verdict`` and ``advice``.

        Raises:
            NotFittedError: no batch has been seen since the criterion was made or loaded.
        """
        if self._last is None:
            raise NotFittedError("no batch has been seen: call the criterion on a batch of embeddings first")
        gauges = {key: float(value) for key, value in self._gauges.items()}
        values: dict[str, float | str] = {**embedding_diagnostics(*self._last), **gauges}
        verdict = judge(values)
        return values | {"verdict": verdict.name, "advice": verdict.advice}

    @abstractmethod
    def _loss(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        """Loss of the global batch in full precision; updates the state in training mode, after scoring."""

    def _gauge(self, **values: Tensor | float) -> None:
        """Keep gauges of this step for :meth:`diagnostics`, unread: reading one would wait for the device."""
        self._gauges.update(values)

    @property
    def _dtype(self) -> torch.dtype:
        """Precision of the last batch's densities."""
        return torch.get_default_dtype() if self._last is None else self._last[0].dtype

    def _warn_if_bad(self) -> None:
        if self._warned:
            return
        report = self.diagnostics()
        if report["verdict"] != HEALTHY.name:
            self._warned = True
            warnings.warn(
                f"{type(self).__name__} at step {int(self.steps)}: {report['verdict']}. {report['advice']}",
                CollapseWarning,
                stacklevel=3,
            )

    def _check_shapes(self, z_context: Tensor, z_target: Tensor) -> None:
        for name, z, size in (
            ("z_context", z_context, self.context_dim),
            ("z_target", z_target, self.target_dim),
        ):
            if z.ndim != 2 or z.shape[1] != size:
                raise ShapeError(f"{name} must have shape (B, {size}), but has {tuple(z.shape)}")
            if not z.is_floating_point():
                raise ShapeError(f"{name} must be floating point, but is {z.dtype}")
        if z_context.shape[0] != z_target.shape[0]:
            raise ShapeError(
                "context and target must hold the same number of rows, but have "
                f"{z_context.shape[0]} and {z_target.shape[0]}"
            )
        if z_context.shape[0] * world_size() < 2:
            raise BatchSizeError(
                f"a batch must hold at least 2 pairs, but holds {z_context.shape[0]}: the objective compares pairs"
            )

    def _check_values(self, z_context: Tensor, z_target: Tensor) -> None:
        for name, z in (("z_context", z_context), ("z_target", z_target)):
            finite = torch.isfinite(z).all(dim=1)
            if not finite.all():
                row = int((~finite).nonzero()[0])
                raise NonFiniteError(
                    f"{name} holds NaN or infinity at step {int(self.steps)}, first in row {row} of the global "
                    f"batch of {z.shape[0]}: the encoder has diverged (lower the learning rate)"
                )
