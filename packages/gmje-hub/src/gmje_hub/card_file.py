"""The card in a model's folder: written anew as the model changes, unless somebody wrote it by hand."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gmje_core.files import write_atomic
from gmje_hub.card import check_metadata, chosen_metadata, documents, is_generated
from gmje_hub.evaluation import read_evaluation
from gmje_hub.folder import LARGEST_DOCUMENT, README, read_bounded, read_folder

__all__ = ["folder_card", "write_card"]


def write_card(folder: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the card of the model in a folder anew, with what was measured; one written by hand stays as it is.

    Args:
        folder: A folder with ``config.json`` and ``model.safetensors``.
        metadata: Fields of the card's metadata, such as ``license``; they come before those of the card that is there.

    Raises:
        HubError: the folder is no whole model, or a field is wrong; nothing was written.
        OSError: the folder cannot be written.
    """
    given = check_metadata(metadata)
    by_hand, known = folder_card(folder)
    if by_hand is None:
        files = read_folder(folder)
        evaluation, pictures = read_evaluation(folder) or (None, None)
        name = f"./{folder.resolve().name}"
        found = documents(files.config, name, files.preprocessing, evaluation, pictures, known | given)
        write_atomic(folder / README, found[README] or b"")


def folder_card(folder: Path) -> tuple[bytes | None, dict[str, Any]]:
    """The card of a folder where it was written by hand, and else what its author chose of the metadata.

    A card that was not written by hand is written anew, for the name that it goes to.
    """
    if not os.path.lexists(folder / README):
        return None, {}
    content = read_bounded(folder / README, LARGEST_DOCUMENT)
    text = content.decode("utf-8", errors="replace")
    return (None, chosen_metadata(text)) if is_generated(text) else (content, {})
