"""Repositories of a Hub: one commit resolved once, only named files fetched, a push that is one commit or nothing.

Every failure of the network or of the server is one of this package's errors, one line long.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    hf_hub_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from gmje_hub.card import is_generated
from gmje_hub.errors import (
    AccessError,
    CorruptModelError,
    HubError,
    HubUnavailableError,
    ModelNotFoundError,
    PushConflictError,
)
from gmje_hub.evaluation import EVALUATION, SCORES
from gmje_hub.folder import (
    CONFIG,
    LARGEST_DOCUMENT,
    LARGEST_JSON,
    MODEL_FILES,
    PREPROCESSOR,
    README,
    WEIGHTS,
    ModelFiles,
    brief,
    check_complete,
    check_digest,
    check_name,
    digest_of,
    read_bounded,
    read_config,
    read_files,
    read_folder,
)

__all__ = ["Pushed", "check_login", "fetch", "fetch_documents", "is_repo_id", "open_model", "push"]

# What is fetched beside a model: its card and what was measured. At most so many files of each kind.
_DOCUMENTS = (README, SCORES, f"{EVALUATION}/*.png", ".eval_results/*.yaml")
_MOST_DOCUMENTS = 32

# The name by which requests say what makes them; a Hub counts downloads by it.
_CLIENT: dict[str, Any] = {"library_name": "gmje", "library_version": version("gmje-hub")}

# The base error of the HTTP library that the client is built on, which differs between its versions.
_TransportError: type[Exception] = HfHubHTTPError.__bases__[0]


@dataclass(frozen=True)
class Pushed:
    """The result of a push.

    Attributes:
        url: Address of the commit, or of the pull request.
        commit: Hash of the commit.
        card_kept: Whether the repository has a card written by hand, which was left as it is.
    """

    url: str
    commit: str
    card_kept: bool


def is_repo_id(name: object) -> bool:
    """Whether a name means a repository, ``org/name``; anything else is the path of a folder.

    A folder of that name in the working directory changes nothing: write ``./org/name`` for it.

    Examples:
        >>> is_repo_id("org/gmje-resnet50"), is_repo_id("./org/gmje-resnet50"), is_repo_id(Path("org/name"))
        (True, False, False)
    """
    return isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII) is not None


def fetch(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> tuple[ModelFiles, str]:
    """The files of a model, all of one commit, from the cache where they are there.

    A branch or tag costs one request where its commit is in the cache already, a full commit hash none.

    Args:
        repo_id: ``org/name``.
        revision: A branch, tag or full commit hash; the default branch where missing.
        token: Access token of the user; ``None`` for the stored one, ``False`` for none.
        cache_dir: Folder that downloads are kept in; ``HF_HUB_CACHE`` where missing.
        force_download: Fetch even what is in the cache.
        local_files_only: Make no request.

    Returns:
        The checked files and the commit's hash.

    Raises:
        ModelNotFoundError, AccessError, HubUnavailableError: the repository cannot be read.
        UnsafeWeightsError: all weights are pickled; they are not even fetched.
        CorruptModelError: files that are oversized, damaged, hostile or unlike their hashes.
    """
    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser().resolve()
    with _translated_errors(repo_id, revision):
        commit = (
            HfApi(**_CLIENT)
            .resolve_revision(
                repo_id, revision=revision, token=token, cache_dir=cache, local_files_only=local_files_only
            )
            .resolved
        )
        cached = {name: try_to_load_from_cache(repo_id, name, cache_dir=cache, revision=commit) for name in MODEL_FILES}
        # The cache may also know that a model has no preprocessing.
        known = all(isinstance(cached[name], str) for name in (CONFIG, WEIGHTS)) and cached[PREPROCESSOR] is not None
        if force_download or not known:
            if local_files_only:
                raise ModelNotFoundError(f"{repo_id} at {commit} is not in the cache; local_files_only forbids to ask")
            listed = _check_listing(repo_id, commit, token)
            source: dict[str, Any] = {"revision": commit, "token": token, "cache_dir": cache, **_CLIENT}
            for name in MODEL_FILES:  # the configuration first: it says how large the weights may be
                if name == WEIGHTS:
                    _check_size(repo_id, Path(str(cached[CONFIG])).resolve(), listed[WEIGHTS])
                try:
                    cached[name] = hf_hub_download(repo_id, name, force_download=force_download, **source)
                except RemoteEntryNotFoundError:  # the cache remembers that there is no such file
                    if name in listed:
                        raise
    paths = {name: Path(path).resolve() for name, path in cached.items() if isinstance(path, str)}
    for path in paths.values():
        if not path.is_relative_to(cache):
            raise CorruptModelError(f"{path} is outside of the cache {cache}: a link leads out of it")
    return read_files(paths[CONFIG], paths[WEIGHTS], paths.get(PREPROCESSOR)), commit


def open_model(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> tuple[ModelFiles, str | None]:
    """The files of a model by its name: of a repository, see :func:`fetch`, or of a folder, which has no commit.

    Raises:
        ModelNotFoundError: no such repository or folder, or a revision of a folder.
        HubError: see :func:`fetch` and :func:`gmje_hub.folder.read_folder`.
    """
    if is_repo_id(name):
        return fetch(
            str(name),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
    if revision is not None:
        raise ModelNotFoundError(
            f"{str(name)!r} is a folder, which has no revision {revision!r}; a repository is org/name"
        )
    return read_folder(Path(name).expanduser()), None


def fetch_documents(
    repo_id: str, commit: str, *, token: str | bool | None = None, cache_dir: str | Path | None = None
) -> dict[str, bytes]:
    """The documents that go with a model, those that are there: its card, and what was measured of it.

    Args:
        repo_id: ``org/name``.
        commit: Full hash of the commit.
        token: Access token of the user; ``None`` for the stored one, ``False`` for none.
        cache_dir: Folder that downloads are kept in; ``HF_HUB_CACHE`` where missing.

    Returns:
        Content by name; no name leads out of a folder, and no file is larger than such files are.

    Raises:
        AccessError, HubUnavailableError: the repository cannot be read.
        CorruptModelError: a file that is oversized or unlike its hash.
    """
    with _translated_errors(repo_id, commit):
        sizes = _listing(repo_id, commit, token)
        kinds = (sorted(name for name in sizes if fnmatch(name, kind))[:_MOST_DOCUMENTS] for kind in _DOCUMENTS)
        names = [check_name(name) for names in kinds for name in names]
        for name in names:
            if sizes[name] > LARGEST_DOCUMENT:
                raise CorruptModelError(
                    f"{name} of {repo_id} has {sizes[name]} bytes; at most {LARGEST_DOCUMENT} is fetched"
                )
        source: dict[str, Any] = {"revision": commit, "token": token, "cache_dir": cache_dir, **_CLIENT}
        paths = {name: hf_hub_download(repo_id, name, **source) for name in names}
    found = {}
    for name, path in paths.items():
        blob = Path(path).resolve()
        found[name] = read_bounded(blob, LARGEST_DOCUMENT)
        check_digest(blob, found[name], digest_of(blob))
    return found


def push(
    repo_id: str,
    files: Mapping[str, bytes | Path | None],
    *,
    message: str,
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool = False,
    overwrite_card: bool = False,
) -> Pushed:
    """Add files to a repository in one commit, so that readers see the old revision or the new one, never a mix.

    Args:
        repo_id: ``org/name``; the repository is made where it does not exist.
        files: Content, or path, by name in the repository; ``None`` removes a file that another model may have left.
        message: Message of the commit.
        private: Whether a repository that is made is private.
        token: Access token of the user; ``None`` for the stored one.
        branch: Branch, which is made where it does not exist; the default branch where missing.
        create_pr: Open a pull request instead.
        overwrite_card: Replace a ``README.md`` that was written by hand, too.

    Raises:
        AccessError, HubUnavailableError: nothing was committed.
        PushConflictError: somebody else committed meanwhile; nothing was committed.
    """
    api = HfApi(token=token, **_CLIENT)
    with _translated_errors(repo_id, branch):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if branch is not None:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        info = api.model_info(repo_id, revision=branch)
        head = info.sha
        present = {file.rfilename for file in info.siblings or []}
        kept = README in files and README in present and not overwrite_card and _is_by_hand(repo_id, head, token)
        # The folder of what was measured is of one model: what is not in the new one goes.
        stale = {name: None for name in sorted(present) if name.startswith(f"{EVALUATION}/")}
        changes: list[CommitOperationAdd | CommitOperationDelete] = []
        for name, content in {**stale, **files}.items():
            if name == README and kept:
                continue
            if content is not None:
                changes.append(CommitOperationAdd(name, content))
            elif name in present:
                changes.append(CommitOperationDelete(name))
        commit = api.create_commit(
            repo_id,
            changes,
            commit_message=message,
            revision=branch,
            create_pr=create_pr,
            parent_commit=head,
        )
    return Pushed(commit.pr_url or commit.commit_url, commit.oid, kept)


def check_login(token: str | bool | None = None) -> None:
    """Check that the Hub is there and knows the token, before hours of work for it.

    Raises:
        AccessError: the Hub does not know the token.
        HubUnavailableError: the Hub cannot be reached.
    """
    with _translated_errors("the account", None):
        HfApi(**_CLIENT).whoami(token=token)


def _is_by_hand(repo_id: str, commit: str | None, token: str | bool | None) -> bool:
    path = Path(hf_hub_download(repo_id, README, revision=commit, token=token, **_CLIENT)).resolve()
    return not is_generated(read_bounded(path, LARGEST_DOCUMENT).decode("utf-8", errors="replace"))


def _check_listing(repo_id: str, commit: str, token: str | bool | None) -> dict[str, int]:
    """The sizes of a repository's files by name, unless they say that it is no model, before any is fetched."""
    sizes = _listing(repo_id, commit, token)
    check_complete(repo_id, set(sizes))
    for name in (CONFIG, PREPROCESSOR):
        if sizes.get(name, 0) > LARGEST_JSON:
            raise CorruptModelError(f"{name} of {repo_id} has {sizes[name]} bytes; at most {LARGEST_JSON} can be right")
    return sizes


