"""Errors that end a command with one line on stderr and exit status 2.

Every error that a user can correct is a :class:`BenchError`; any other is a defect of the harness and keeps its
traceback.
"""

import difflib
from collections.abc import Iterable

__all__ = ["BenchError", "DatasetError", "OptionError", "RunFolderError", "SuiteError", "did_you_mean"]


class BenchError(Exception):
    """Base of the errors that a user can correct.

    Args:
        message: What was wrong and what would be right; line breaks become spaces, so that the text is one line.

    Examples:
        >>> str(BenchError("no folder data\\n  (No such file)"))
        'no folder data (No such file)'
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines() if line.strip()))


class DatasetError(BenchError, RuntimeError):
    """A dataset that is unknown, missing, unreadable or not what it should be."""


class OptionError(BenchError, ValueError):
    """An option out of range."""


class RunFolderError(BenchError, RuntimeError):
    """A run folder that cannot be written, or holds what must not be lost."""


class SuiteError(BenchError, ValueError):
    """A suite that is unknown or whose file is not valid."""


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """End a message about an unknown name with the closest name and all names.

    Args:
        value: What was asked for.
        choices: What there is.

    Returns:
        Text that begins with a punctuation mark or a space.

    Examples:
        >>> did_you_mean("simclear", ["simclr", "vicreg"])
        '; did you mean simclr? (choose from simclr, vicreg)'
        >>> did_you_mean("x", ["simclr", "vicreg"])
        ' (choose from simclr, vicreg)'
    """
    names = list(choices)
    lowered = {name.lower(): name for name in names}
    close = difflib.get_close_matches(value.lower(), lowered, n=1, cutoff=0.5)
    hint = f"; did you mean {lowered[close[0]]}?" if close else ""
    return f"{hint} (choose from {', '.join(names)})" if names else hint
