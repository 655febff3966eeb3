"""The interface of every density that learns from a stream of batches, each of which it scores before it learns it."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from gmje_core.counting import CountingModule
from gmje_core.densities.mixture import GaussianMixture

__all__ = ["TrainableDensity"]

# Of the decreasing step of online EM (Cappé and Moulines, 2009).
_STEP_POWER = -0.6


class TrainableDensity(CountingModule, ABC):
    """A module that gives a mixture and learns from batches.

    The caller keeps one order: :meth:`start` on the first batch, then for every batch take the mixture
    (:meth:`forward`), score the batch with it, and only then :meth:`update`. Everything is a function of the global
    batch, so that all ranks hold the same state.

    Args:
        step: Step in ``(0, 1]`` of what is averaged over batches; ``None`` for ``(t + 2)^-0.6`` after ``t`` updates,
            which converges where embeddings are fixed.
        **counters: Counters of the subclass; see :class:`~gmje_core.counting.CountingModule`.
    """

    #: Whether parameters of the density are trained by an optimiser, on the likelihood of what it scores.
    has_gradient = False

    def __init__(self, step: float | None = None, **counters: int) -> None:
        super().__init__(started=0, updates=0, **counters)
        self.step = step

    @property
    def next_step(self) -> float:
        """Step of the next update."""
        return (self.counters["updates"] + 2) ** _STEP_POWER if self.step is None else self.step

    @property
    def started(self) -> bool:
        """Whether there is a mixture to score with."""
        return self.counters["started"] > 0

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Begin from a first batch ``(B, D)``; what was learned before is lost."""
        self._begin(z)
        self.counters["started"] = 1

    def forget(self) -> None:
        """Be as before :meth:`start`."""
        self.counters["started"] = 0

    @abstractmethod
    def forward(self, dtype: torch.dtype | None = None) -> GaussianMixture:
        """The mixture as it is now, with gradient to the parameters where there are any.

        Args:
            dtype: Of the mixture; ``None`` for that of the state.
        """

    def rare_work(self, z: Tensor, responsibilities: Tensor | None) -> Tensor | None:
        """Whether the next :meth:`update` has work that is rarely needed: a flag on the device, not read here.

        A caller that reads other flags of the step too can read them at once and pass this one to :meth:`update`.

        Args:
            z: ``(B, D)``.
            responsibilities: ``(B, K)``.

        Returns:
            A boolean scalar, or ``None`` where there is no such work.
        """
        return None

    @torch.no_grad()
    def update(self, z: Tensor, responsibilities: Tensor | None, *, rare: bool | None = None) -> None:
        """Learn from a batch that was scored.

        Args:
            z: ``(B, D)``, the global batch.
            responsibilities: ``(B, K)`` under the mixture that scored it; ``None`` where there was none.
            rare: What :meth:`rare_work` said; ``None`` to ask it now, which waits for the device.
        """
        if rare is None:
            flag = self.rare_work(z, responsibilities)
            rare = flag is not None and bool(flag)
        self._learn(z, responsibilities, rare)
        self.counters["updates"] += 1

    @abstractmethod
    def _begin(self, z: Tensor) -> None:
        """Set every part of the state from a first batch."""

    @abstractmethod
    def _learn(self, z: Tensor, responsibilities: Tensor | None, rare: bool) -> None:
        """Change the state; see :meth:`update`."""
