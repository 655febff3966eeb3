"""From a repository to a folder on disk: the model and its documents, whole or not at all."""

from pathlib import Path

from gmje_core.files import write_folder
from gmje_hub.errors import HubError
from gmje_hub.folder import CONFIG, PREPROCESSOR, WEIGHTS
from gmje_hub.publish import require_repo_id
from gmje_hub.remote import fetch, fetch_documents
from gmje_hub.weights import check_weights

__all__ = ["pull_folder"]


def pull_folder(
    repo_id: str,
    folder: Path | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> tuple[Path, str]:
    """Fetch a model into the cache, check it, and copy it with its card and its evaluation to a folder.

    Args:
        repo_id: ``org/name``.
        folder: Folder to make, which must not exist; ``None`` for the cache alone.
        revision: Branch, tag or full commit hash.
        token: Access token of the user; ``None`` for the stored one, ``False`` for none.
        cache_dir: Folder that downloads are kept in; ``HF_HUB_CACHE`` where missing.

    Returns:
        Path of the weights, and the hash of the commit.

    Raises:
        HubError: the model cannot be read or is not whole, or the folder exists; nothing was written.
        OSError: the folder cannot be written.
    """
    require_repo_id(repo_id)
    if folder is not None and folder.exists():
        raise HubError(f"{folder} exists; choose another folder")
    files, commit = fetch(repo_id, revision=revision, token=token, cache_dir=cache_dir)
    check_weights(files)
    content = {WEIGHTS: files.read_weights()}
    if folder is None:
        return files.weights, commit
    content |= fetch_documents(repo_id, commit, token=token, cache_dir=cache_dir)
    content[CONFIG] = files.config.to_json().encode()
    if files.preprocessing is not None:
        content[PREPROCESSOR] = files.preprocessing.to_json().encode()
    write_folder(folder, content)
    return folder / WEIGHTS, commit
