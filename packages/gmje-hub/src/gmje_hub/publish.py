"""From a folder on disk to a repository: the model, what was measured of it, and a card that says so."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gmje_hub.card import documents, is_generated
from gmje_hub.errors import ModelNotFoundError
from gmje_hub.evaluation import read_evaluation
from gmje_hub.folder import CONFIG, LARGEST_DOCUMENT, PREPROCESSOR, README, WEIGHTS, read_bounded, read_folder

if TYPE_CHECKING:
    from gmje_hub.remote import Pushed

__all__ = ["push_folder", "require_repo_id"]


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    message: str = "Push model using gmje-hub",
    branch: str | None = None,
    private: bool | None = None,
    create_pr: bool = False,
    overwrite_card: bool = False,
) -> "Pushed":
    """Publish the model of a folder with a card.

    The card has the numbers of the folder ``evaluation`` in it, where there is one. A card in the folder that was
    written by hand goes along instead.

    Args:
        folder: A folder with ``config.json`` and ``model.safetensors``.
        repo_id: ``org/name``; the repository is made where it does not exist.
        message: Message of the commit.
        branch: Branch of the repository, which is made where it does not exist; the default branch where missing.
        private: Whether a repository that is made is private.
        create_pr: Open a pull request instead.
        overwrite_card: Replace even a card of the repository that was written by hand.

    Raises:
        HubError: the folder is no whole model, or the Hub did not take it; nothing was committed.
    """
    require_repo_id(repo_id)
    files = read_folder(folder)
    evaluation, pictures = read_evaluation(folder) or (None, None)
    from gmje_hub.model import GMJEModel  # it imports torch, which waits until the folder is known to hold a model
    from gmje_hub.remote import push

    GMJEModel.from_pretrained(folder.resolve())  # a model that cannot be loaded is not published
    preprocessing = files.preprocessing
    return push(
        repo_id,
        {
            CONFIG: files.config.to_json().encode(),
            WEIGHTS: files.weights,
            PREPROCESSOR: preprocessing.to_json().encode() if preprocessing else None,
            **documents(files.config, repo_id, preprocessing, evaluation, pictures),
            **_card_by_hand(folder),
        },
        message=message,
        branch=branch,
        private=private,
        create_pr=create_pr,
        overwrite_card=overwrite_card,
    )


def require_repo_id(name: str) -> None:
    """Raise :class:`ModelNotFoundError` unless a name is ``org/name``."""
    from gmje_hub.remote import is_repo_id

    if not is_repo_id(name):
        raise ModelNotFoundError(f"{name!r} is not the name of a repository, which is org/name")


def _card_by_hand(folder: Path) -> dict[str, bytes]:
    """The card of a folder, unless there is none or it can be written anew, for the repository that it goes to."""
    if not os.path.lexists(folder / README):
        return {}
    content = read_bounded(folder / README, LARGEST_DOCUMENT)
    return {} if is_generated(content.decode("utf-8", errors="replace")) else {README: content}
