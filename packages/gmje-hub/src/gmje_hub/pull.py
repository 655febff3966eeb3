"""From a repository to a folder on disk: the model and its documents, whole or not at all."""

import os
import shutil
import tempfile
from pathlib import Path

from gmje_core.files import write_atomic
from gmje_hub.errors import HubError
from gmje_hub.folder import CONFIG, PREPROCESSOR, WEIGHTS
from gmje_hub.publish import require_repo_id
from gmje_hub.remote import fetch, fetch_documents
from gmje_hub.weights import check_weights

__all__ = ["pull_folder"]


def pull_folder(repo_id: str, folder: Path | None = None, *, revision: str | None = None) -> tuple[Path, str]:
    """Fetch a model into the cache, check it, and copy it with its card and its evaluation to a folder.

    Args:
        repo_id: ``org/name``.
        folder: Folder to make, which must not exist; ``None`` for the cache alone.
        revision: Branch, tag or full commit hash.

    Returns:
        Path of the weights, and the hash of the commit.

    Raises:
        HubError: the model cannot be read or is not whole, or the folder exists; nothing was written.
        OSError: the folder cannot be written.
    """
    require_repo_id(repo_id)
    if folder is not None and folder.exists():
        raise HubError(f"{folder} exists; choose another folder")
    files, commit = fetch(repo_id, revision=revision)
    check_weights(files)
    content = {WEIGHTS: files.read_weights()}
    if folder is None:
        return files.weights, commit
    content |= fetch_documents(repo_id, commit)
    content[CONFIG] = files.config.to_json().encode()
    if files.preprocessing is not None:
        content[PREPROCESSOR] = files.preprocessing.to_json().encode()
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
    return folder / WEIGHTS, commit
