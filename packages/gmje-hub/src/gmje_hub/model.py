"""The public model: the module of gmje_core with saving, loading and publishing, as JSON and safetensors."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

import gmje_core
from gmje_core import ConfigError, GMJEError, NotFittedError
from gmje_core.files import write_atomic
from gmje_hub.errors import CorruptModelError, UnsavableModelError
from gmje_hub.evaluation import SCORES, Evaluation
from gmje_hub.folder import CONFIG, PREPROCESSOR, WEIGHTS, ModelFiles
from gmje_hub.weights import check_weights, mismatch_of, not_finite

__all__ = ["GMJEModel"]


class GMJEModel(gmje_core.JointEmbeddingModel):
    """:class:`gmje_core.JointEmbeddingModel` that can be saved, loaded, published and fetched.

    Attributes:
        revision: Hash of the commit that the model was loaded from; ``None`` for a local or a new model.

    Examples:
        >>> import tempfile
        >>> from gmje_core import GMJEConfig
        >>> config = GMJEConfig(backbone="smallconv", in_channels=1, image_size=28, dim=8, hidden=16,
        ...                     criterion_options={"components": 4})
        >>> folder = Path(tempfile.mkdtemp()) / "model"
        >>> GMJEModel(config).save_pretrained(folder)
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'config.json', 'model.safetensors']
        >>> GMJEModel.from_pretrained(folder).config == config
        True
    """

    revision: str | None = None

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: Mapping[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write ``config.json``, ``model.safetensors``, a card and, where it is known, ``preprocessor_config.json``.

        Each file appears whole or not at all.
        The weights come first, so a new folder with a configuration has the weights that belong to it. Where the
        folder held another model and the machine stops between the two, loading names weights of other shapes;
        save to a new folder where even options of the criterion must never be mixed up. A ``README.md`` written by
        hand stays.

        Args:
            save_directory: Folder, which is made where it does not exist.
            repo_id: Repository to push to; the folder's name with ``push_to_hub`` where missing.
            push_to_hub: Publish the model, too.
            model_card_kwargs: Fields of the card's metadata, such as ``license``, ``base_model`` or ``tags``.
            push_to_hub_kwargs: What else :meth:`push_to_hub` takes.

        Returns:
            URL of the commit where the model was pushed.

        Raises:
            UnsavableModelError: the state could not be loaded again, because it was cast to another dtype than the
                configuration builds, its modules were changed, or it holds NaN.
            CardError: a field that cannot stand in a card.
            OSError: the folder cannot be written.
            HubError: see :meth:`push_to_hub`.
        """
        from gmje_hub.card import check_metadata
        from gmje_hub.card_file import write_card

        if push_to_hub_kwargs and not push_to_hub:
            raise TypeError(f"save_pretrained takes {', '.join(push_to_hub_kwargs)} only with push_to_hub=True")
        metadata = check_metadata(model_card_kwargs)
        content = self._to_files(str(save_directory))
        path = Path(save_directory)
        path.mkdir(parents=True, exist_ok=True)
        (path / SCORES).unlink(missing_ok=True)  # they were measured of the weights before
        for name in (WEIGHTS, PREPROCESSOR, CONFIG):
            if name in content:
                write_atomic(path / name, content[name])
            else:
                (path / name).unlink(missing_ok=True)  # the file of another model
        write_card(path, metadata)
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or path.name, model_card_kwargs=metadata, **push_to_hub_kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """The model that :meth:`save_pretrained` wrote or :meth:`push_to_hub` published, to be evaluated.

        ``"org/name"`` is always a repository, whatever folders there are; a path with a leading ``./``, another
        number of parts, or a :class:`~pathlib.Path` is a folder. The revision is resolved to one commit, which all
        files are of, and which becomes :attr:`revision`. Nothing is unpickled, and no memory is taken for weights
        before their header fits the configuration.

        Args:
            pretrained_model_name_or_path: Repository id or local folder.
            force_download: Fetch even what is in the cache.
            token: Access token of the user; ``None`` for the stored one, ``False`` for none.
            cache_dir: Folder that downloads are kept in.
            local_files_only: Make no request.
            revision: Branch, tag or full commit hash; a folder has none.
            device: Where the model goes once it is loaded; the CPU where missing.
            dtype: Type that the encoder computes in, such as ``torch.bfloat16``. Embeddings and the density are in
                float32 at least, because covariances need the digits. Such a model cannot be saved.

        Raises:
            ValueError: a ``dtype`` that is not floating point.
            ModelNotFoundError: no such folder, repository or revision, or a file is missing.
            AccessError: the token is not known or not allowed to read.
            HubUnavailableError: no network, or the Hub is down, and the model is not in the cache.
            UnsafeWeightsError: only pickled weights.
            CorruptModelError: a damaged or hostile file, or weights that are not those of the configuration; named.
        """
        from gmje_hub.remote import open_model

        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype must be floating point, such as torch.bfloat16, got {dtype}")
        files, commit = open_model(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        model = cls._from_files(files)
        model.revision = commit
        return model.to(device=device, dtype=dtype)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push model using gmje-hub",
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool = False,
        overwrite_card: bool = False,
        evaluation: Evaluation | None = None,
        model_card_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Publish the model with a card, in one commit.

        Args:
            repo_id: ``org/name``; the repository is made where it does not exist.
            commit_message: Message of the commit.
            private: Whether a repository that is made is private.
            token: Access token of the user; ``None`` for the stored one.
            branch: Branch of the repository, which is made where it does not exist.
            create_pr: Open a pull request instead.
            overwrite_card: Replace even a card that was written by hand.
            evaluation: What was measured of the model, for the card.
            model_card_kwargs: Fields of the card's metadata, such as ``license``, ``base_model`` or ``tags``; without a
                licence the card says that none was stated.

        Returns:
            URL of the commit or the pull request.

        Raises:
            UnsavableModelError, CardError: see :meth:`save_pretrained`.
            AccessError, HubUnavailableError: nothing was committed.
            PushConflictError: somebody else committed meanwhile; nothing was committed.
        """
        from gmje_hub.card import documents
        from gmje_hub.remote import push

        return push(
            repo_id,
            {
                PREPROCESSOR: None,
                **self._to_files(repo_id),
                **documents(self.config, repo_id, self.preprocessing, evaluation, metadata=model_card_kwargs),
            },
            message=commit_message,
            private=private,
            token=token,
            branch=branch,
            create_pr=create_pr,
            overwrite_card=overwrite_card,
        ).url

    def _to_files(self, place: str) -> dict[str, bytes]:
        state = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        mismatch = mismatch_of(state, self.config) or not_finite(state)
        if mismatch:
            raise UnsavableModelError(
                f"{place} was not written, as it could not be loaded: {mismatch} (half(), bfloat16() and double() "
                "change what a configuration builds; use torch.autocast instead)"
            )
        files = {WEIGHTS: save(state), CONFIG: self.config.to_json().encode()}
        if self.preprocessing is not None:
            try:
                self.preprocessing.check_fits(self.config)
            except ConfigError as error:
                raise UnsavableModelError(f"{place} was not written: {error}") from error
            files[PREPROCESSOR] = self.preprocessing.to_json().encode()
        return files

    @classmethod
    def _from_files(cls, files: ModelFiles) -> Self:
        check_weights(files)
        try:
            state = load(files.read_weights())
        except SafetensorError as error:
            raise CorruptModelError(f"{files.weights} is not a whole safetensors file: {error}") from error
        if wrong := not_finite(state):
            raise CorruptModelError(f"{files.weights} does not fit {CONFIG}: {wrong}")
        model = cls(files.config, files.preprocessing)
        model.load_state_dict(state)
        model.eval()
        try:
            model.density()
        except NotFittedError:  # the model was saved before its first step
            pass
        except GMJEError as error:
            raise CorruptModelError(f"{files.weights} holds no valid density: {error}") from error
        return model
