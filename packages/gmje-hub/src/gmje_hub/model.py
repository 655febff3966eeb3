"""The model of gmje_core, with a folder form: ``config.json`` and ``model.safetensors``."""

import os
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

import gmje_core
from gmje_core import ConfigError, GMJEConfig
from gmje_core.files import write_atomic
from gmje_hub.errors import CorruptModelError, ModelNotFoundError, UnsafeWeightsError, UnsavableModelError

__all__ = ["CONFIG", "WEIGHTS", "GMJEModel"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class GMJEModel(gmje_core.GMJEModel):
    """:class:`gmje_core.GMJEModel` that can be saved to a folder and loaded from it.

    Examples:
        >>> import tempfile
        >>> config = GMJEConfig(backbone="smallconv", in_channels=1, image_size=28, dim=8, hidden=16,
        ...                     criterion_options={"components": 4})
        >>> folder = Path(tempfile.mkdtemp()) / "model"
        >>> GMJEModel(config).save_pretrained(folder)
        >>> sorted(path.name for path in folder.iterdir())
        ['config.json', 'model.safetensors']
        >>> GMJEModel.from_pretrained(folder).config == config
        True
    """

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` and ``model.safetensors``; each appears whole or not at all.

        The weights come first, so a new folder with a configuration has the weights that belong to it. Where the
        folder held another model and the machine stops between the two, loading names weights of other shapes;
        save to a new folder where even options of the criterion must never be mixed up.

        Args:
            folder: Made where it does not exist.

        Raises:
            UnsavableModelError: a state that could not be loaded again: cast to another dtype than the
                configuration builds, changed in its modules, or with NaN in it.
            OSError: the folder cannot be written.
        """
        state = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        with torch.device("meta"):
            mismatch = _mismatch(state, type(self)(self.config).state_dict())
        if mismatch:
            raise UnsavableModelError(
                f"{folder} was not written, as it could not be loaded: {mismatch} (half(), float() and double() change "
                "what a configuration builds; use torch.autocast instead)"
            )
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        write_atomic(path / WEIGHTS, save(state))
        write_atomic(path / CONFIG, self.config.to_json().encode())

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """The model that :meth:`save_pretrained` wrote, on the CPU and in evaluation mode.

        Args:
            folder: A local folder.

        Raises:
            ModelNotFoundError: no such folder, or a file is missing.
            UnsafeWeightsError: only pickled weights.
            CorruptModelError: a damaged file, or weights that are not those of the configuration; named.
        """
        path = Path(folder)
        if not path.is_dir():
            raise ModelNotFoundError(f"no folder {str(folder)!r}; from_pretrained reads what save_pretrained wrote")
        _check_files(path)
        try:
            config = GMJEConfig.from_json((path / CONFIG).read_text(encoding="utf-8"))
            model = cls(config)
        except (ConfigError, UnicodeDecodeError) as error:
            raise CorruptModelError(f"{path / CONFIG}: {error}") from error
        try:
            state = load((path / WEIGHTS).read_bytes())
        except SafetensorError as error:
            raise CorruptModelError(f"{path / WEIGHTS} is not a whole safetensors file: {error}") from error
        mismatch = _mismatch(state, model.state_dict())
        if mismatch:
            raise CorruptModelError(f"{path / WEIGHTS} does not fit {CONFIG}: {mismatch}")
        model.load_state_dict(state)
        return model.eval()


def _check_files(path: Path) -> None:
    pickled = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLED)
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            if name == WEIGHTS and pickled:
                raise UnsafeWeightsError(
                    f"{path} holds pickled weights only ({', '.join(pickled)}), which could run code when loaded; "
                    f"convert them to {WEIGHTS}"
                )
            raise ModelNotFoundError(f"{path} has no {name}; a model is a folder with {CONFIG} and {WEIGHTS}")


def _mismatch(found: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """What keeps a state from being loaded: names, shapes, dtypes, values; empty where nothing does."""
    problems = [f"missing {key}" for key in expected.keys() - found.keys()]
    problems += [f"unexpected {key}" for key in found.keys() - expected.keys()]
    for key in expected.keys() & found.keys():
        have, want = found[key], expected[key]
        if have.shape != want.shape or have.dtype != want.dtype:
            problems.append(f"{key} is {have.dtype} {tuple(have.shape)} instead of {want.dtype} {tuple(want.shape)}")
        elif have.is_floating_point() and not torch.isfinite(have).all():
            problems.append(f"{key} holds NaN or infinity")
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(sorted(problems)[:3]) + more
