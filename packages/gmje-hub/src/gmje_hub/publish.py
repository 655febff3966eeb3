"""From a folder on disk to a repository: the model, and the card that the run it is part of makes."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from gmje_hub.card import DOCUMENTS, EVAL_RESULTS, Evaluation, documents, is_generated, read_evaluation
from gmje_hub.errors import ModelNotFoundError
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
    """Publish the model of a folder; one in a run folder, ``RUN/models/METHOD-seedN``, brings the run's results.

    Of any other folder, a card written by hand goes along, and so does all that was pulled with a model's results.

    Args:
        folder: With ``config.json`` and ``model.safetensors``.
        repo_id: ``org/name``; made where it does not exist.
        message: Of the commit.
        branch: Of the repository; made where it does not exist.
        private: Whether a repository that is made is private.
        create_pr: Open a pull request instead.
        overwrite_card: Replace even a card that was written by hand.

    Raises:
        HubError: the folder is no whole model, or the Hub did not take it; nothing was committed.
    """
    require_repo_id(repo_id)
    files = read_folder(folder)
    evaluation = _evaluation(folder.resolve())
    from gmje_hub.model import GMJEModel  # torch, hence not before the folder is known to be one
    from gmje_hub.remote import push

    GMJEModel.from_pretrained(folder.resolve())  # what cannot be loaded is not published
    preprocessing = files.preprocessing
    return push(
        repo_id,
        {
            CONFIG: files.config.to_json().encode(),
            WEIGHTS: files.weights,
            PREPROCESSOR: preprocessing.to_json().encode() if preprocessing else None,
            **documents(files.config, repo_id, preprocessing, evaluation),
            **({} if evaluation else _own_documents(folder)),
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


def _own_documents(folder: Path) -> dict[str, bytes]:
    """The card, results and figures of a folder, unless there is just a card that can be written anew."""
    found = {
        name: read_bounded(folder / name, LARGEST_DOCUMENT) for name in DOCUMENTS if os.path.lexists(folder / name)
    }
    if EVAL_RESULTS not in found and is_generated(found.get(README, b"").decode("utf-8", errors="replace")):
        del found[README]
    return found


def _evaluation(folder: Path) -> Evaluation | None:
    found = re.fullmatch(r"(.+)-seed(\d+)", folder.name)
    run = folder.parent.parent
    if folder.parent.name != "models" or found is None or not (run / "results.json").exists():
        return None
    return read_evaluation(run, found[1], int(found[2]))
