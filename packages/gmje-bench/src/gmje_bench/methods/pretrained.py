"""Published models as methods: what ``--from-pretrained`` names is evaluated like other methods, but not trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gmje_bench.errors import OptionError
from gmje_bench.methods import METHODS, Build, Method, Objective, Setting, check_known

__all__ = ["register_model"]


def register_model(name: str) -> Method:
    """Add a trained model to the registry, as ``org--name`` of a repository or under the name of a folder.

    Its files are fetched and checked at once, so that an error shows before anything is trained.

    Args:
        name: ``org/name``, ``org/name@revision``, or the path of a folder.

    Returns:
        The entry; its source, which results record, says the repository's commit, or the hash of a folder's weights.

    Raises:
        OptionError: there is no such model, it is damaged, or it has the name of a method that is there already.
    """
    import hashlib

    from gmje_hub import HubError
    from gmje_hub.folder import read_folder
    from gmje_hub.remote import fetch, is_repo_id

    repo_id, _, revision = name.partition("@")
    try:
        if is_repo_id(repo_id):
            _, commit = fetch(repo_id, revision=revision or None)
            key, source = repo_id.replace("/", "--"), f"{repo_id}@{commit}"
            load = _loader(key, repo_id, commit)
        else:
            folder = Path(name).expanduser().resolve()
            content = read_folder(folder).read_weights()
            key, source = folder.name, f"sha256:{hashlib.sha256(content).hexdigest()}"
            load = _loader(key, folder, None)
    except HubError as error:
        raise OptionError(f"--from-pretrained {name}: {error}") from error
    if key in METHODS and METHODS[key].source != source:
        raise OptionError(f"--from-pretrained {name}: there is a method {key!r} already; rename the folder")
    METHODS[key] = Method(key, f"trained before: {name}", load, source, pretrained=True)
    return METHODS[key]


def _loader(key: str, place: str | Path, commit: str | None) -> Any:
    def load() -> Build:
        def build(setting: Setting, options: Mapping[str, Any]) -> Objective:
            from gmje_hub import GMJEModel, HubError

            check_known(key, options, ())
            try:
                model = GMJEModel.from_pretrained(place, revision=commit)
            except HubError as error:
                raise OptionError(f"method {key}: {error}") from error
            return Objective(model.criterion, trains=False, model=model)

        return build

    return load
