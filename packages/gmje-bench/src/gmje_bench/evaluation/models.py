"""What can be evaluated without training it again: saved models, repositories, timm's and torchvision's, callables.

Each becomes a :class:`~gmje_bench.training.module.JointEmbedding`, which is what features are extracted from.
"""

import difflib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gmje_bench.datasets.base import ImageData
from gmje_bench.errors import OptionError, RunFolderError, did_you_mean
from gmje_bench.methods import METHODS, Objective
from gmje_bench.training.module import JointEmbedding, build_module, of_model
from gmje_core import GMJEError, Preprocessing
from gmje_core.seeds import seeded

__all__ = ["Model", "OpenedModel", "open_model"]

#: What :func:`open_model` takes; a function maps images ``(b, C, S, S)`` in [0, 1] to features ``(b, F)``.
Model = str | Path | nn.Module | Callable[[Tensor], Tensor]

PREFIXES = ("timm:", "torchvision:")


class OpenedModel(NamedTuple):
    """A model ready to be evaluated.

    Attributes:
        name: A short name for tables.
        module: The network, in evaluation mode.
        source: ``sha256:`` over its architecture and weights; empty for a module or a function, because nothing tells
            what it computes.
    """

    name: str
    module: JointEmbedding
    source: str


class CallableBackbone(nn.Module):
    """A function from images to features as a backbone.

    Args:
        function: Maps float32 ``(b, C, S, S)`` to ``(b, F)``.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(b, F)``, float32.

        Raises:
            OptionError: the function gives something else.
        """
        features = self.function(images)
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise OptionError(f"a model must map images {tuple(images.shape)} to features (b, F), but it gave {got}")
        return features.float()


class GreyAsColour(nn.Module):
    """Grey images as images of three equal channels."""

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(b, 3, S, S)`` of ``(b, 1, S, S)``."""
        return images.expand(-1, 3, -1, -1)


def open_model(model: Model, data: ImageData, *, pretrained: bool = True) -> OpenedModel:
    """Open a model by name, or take one that is there.

    Args:
        model: ``timm:NAME``, ``torchvision:NAME`` (with its default weights), the folder of a saved model such as
            ``runs/NAME/models/METHOD-seed0`` (of a baseline too), ``org/name`` or ``org/name@revision`` on the Hub, a
            module, or a function. Modules and functions get float32 images in [0, 1].
        data: The images that it will be shown.
        pretrained: Whether models of timm and torchvision get their published weights; random ones otherwise.

    Raises:
        OptionError: there is no such model, it cannot be had, or it does not take these images.

    Examples:
        >>> import torch
        >>> from gmje_bench.datasets import load_dataset
        >>> data = load_dataset("embedded", limit=20)
        >>> open_model(lambda images: images.flatten(1), data).name
        'function'
        >>> open_model("tim:resnet18", data)
        Traceback (most recent call last):
        ...
        gmje_bench.errors.OptionError: no model 'tim:resnet18' (give timm:NAME, ...)
    """
    if isinstance(model, nn.Module) or callable(model):
        return of_callable(model, data)
    with seeded(0):  # Random weights are the same in every call, so that their features can be cached.
        return of_name(str(model), data, pretrained)


def of_name(name: str, data: ImageData, pretrained: bool) -> OpenedModel:
    """A model by name; see :func:`open_model`."""
    for prefix, open_named in zip(PREFIXES, (of_timm, of_torchvision), strict=True):
        if name.startswith(prefix):
            return open_named(name.removeprefix(prefix), data, pretrained)
    if Path(name).expanduser().is_dir():
        return of_folder(Path(name).expanduser(), data)
    return of_repository(name, data)


def of_callable(function: Callable[[Tensor], Tensor], data: ImageData) -> OpenedModel:
    """A module or a function, which gets images in [0, 1] as they are."""
    backbone = CallableBackbone(function)
    module = frozen(backbone, (0.0,) * data.channels, (1.0,) * data.channels, data)
    if isinstance(function, nn.Module):
        name = type(function).__name__
    else:
        name = getattr(function, "__name__", "function").strip("<>")
    return OpenedModel("function" if name == "lambda" else name, module, "")


def of_timm(name: str, data: ImageData, pretrained: bool) -> OpenedModel:
    """A model of timm without its classifier, with the normalisation that its weights were trained with."""
    from gmje_core.models.timm_backbone import TimmBackbone

    spec = f"timm:{name}"
    try:
        backbone = TimmBackbone(name, in_channels=data.channels, image_size=data.image_size, pretrained=pretrained)
    except GMJEError as error:
        raise OptionError(str(error)) from error
    except Exception as error:  # What a download raises depends on the library below.
        raise no_weights(spec, error) from error
    settings = backbone.data_settings
    mean, std = (for_channels(settings[key], data.channels) for key in ("mean", "std"))
    return OpenedModel(spec, frozen(backbone, mean, std, data), hash_of(spec, backbone))


def of_torchvision(name: str, data: ImageData, pretrained: bool) -> OpenedModel:
    """A classifier of torchvision without its last layer, with its default weights; grey images are seen as colours."""
    from torchvision import models

    spec = f"torchvision:{name}"
    known = models.list_models(module=models)
    if name not in known:
        raise OptionError(f"torchvision has no classifier {name!r}{did_you_mean(name, known)}")
    weights = models.get_model_weights(name).DEFAULT if pretrained else None
    try:
        network = models.get_model(name, weights=weights)
    except Exception as error:  # What a download raises depends on the library below.
        raise no_weights(spec, error) from error
    without_classifier(network, spec)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    if weights is not None:
        transforms = weights.transforms()
        mean, std = tuple(transforms.mean), tuple(transforms.std)
    backbone = CallableBackbone(network if data.channels == 3 else nn.Sequential(GreyAsColour(), network))
    mean, std = (for_channels(values, data.channels) for values in (mean, std))
    return OpenedModel(spec, frozen(backbone, mean, std, data), hash_of(spec, network))


def without_classifier(network: nn.Module, spec: str) -> None:
    """Replace the last linear layer of a classifier by the identity, in place."""
    layers = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise OptionError(f"{spec} has no linear classifier to take off")
    parent, _, last = layers[-1].rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())


def of_folder(folder: Path, data: ImageData) -> OpenedModel:
    """A saved model: one of our own with its configuration, or a baseline of a run."""
    if (folder / "config.json").is_file():
        return of_repository(str(folder), data)
    return of_run(folder, data)


def of_run(folder: Path, data: ImageData) -> OpenedModel:
    """A method of a run, built again from the run's options, with the weights in ``RUN/models/METHOD-seedN``."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from gmje_bench.runs import read_results
    from gmje_bench.suites import Suite

    weights = folder / "model.safetensors"
    method, _, seed = folder.resolve().name.rpartition("-seed")
    if not weights.is_file() or not seed.isdecimal():
        raise OptionError(
            f"{folder} is not the folder of a model: it needs config.json, or to be RUN/models/METHOD-seedN"
        )
    try:
        results = read_results(folder.resolve().parents[1])
    except RunFolderError as error:
        raise OptionError(f"{folder} has no config.json, and its run cannot be read: {error}") from error
    dataset = results.dataset
    if dataset is None:
        raise OptionError(f"the run of {folder} has no images")
    if method not in METHODS:
        raise OptionError(f"{folder}: unknown method {method!r}; a method of your own needs its --method-file here too")
    trained, here = results.sources.get(method, ""), METHODS[method].source
    if trained != here:
        raise OptionError(
            f"{folder} was trained by another {method!r} ({trained or 'built in'}) than is given here "
            f"({here or 'built in'}): give its file or package as it was"
        )
    # Tasks play no part here, and those of files need not be registered.
    suite = Suite.model_validate(results.options | {"tasks": []})
    module = build_module(
        method, suite, data.channels, int(seed), classes=dataset.classes, image_size=dataset.image_size
    )
    try:
        module.load_state_dict(load_file(weights))
    except (RuntimeError, OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"{weights} does not fit {method} on images of {data.channels} channels: {reason}") from error
    built: dict[str, Any] = {"network": suite.network.model_dump(), "method": method, "source": METHODS[method].source}
    built |= {"options": suite.method.get(method, {}), "image_size": dataset.image_size}
    return OpenedModel(folder.resolve().name, module.eval(), hash_of(json.dumps(built, sort_keys=True), module))


