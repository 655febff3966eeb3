"""Errors that end a command with one line on stderr and exit status 2."""

import difflib
from collections.abc import Iterable

__all__ = ["BenchError", "DatasetError", "OptionError", "RunFolderError", "SuiteError", "did_you_mean"]


class BenchError(Exception):
    """Base of the mistakes that a user can mend; the text is one line that says how."""


class DatasetError(BenchError):
    """A dataset that is unknown, missing, unreadable or not what it should be."""


class OptionError(BenchError):
    """A command-line option out of range."""


class RunFolderError(BenchError):
    """A run folder that cannot be written, or holds what must not be lost."""


class SuiteError(BenchError):
    """A suite that is unknown or whose file is not valid."""


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the closest one, and all of them.

    Examples:
        >>> did_you_mean("simclear", ["simclr", "vicreg"])
        '; did you mean simclr? (choose from simclr, vicreg)'
        >>> did_you_mean("x", ["simclr", "vicreg"])
        ' (choose from simclr, vicreg)'
    """
    names = list(choices)
    close = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{hint} (choose from {', '.join(names)})"
