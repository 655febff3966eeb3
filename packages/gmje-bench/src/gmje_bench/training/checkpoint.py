"""A checkpoint is everything that training goes on from, in one safetensors file that is written whole.

A run that was stopped at any moment and resumed ends with the numbers of one that never was: weights, the optimiser's
moments, the random state and the losses so far come back bit for bit.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from gmje_bench.errors import RunFolderError
from gmje_bench.training.online_probe import OnlineProbe
from gmje_core.files import write_atomic

__all__ = ["Checkpoint", "Progress"]

History = list[dict[str, float | str]]


@dataclass
class Progress:
    """Where training stands.

    Attributes:
        epoch: Number of epochs that are over.
        step: Number of steps of the next epoch that are over.
        losses: Losses of these steps.
        history: Loss and diagnostics of every epoch that is over.
        seconds: Wall-clock seconds that this took, those before an interruption included.
    """

    epoch: int = 0
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    history: History = field(default_factory=list)
    seconds: float = 0.0


class Checkpoint:
    """The checkpoint of one method with one seed.

    Args:
        path: The file, which need not exist.
        identity: What must be the same for training to go on: options, data, versions. Plain data.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path, self._identity = path, json.dumps(identity, sort_keys=True)

    def save(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        scaler: Any | None = None,
        online: OnlineProbe | None = None,
    ) -> None:
        """Write the file; an earlier one stays whole until this one is.

        Args:
            module: What is trained.
            optimizer: The optimiser of the module.
            progress: Where training stands.
            scaler: The scaler of gradients in float16, if there is one.
            online: The probe that is trained along, if there is one.
        """
        tensors = {f"module.{key}": value for key, value in _state(module).items()}
        tensors |= {
            f"optimizer.{index}.{key}": torch.as_tensor(value)
            for index, state in optimizer.state_dict()["state"].items()
            for key, value in state.items()
            if value is not None
        }
        tensors |= {f"random.{key}": value for key, value in _random_state().items()}
        if online is not None:
            tensors |= {f"online.{key}": value for key, value in online.state().items()}
        if progress.losses:
            tensors["losses"] = torch.stack(progress.losses)
        described = {
            "identity": self._identity,
            "epoch": str(progress.epoch),
            "step": str(progress.step),
            "seconds": str(progress.seconds),
            "history": json.dumps(progress.history),  # The history may hold infinities, which Python's JSON can write.
            "scaler": json.dumps(scaler.state_dict() if scaler is not None else {}),
        }
        content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, described)
        self.path.parent.mkdir(exist_ok=True)
        write_atomic(self.path, content)

    def restore(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: Any | None = None,
        online: OnlineProbe | None = None,
    ) -> Progress:
        """Put the state of the file into module, optimiser and random sources; without a file, training starts anew.

        Raises:
            RunFolderError: the file is damaged or belongs to another run; nothing is changed.
        """
        if not self.path.exists():
            return Progress()
        tensors, described = self._read()
        if described.get("identity") != self._identity:
            raise RunFolderError(f"{self.path} is a checkpoint of other options, data or versions; remove it to start")
        try:
            state = _part(tensors, "module.")
            if mismatch := sorted(state.keys() ^ _state(module).keys()):
                raise ValueError(f"it lacks or has too much: {', '.join(mismatch[:3])}")
            progress = Progress(
                int(described["epoch"]),
                int(described["step"]),
                list(tensors["losses"]) if "losses" in tensors else [],
                json.loads(described["history"]),
                float(described.get("seconds", 0.0)),  # Files of earlier versions have none.
            )
            unsaved = dict(module.named_buffers()).keys() - module.state_dict().keys()
            with torch.no_grad():
                for key, buffer in module.named_buffers():
                    if key in unsaved:
                        buffer.copy_(state[key])
            module.load_state_dict({key: value for key, value in state.items() if key not in unsaved})
            _restore_optimizer(optimizer, _part(tensors, "optimizer."))
            if scaler is not None:
                scaler.load_state_dict(json.loads(described["scaler"]))
            if online is not None:
                online.load_state(_part(tensors, "online."))
            _set_random_state(_part(tensors, "random."))
        except (KeyError, ValueError, RuntimeError) as error:
            raise self._damaged(error) from error
        return progress

    def remove(self) -> None:
        """Remove the file, once its results are written."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        try:
            with safe_open(self.path, "pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> RunFolderError:
        return RunFolderError(f"{self.path} is damaged ({error}); remove it to train this method from the start")


def _state(module: nn.Module) -> dict[str, Tensor]:
    """All tensors of a module: its state, and buffers that it would not save, such as the queue of lightly's loss."""
    return {**dict(module.named_buffers()), **module.state_dict()}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    # Files hold tensors in row order; fused optimisers need them in the parameter's order, such as channels-last.
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                same = torch.empty_strided(value.shape, parameter.stride(), dtype=value.dtype, device=value.device)
                values[key] = same.copy_(value)


def _random_state() -> dict[str, Tensor]:
    """The states of torch's global random sources, which layers such as dropout draw from."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_state(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
