"""Files that are written whole or not at all."""

import os
import uuid
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
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_atomic(folder / "a.txt", b"whole")
        >>> [(file.name, file.read_bytes()) for file in folder.iterdir()]
        [('a.txt', b'whole')]
    """
    target = Path(path)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    try:
        with open(temporary, "xb") as stream:  # the system applies the user's umask, which `mkstemp` would not
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # The error of a full disk does not name the file.
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(target)
        raise
    if os.name == "posix":  # the new name outlives a power failure only once the folder is on the disk, too
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
