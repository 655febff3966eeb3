"""Progress on stderr: one bar on a terminal, plain lines elsewhere, nothing from any process but the main one."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["Reporter"]


class Reporter:
    """Tells the user how a run goes.

    Args:
        active: Whether this is the main process.
        total: Epochs of all methods and seeds together.
    """

    def __init__(self, *, active: bool, total: int) -> None:
        self.active = active
        self.console = Console(stderr=True, quiet=not active, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if active and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("epochs"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def stage(self, text: str) -> None:
        """What happens now."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, description=text)
        else:
            self.line(text)

    def epoch(self, method: str, seed: int, epoch: int, epochs: int, loss: float, verdict: str) -> None:
        """An epoch is over."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, advance=1, description=f"{method} seed {seed} loss {loss:.3f} {verdict}")
        else:
            self.line(f"{method} seed {seed}: epoch {epoch}/{epochs}, loss {loss:.4f}, {verdict}")

    def line(self, text: str) -> None:
        """A line on stderr, above the bar where there is one."""
        if self.active:
            self.console.print(text, markup=False, highlight=False)

    def result(self, text: str) -> None:
        """A result line on stdout, as soon as it is known."""
        if not self.active:
            return
        if self._bar and sys.stdout.isatty():
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
