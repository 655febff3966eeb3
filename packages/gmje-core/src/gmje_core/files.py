"""Files that are written whole or not at all."""

import os
import tempfile
from pathlib import Path

__all__ = ["write_atomic"]


def write_atomic(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that a crash leaves either the old one or the new one, whole.

    The content goes to a temporary file in the same folder, which is flushed to the disk and then renamed.

    Args:
        path: Path of the file; its folder must exist.
        content: The whole content.

    Raises:
        OSError: the file cannot be written.

    Examples:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_atomic(folder / "a.txt", b"whole")
        >>> [(file.name, file.read_bytes()) for file in folder.iterdir()]
        [('a.txt', b'whole')]
    """
    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        # The error of a full disk does not name the file.
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(target)
        raise
