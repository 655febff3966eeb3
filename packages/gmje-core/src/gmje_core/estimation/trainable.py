"""The interface that all densities share which learn from a stream of batches: each is scored before it is learned."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from gmje_core.counting import CountingModule
from gmje_core.densities.mixture import GaussianMixture

__all__ = ["TrainableDensity"]

# Exponent of the decreasing step of online EM (Cappé and Moulines, 2009).
_STEP_POWER = -0.6


class TrainableDensity(CountingModule, ABC):
    """A module that gives a mixture and learns from batches.

    The caller keeps one order: :meth:`start` on the first batch, then for every batch take the mixture
    (:meth:`forward`), score the batch with it, and only then :meth:`update`. Everything is a function of the global
    batch, so that all ranks hold the same state.

    Args:
        step: Step in ``(0, 1]`` of the averages over batches; ``None`` for ``(t + 2)^-0.6`` after ``t`` updates,
            which converges where embeddings are fixed.
        **counters: Names and first values of the subclass's counters; see :class:`~gmje_core.counting.CountingModule`.
    """

    #: Whether the density has parameters, which an optimiser trains on the likelihood of what the density scores.
    has_gradient = False

    def __init__(self, step: float | None = None, **counters: int) -> None:
        super().__init__(started=0, updates=0, **counters)
        self.step = step

    @property
    def next_step(self) -> float:
        """Step that the next update will take."""
        return (self.counters["updates"] + 2) ** _STEP_POWER if self.step is None else self.step

    @property
    def started(self) -> bool:
        """Whether there is a mixture to score with."""
        return self.counters["started"] > 0

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Begin from a first batch ``(B, D)``; the density forgets what it learned before."""
        self._begin(z)
        self.counters["started"] = 1

    def forget(self) -> None:
        """Return to where there is no mixture, as before :meth:`start`."""
        self.counters["started"] = 0

    @abstractmethod
    def forward(self, dtype: torch.dtype | None = None) -> GaussianMixture:
        """The mixture as it is now, with gradient to the parameters where there are any.

        Args:
            dtype: Floating dtype of the mixture; ``None`` for that of the state.
        """

    def rare_work(self, z: Tensor, responsibilities: Tensor | None) -> Tensor | None:
        """Whether the next :meth:`update` has work that is rarely needed.

        The answer is a flag on the device, which is not read here. A caller that reads other flags of the step can read
        all of them at once and pass this one to :meth:`update`.

        Args:
            z: ``(B, D)``, the global batch.
            responsibilities: ``(B, K)`` under the mixture that scored it.

        Returns:
            A boolean scalar, or ``None`` for a density that never has such work.
        """
        return None

    @torch.no_grad()
    def update(self, z: Tensor, responsibilities: Tensor | None, *, rare: bool | None = None) -> None:
        """Learn from a batch that was scored.

        Args:
            z: ``(B, D)``, the global batch.
            responsibilities: ``(B, K)`` under the mixture that scored it; ``None`` where there was none.
            rare: The value of :meth:`rare_work`; ``None`` to compute and read it now, which waits for the device.
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
        """Change the state as :meth:`update` promises."""
