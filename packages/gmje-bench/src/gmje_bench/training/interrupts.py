"""Ctrl-C and SIGTERM end training at the next step, with a checkpoint; anything else ends at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupted", "Interrupts"]


class Interrupted(BaseException):
    """The process was asked to stop; like :class:`KeyboardInterrupt` no ordinary handler swallows it.

    Attributes:
        signal: The number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Interrupts:
    """While this context is open the two signals raise :class:`Interrupted`, or wait where they are deferred.

    Examples:
        >>> with Interrupts() as interrupts, interrupts.deferred():
        ...     signal.raise_signal(signal.SIGTERM)
        ...     interrupts.pending == signal.SIGTERM
        True
    """

    def __init__(self) -> None:
        self.pending: int = 0
        self._deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        # Other threads can neither set handlers nor receive signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:  # A job in the background ignores the signal.
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the first signal wait in :attr:`pending`, for the caller to look at; a second one does not wait."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _handle(self, number: int, _: FrameType | None) -> None:
        if not self._deferred or self.pending:
            raise Interrupted(number)
        self.pending = number
