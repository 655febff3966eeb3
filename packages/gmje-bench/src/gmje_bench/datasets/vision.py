"""The small benchmark sets that torchvision knows, held in memory."""

from pathlib import Path
from typing import Any

import torch

from gmje_bench.datasets.base import ImageData, fingerprint, resident_split
from gmje_bench.errors import DatasetError

__all__ = ["load"]


def load(name: str, root: Path) -> ImageData:
    """A torchvision dataset, downloaded to ``root`` where it is not there yet."""
    import torchvision.datasets as tv

    makers: dict[str, tuple[Any, tuple[dict[str, Any], dict[str, Any]]]] = {
        "fashion_mnist": (tv.FashionMNIST, ({"train": True}, {"train": False})),
        "cifar10": (tv.CIFAR10, ({"train": True}, {"train": False})),
        "cifar100": (tv.CIFAR100, ({"train": True}, {"train": False})),
        "stl10": (tv.STL10, ({"split": "train"}, {"split": "test"})),
    }
    maker, parts = makers[name]
    train, test = (_open(name, maker, root, options) for options in parts)
    splits = [resident_split(*_tensors(part)) for part in (train, test)]
    channels, size = splits[0].source.images.shape[1:3]  # type: ignore[attr-defined]
    digest = fingerprint(*[t for split in splits for t in (split.source.images, split.labels)])  # type: ignore[attr-defined]
    return ImageData(name, splits[0], splits[1], tuple(train.classes), channels, size, digest)


def _open(name: str, maker: Any, root: Path, options: dict[str, Any]) -> Any:
    try:
        return maker(root, download=False, **options)
    except RuntimeError:  # not there, or damaged
        try:
            root.mkdir(parents=True, exist_ok=True)
            return maker(root, download=True, **options)
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise DatasetError(
                f"{name} is not in {root} and cannot be downloaded ({reason}); put torchvision's files there by "
                "hand, or use the embedded fashion_mnist_12k"
            ) from error


def _tensors(part: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 ``(N, C, S, S)`` and labels ``(N,)`` of any of the sets."""
    images = torch.as_tensor(part.data)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2).contiguous()
    labels = part.labels if hasattr(part, "labels") else part.targets
    return images, torch.as_tensor(labels)
