"""The grammar of names that hold more than one word. Free of torch."""

import re
from typing import NamedTuple

from gmje_bench.errors import DatasetError

__all__ = ["HUB_FORM", "HUB_PREFIXES", "HubName", "braces"]

#: Prefixes of datasets of the Hub: fetched whole, or read in place.
HUB_PREFIXES = ("hf", "hf-stream")
HUB_FORM = "NAME[:CONFIG][@REVISION]"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class HubName(NamedTuple):
    """A dataset of the Hugging Face Hub.

    Attributes:
        repository: ``org/name``, or ``name`` of the Hub's own.
        config: The configuration, which some datasets have several of; ``None`` for the only or the default one.
        revision: A branch, a tag or a commit; ``None`` for the main branch.
    """

    repository: str
    config: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "HubName":
        """Read ``NAME[:CONFIG][@REVISION]``.

        Raises:
            DatasetError: the text is not of this form.

        Examples:
            >>> HubName.parse("org/name:full@v1.0")
            HubName(repository='org/name', config='full', revision='v1.0')
            >>> HubName.parse("cifar10@refs/convert/parquet")
            HubName(repository='cifar10', config=None, revision='refs/convert/parquet')
            >>> HubName.parse("org/name:")
            Traceback (most recent call last):
            ...
            gmje_bench.errors.DatasetError: 'org/name:' is not of the form NAME[:CONFIG][@REVISION]: no CONFIG after ':'
        """
        head, at, revision = text.strip().partition("@")
        repository, colon, config = head.partition(":")
        wrong = None
        if not _REPOSITORY.fullmatch(repository):
            wrong = f"{repository!r} is not the name of a dataset, such as org/name"
        elif colon and not config:
            wrong = "no CONFIG after ':'"
        elif at and not revision:
            wrong = "no REVISION after '@'"
        elif len(text.split()) > 1:
            wrong = "it holds a space"
        if wrong:
            raise DatasetError(f"{text!r} is not of the form {HUB_FORM}: {wrong}")
        return cls(repository, config or None, revision or None)


def braces(pattern: str) -> list[str]:
    """The patterns that one with braces stands for, in order: ``{0..9}`` a range of numbers, ``{a,b}`` some words.

    Args:
        pattern: A text; braces must not be nested.

    Examples:
        >>> braces("train-{008..010}.tar")
        ['train-008.tar', 'train-009.tar', 'train-010.tar']
        >>> braces("{train,val}-*.tar")
        ['train-*.tar', 'val-*.tar']
    """
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    head, tail = pattern[: found.start()], pattern[found.end() :]
    if bounds := _RANGE.fullmatch(found[1]):
        first, last = bounds.groups()
        words = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        words = found[1].split(",")
    return [whole for word in words for whole in braces(f"{head}{word}{tail}")]
