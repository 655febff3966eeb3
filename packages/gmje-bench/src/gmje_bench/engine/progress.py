"""Progress goes to stderr, as bars for the run and its stage on a terminal and as plain lines elsewhere.

Only the main process says anything; results go to stdout as soon as they are known.
"""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["Reporter"]


class Reporter:
    """Tells the user how a run goes.

    Args:
        active: Whether this is the main process.
        total: Number of epochs of all methods and seeds together.

    Examples:
        >>> with Reporter(active=True, total=2) as reporter:
        ...     reporter.result("gje seed 0: done")
        gje seed 0: done
    """

    def __init__(self, *, active: bool, total: int) -> None:
        self.active = active
        self.console = Console(stderr=True, quiet=not active, soft_wrap=True)
        self._bars: Progress | None = None
        if active and self.console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self.console,
                transient=True,
            )
            self._run = self._bars.add_task("run, epochs", total=total)
            self._stage = self._bars.add_task("", total=None)  # The bar moves to and fro until its length is known.

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def stage(self, text: str) -> None:
        """Say which stage begins."""
        if self._bars:
            self._bars.reset(self._stage, total=None, description=text)
        else:
            self.line(text)

    def skip(self, epochs: int, text: str) -> None:
        """Say that so many epochs need not be done."""
        if self._bars:
            self._bars.advance(self._run, epochs)
        self.line(text)

    def epoch(self, method: str, seed: int, epoch: int, epochs: int, loss: float, verdict: str) -> None:
        """Say that an epoch is over."""
        if self._bars:
            text = f"{method} seed {seed}: loss {loss:.3f} {verdict}"
            self._bars.update(self._stage, completed=epoch, total=epochs, description=text)
            self._bars.advance(self._run)
        else:
            self.line(f"{method} seed {seed}: epoch {epoch}/{epochs}, loss {loss:.4f}, {verdict}")

    def line(self, text: str) -> None:
        """Print a line on stderr, above the bars where there are any."""
        if self.active:
            self.console.print(text, markup=False, highlight=False)

    def result(self, text: str) -> None:
        """Print a line of results on stdout as soon as it is known."""
        if not self.active:
            return
        if self._bars and sys.stdout.isatty():
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