def _check_size(repo_id: str, config: Path, size: int) -> None:
    """Refuse weights that are larger than a configuration's model, before they are fetched."""
    from gmje_hub.weights import largest_file

    largest = largest_file(read_config(config), repo_id)
    if size > largest:
        raise CorruptModelError(
            f"{WEIGHTS} of {repo_id} has {size} bytes; the model of its {CONFIG} takes at most {largest}"
        )


def _listing(repo_id: str, commit: str, token: str | bool | None) -> dict[str, int]:
    siblings = HfApi(**_CLIENT).model_info(repo_id, revision=commit, files_metadata=True, token=token).siblings or []
    return {file.rfilename: file.size or 0 for file in siblings}


@contextmanager
def _translated_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Raise errors of the client as errors of this package, one line each."""
    where = constants.ENDPOINT
    try:
        yield
    except HubError:
        raise
    except RevisionNotFoundError as error:
        raise ModelNotFoundError(f"{repo_id} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        folder = f"; a folder of this name exists here: write ./{repo_id} for it" if Path(repo_id).is_dir() else ""
        raise ModelNotFoundError(
            f"no repository {repo_id!r} at {where}, or it is private and the token does not open it{folder}"
        ) from error
    except RemoteEntryNotFoundError as error:
        raise ModelNotFoundError(f"{repo_id} lacks a file: {brief(error)}") from error
    except HfHubHTTPError as error:
        raise _error_of_status(repo_id, error) from error
    except (LocalTokenNotFoundError, HFValidationError) as error:
        kind = AccessError if isinstance(error, LocalTokenNotFoundError) else ModelNotFoundError
        raise kind(brief(error)) from error
    except (RevisionResolutionError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        if isinstance(error.__cause__, HfHubHTTPError):
            raise _error_of_status(repo_id, error.__cause__) from error
        at = f" at {revision}" if revision else ""
        raise HubUnavailableError(f"{repo_id}{at} is not in the cache, and {where} was not reached or asked") from error
    except (_TransportError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            error.filename = error.filename or constants.HF_HUB_CACHE  # the error of a full disk does not name the file
            raise  # the error is the disk's, and not the network's
        raise HubUnavailableError(
            f"the connection to {where} failed while {repo_id} was used ({type(error).__name__}: {brief(error)})"
        ) from error


def _error_of_status(repo_id: str, error: HfHubHTTPError) -> HubError:
    status = error.response.status_code
    where = constants.ENDPOINT
    if status == 401:
        return AccessError(f"{where} does not know the token; `hf auth login` stores another, HF_TOKEN sets one")
    if status in (402, 403):
        return AccessError(f"{where} forbids this to the token's user: {repo_id} (status {status})")
    if status == 412:
        return PushConflictError(f"{repo_id} was changed by somebody else meanwhile; nothing was written, push again")
    if status == 429:
        return HubUnavailableError(f"{where} asks to slow down (status 429); try again in some minutes")
    if status >= 500:
        return HubUnavailableError(f"{where} is down (status {status}); try again later")
    return HubError(f"{where} refused a request for {repo_id} (status {status}): {brief(error)}")
