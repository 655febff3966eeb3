"""Files that are written whole or not at all."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

__all__ = ["write_atomic", "write_folder"]


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


def write_folder(folder: Path, content: Mapping[str, bytes]) -> None:
    """Make a folder of files that appears whole or not at all.

    Args:
        folder: Folder to make, which must not exist; folders above it are made.
        content: Bytes by relative path.

    Raises:
        OSError: the folder cannot be written, or is there and not empty.

    Examples:
        >>> folder = Path(tempfile.mkdtemp()) / "new"
        >>> write_folder(folder, {"a.txt": b"1", "below/b.txt": b"2"})
        >>> sorted(path.name for path in folder.rglob("*.txt"))
        ['a.txt', 'b.txt']
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, data in content.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(partial / name, data)
        partial.chmod(0o755)
        os.rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
