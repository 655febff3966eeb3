"""Features and embeddings of a split by a frozen encoder, the same numbers on any number of processes."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from gmje_bench.datasets.base import ImageData, Split
from gmje_bench.module import JointEmbedding
from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.subject import Embedded
from gmje_bench.views import TwoViews
from gmje_core.distributed import rank, world_size

__all__ = ["embed_split", "embed_views", "extract_features"]


class _Chunks(NamedTuple):
    """A split in chunks of constant composition, dealt to the processes, so that no batch differs with their number."""

    split: Split
    device: torch.device
    workers: int

    def apply(self, function: Callable[[Tensor, int], list[Tensor]]) -> list[Tensor]:
        """What the function gives for every image of the split, in order, on the CPU of every process.

        Args:
            function: A function from images uint8 ``(b, C, S, S)`` and the chunk's number to tensors of ``b`` rows.
        """
        chunks = torch.arange(len(self.split)).split(PROTOCOL.feature_batch)
        own = list(range(len(chunks)))[rank() :: world_size()]
        numbers = own or [0]  # A process without chunks still has to know the shapes.
        batches = self.split.batches([chunks[number] for number in numbers], self.workers)
        results: list[Tensor] = []
        for number, (images, _, index) in zip(numbers, batches, strict=True):
            for position, rows in enumerate(function(images.to(self.device), number)):
                if position == len(results):
                    results.append(torch.zeros(len(self.split), *rows.shape[1:], dtype=rows.dtype))
                if own:
                    results[position][index] = rows.cpu()
        return [self._shared(result) for result in results]

    def _shared(self, own: Tensor) -> Tensor:
        if world_size() == 1:
            return own
        shared = own.to(self.device)  # Every row is zero on all processes but one, so the sum is exact.
        dist.all_reduce(shared)
        return shared.cpu()


@torch.no_grad()
def extract_features(
    module: JointEmbedding, split: Split, data: ImageData, *, device: torch.device, workers: int = 0
) -> Tensor:
    """Backbone features of every image, in order.

    Args:
        module: The module, in any mode; it is put in evaluation mode.
        split: The images.
        data: The dataset, which says how images are presented.
        device: The device of the module.
        workers: Number of processes that decode images.

    Returns:
        float32 ``(N, num_features)`` on the CPU, on every process.
    """
    module.eval()
    preprocess = module.views(data).preprocessing
    (features,) = _Chunks(split, device, workers).apply(lambda images, _: [module.backbone(preprocess(images)).float()])
    return features


@torch.no_grad()
def embed_split(
    module: JointEmbedding, split: Split, data: ImageData, *, device: torch.device, workers: int = 0
) -> Embedded:
    """Features, embeddings and embeddings of two random views of every image, in order.

    The views are drawn with the protocol's seed, the same for every method and number of processes.

    Args:
        module: The module, in any mode; it is put in evaluation mode.
        split: The images.
        data: The dataset, which says how images are presented.
        device: The device of the module.
        workers: Number of processes that decode images.

    Returns:
        The features and embeddings, on every process.
    """
    module.eval()
    config = module.views(data)
    preprocess, views = config.preprocessing, TwoViews(config, PROTOCOL.view_seed)

    def pass_through(images: Tensor, number: int) -> list[Tensor]:
        context, target = views(images, epoch=0, step=number)
        features = module.backbone(preprocess(images))
        embedded = [features, module.projector(features), module.embed(context), module.embed_target(target)]
        return [images, *(z.float() for z in embedded)]

    images, features, embeddings, z_context, z_target = _Chunks(split, device, workers).apply(pass_through)
    return Embedded(split.labels, features, images, embeddings, z_context, z_target)


@torch.no_grad()
def embed_views(
    module: JointEmbedding,
    split: Split,
    data: ImageData,
    seed: int,
    *,
    device: torch.device,
    workers: int = 0,
) -> tuple[Tensor, Tensor]:
    """Embeddings of two random views of every image, in order.

    Args:
        module: The module, in any mode; it is put in evaluation mode.
        split: The images.
        data: The dataset, which says how images are presented.
        seed: Seed of the views.
        device: The device of the module.
        workers: Number of processes that decode images.

    Returns:
        float32 ``(N, d)`` of the contexts and of the targets, on the CPU of every process.
    """
    module.eval()
    views = TwoViews(module.views(data), seed)

    def pass_through(images: Tensor, number: int) -> list[Tensor]:
        context, target = views(images, epoch=0, step=number)
        return [module.embed(context).float(), module.embed_target(target).float()]

    z_context, z_target = _Chunks(split, device, workers).apply(pass_through)
    return z_context, z_target
