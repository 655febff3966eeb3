"""From a folder on disk to a repository: the model, what was measured of it, and a card that says so."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmje_hub.card import check_metadata, documents
from gmje_hub.card_file import folder_card
from gmje_hub.errors import CardError, ModelNotFoundError
from gmje_hub.evaluation import read_evaluation
from gmje_hub.folder import CONFIG, PREPROCESSOR, README, WEIGHTS, read_folder

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
    token: str | bool | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> "Pushed":
    """Publish the model of a folder with a card.

    The card has the numbers of the folder ``evaluation`` in it, where there is one, and keeps the licence and the other
    fields that the folder's own card was given. A card in the folder that was written by hand goes along instead.

    Args:
        folder: A folder with ``config.json`` and ``model.safetensors``.
        repo_id: ``org/name``; the repository is made where it does not exist.
        message: Message of the commit.
        branch: Branch of the repository, which is made where it does not exist; the default branch where missing.
        private: Whether a repository that is made is private.
        create_pr: Open a pull request instead.
        overwrite_card: Replace even a card of the repository that was written by hand.
        token: Access token of the user; ``None`` for the stored one.
        metadata: Fields of the card's metadata, such as ``license``; they come before those of the folder's card.

    Raises:
        HubError: the folder is no whole model, a field is wrong, or the Hub did not take it; nothing was committed.
    """
    require_repo_id(repo_id)
    given = check_metadata(metadata)
    files = read_folder(folder)
    by_hand, known = folder_card(folder)
    if by_hand is not None and given:
        raise CardError(
            f"{folder / README} was written by hand and is pushed as it is: write {', '.join(given)} into its head"
        )
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
            **documents(files.config, repo_id, preprocessing, evaluation, pictures, known | given),
            **({} if by_hand is None else {README: by_hand}),
        },
        message=message,
        branch=branch,
        private=private,
        token=token,
        create_pr=create_pr,
        overwrite_card=overwrite_card,
    )


def require_repo_id(name: str) -> None:
    """Raise :class:`ModelNotFoundError` unless a name is ``org/name``."""
    from gmje_hub.remote import is_repo_id

    if not is_repo_id(name):
        raise ModelNotFoundError(f"{name!r} is not the name of a repository, which is org/name")