def of_repository(name: str, data: ImageData) -> OpenedModel:
    """A model that was published or saved with its configuration."""
    from gmje_hub import GMJEModel, HubError
    from gmje_hub.remote import is_repo_id

    repo_id, _, revision = name.partition("@")
    folder = Path(name)
    if not folder.is_dir() and not is_repo_id(repo_id):
        siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        close = difflib.get_close_matches(folder.name, siblings, n=1)
        hint = f"; did you mean {folder.parent / close[0]}?" if close else ""
        raise OptionError(
            f"no model {name!r}{hint} (give timm:NAME, torchvision:NAME, the folder of a saved model, or org/name)"
        )
    try:
        place = folder if folder.is_dir() else repo_id
        model = GMJEModel.from_pretrained(place, revision=revision or None)
    except HubError as error:
        raise OptionError(f"{name}: {error}") from error
    objective = Objective(model.criterion, trains=False, model=model)
    title = folder.resolve().name if folder.is_dir() else name
    module = of_model(objective, title, data.channels, data.image_size)
    return OpenedModel(title, module.eval(), hash_of(model.config.to_json(), module))


def frozen(backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], data: ImageData) -> JointEmbedding:
    """A backbone without a projection head or a criterion, so that features and embeddings are the same."""
    preprocessing = Preprocessing(size=data.image_size, image_mean=mean, image_std=std)
    objective = Objective(nn.Identity(), trains=False)
    return JointEmbedding(backbone, nn.Identity(), objective, preprocessing=preprocessing).eval()


def for_channels(values: Any, channels: int) -> tuple[float, ...]:
    """Numbers of three channels for that many, which is their mean for one.

    Examples:
        >>> for_channels((0.25, 0.5, 0.75), 1)
        (0.5,)
    """
    numbers = tuple(float(value) for value in values)
    return numbers if len(numbers) == channels else (sum(numbers) / len(numbers),) * channels


def hash_of(architecture: str, module: nn.Module) -> str:
    """SHA-256 over a description of the architecture, and names, types, shapes and bytes of all parameters and buffers.

    Args:
        architecture: What tells this network from others of the same weights, such as ``timm:NAME``: layers without
            parameters and constants are not in a state.
        module: What holds the weights.
    """
    digest = hashlib.sha256(f"{architecture}\n".encode())
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def no_weights(spec: str, error: Exception) -> OptionError:
    """The error about weights that cannot be had."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return OptionError(f"the weights of {spec} cannot be had ({reason}); --random-weights evaluates it without them")
