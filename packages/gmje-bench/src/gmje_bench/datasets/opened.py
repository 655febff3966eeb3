"""Files that are kept open by the process that reads them."""

import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["OpenFiles"]


class _Closable(Protocol):
    def close(self) -> Any: ...


File = TypeVar("File", bound=_Closable)


class OpenFiles(Generic[File]):
    """The files that were read last stay open, in the process that opened them: forks would share a place in them.

    Args:
        open_file: A function that opens the file of a name.
        limit: Largest number of files that are open at a time.

    Examples:
        >>> import io
        >>> opened = OpenFiles(lambda name: io.BytesIO(name.encode()), limit=1)
        >>> first = opened.get("a")
        >>> opened.get("a") is first, opened.get("b").read(), first.closed
        (True, b'b', True)
    """

    def __init__(self, open_file: Callable[[str], File], limit: int = 128) -> None:
        self._open_file, self._limit = open_file, limit
        self._process, self._files = 0, OrderedDict[str, File]()

    def get(self, name: str) -> File:
        """The open file of a name.

        Raises:
            OSError: it cannot be opened.
        """
        if self._process != os.getpid():
            self._process, self._files = os.getpid(), OrderedDict()
        if name not in self._files:
            if len(self._files) >= self._limit:
                self._files.popitem(last=False)[1].close()
            self._files[name] = self._open_file(name)
        self._files.move_to_end(name)
        return self._files[name]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_process": 0, "_files": OrderedDict()}
