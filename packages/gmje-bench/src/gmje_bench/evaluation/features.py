"""Features and embeddings of a split by a frozen encoder, the same numbers on any number of processes.

Every process passes its own leaves of a split through the encoder, see :mod:`gmje_bench.tasks.rows`, and keeps what
comes out, never the images. The main process then gets the rows of the others, a leaf at a time.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from gmje_bench.datasets.base import ImageData, Split, reduced
from gmje_bench.datasets.prefetch import on_device
from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.rows import Rows, Team, leaf_bounds, on_wire
from gmje_bench.tasks.subject import Embedded, Features
from gmje_bench.training.module import JointEmbedding
from gmje_bench.views import TwoViews
from gmje_core import NonFiniteError

__all__ = ["embed_split", "embed_views", "extract_features", "reduced_images"]


class _Pass(NamedTuple):
    """How images go through an encoder.

    Attributes:
        device: The device of the module.
        workers: Number of processes that decode images; ``None`` for the cores to spare.
        precision: The type of autocast, ``torch.bfloat16`` or ``torch.float16``; ``None`` computes as the module does.
    """

    device: torch.device
    workers: int | None = 0
    precision: torch.dtype | None = None

    def apply(self, split: Split, function: Callable[[Tensor, int], list[Tensor]]) -> list[Rows]:
        """What the function gives for every image of the split, on the CPU, as the processes of the run hold it.

        Args:
            split: The images, which go through in chunks of constant composition, so that no batch differs with the
                number of processes.
            function: A function from images uint8 ``(b, C, S, S)`` and the chunk's number to tensors of ``b`` rows.

        Raises:
            NonFiniteError: the function gave NaN or infinity, on any process.
        """
        team, bounds = Team.of_all(), leaf_bounds(len(split))
        held = torch.cat([torch.arange(0), *(torch.arange(*bounds[leaf]) for leaf in team.leaves)])
        # A process without images still has to know the shapes. Leaves begin and end at whole chunks.
        chunks = (held if len(held) else torch.arange(min(len(split), PROTOCOL.feature_batch))).split(
            PROTOCOL.feature_batch
        )
        results: list[Tensor] = []
        broken, place = torch.zeros(1), 0
        read = split.batches(chunks, self.workers, pin=self.device.type == "cuda")
        moved = on_device(((images,) for images, _, _ in read), self.device)
        for index, (images,) in zip(chunks, moved, strict=True):
            with self.autocast():
                found = function(images, int(index[0]) // PROTOCOL.feature_batch)
            for position, rows in enumerate(found):
                if position == len(results):
                    results.append(torch.zeros(len(held), *rows.shape[1:], dtype=rows.dtype))
                if len(held):
                    results[position][place : place + len(rows)] = rows.cpu()
                broken += not bool(torch.isfinite(rows).all())
            place += len(index)
        if team.size > 1:
            broken = on_wire(broken)
            dist.all_reduce(broken)
        if broken.any():
            raise NonFiniteError("the features hold NaN or infinity")
        return [Rows.of(result, len(split), team) for result in results]

    def autocast(self) -> torch.autocast | nullcontext[None]:
        """The context that the encoder computes in."""
        if self.precision is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)


def in_storage(features: Tensor, count: int) -> Tensor:
    """Features as a split of so many images keeps them: float32, or float16 where the split is large.

    Raises:
        NonFiniteError: a finite feature is too large for float16.
    """
    if count <= PROTOCOL.half_features:
        return features.float()
    stored = features.half()
    if torch.isinf(stored).any() and torch.isfinite(features).all():
        largest = float(features.abs().max())
        raise NonFiniteError(
            f"a feature is {largest:.3g}, but those of more than {PROTOCOL.half_features} images are kept in half "
            "precision, which ends at 65504; divide what the model gives by a constant"
        )
    return stored


@torch.no_grad()
def extract_features(
    module: JointEmbedding,
    split: Split,
    data: ImageData,
    *,
    device: torch.device,
    workers: int | None = 0,
    precision: torch.dtype | None = None,
) -> Tensor:
    """Backbone features of every image, in order.

    Args:
        module: The module, in any mode; it is put in evaluation mode.
        split: The images.
        data: The dataset, which says how images are presented.
        device: The device of the module.
        workers: Number of processes that decode images; ``None`` for the cores to spare.
        precision: The type of autocast; ``None`` computes as the module does.

    Returns:
        ``(N, num_features)`` on the CPU, float32, or float16 of a large split: all rows on the main process, on the
        others those of their own leaves.

    Raises:
        NonFiniteError: the features hold NaN or infinity, or are too large for how they are kept.
    """
    module.eval()
    preprocess = module.views(data).preprocessing
    (rows,) = _Pass(device, workers, precision).apply(
        split, lambda images, _: [in_storage(module.backbone(preprocess(images)), len(split))]
    )
    return held(rows)


@torch.no_grad()
def embed_split(
    module: JointEmbedding,
    split: Split,
    data: ImageData,
    *,
    device: torch.device,
    workers: int | None = 0,
    precision: torch.dtype | None = None,
) -> Features:
    """Features, embeddings and embeddings of two random views of every image, in order.

    The views are drawn with the protocol's seed, the same for every method and number of processes.

    Args:
        module: The module, in any mode; it is put in evaluation mode.
        split: The images.
        data: The dataset, which says how images are presented.
        device: The device of the module.
        workers: Number of processes that decode images; ``None`` for the cores to spare.
        precision: The type of autocast; ``None`` computes as the module does.

    Returns:
        An :class:`Embedded` of all images on the main process; on the others, the features of their own leaves.

    Raises:
        NonFiniteError: the features hold NaN or infinity, or are too large for how they are kept.
    """
    module.eval()
    config = module.views(data)
    preprocess, views = config.preprocessing, TwoViews(config, PROTOCOL.view_seed)

    def pass_through(images: Tensor, number: int) -> list[Tensor]:
        context, target = views(images, epoch=0, step=number)
        features = module.backbone(preprocess(images))
        embedded = (module.projector(features), module.embed(context), module.embed_target(target))
        return [in_storage(features, len(split)), *(z.float() for z in embedded)]

    features, *embedded = _Pass(device, workers, precision).apply(split, pass_through)
    kept = held(features)
    embeddings, z_context, z_target = (rows.whole() for rows in embedded)
    if features.team.rank:
        return Features(split.labels, kept)
    return Embedded(split.labels, kept, split, embeddings, z_context, z_target)


@torch.no_grad()
def embed_views(
    module: JointEmbedding,
    split: Split,
    data: ImageData,
    seed: int,
    *,
    device: torch.device,
    workers: int | None = 0,
    precision: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Embeddings of two random views of every image, in order.

    Args:
        module: The module, in any mode; it is put in evaluation mode.
        split: The images.
        data: The dataset, which says how images are presented.
        seed: Seed of the views.
        device: The device of the module.
        workers: Number of processes that decode images; ``None`` for the cores to spare.
        precision: The type of autocast; ``None`` computes as the module does.

    Returns:
        float32 ``(N, d)`` of the contexts and of the targets, on the CPU of the main process; nothing on
        the others.

    Raises:
        NonFiniteError: the embeddings hold NaN or infinity.
    """
    module.eval()
    views = TwoViews(module.views(data), seed)

    def pass_through(images: Tensor, number: int) -> list[Tensor]:
        context, target = views(images, epoch=0, step=number)
        return [module.embed(context).float(), module.embed_target(target).float()]

    z_context, z_target = (rows.whole() for rows in _Pass(device, workers, precision).apply(split, pass_through))
    return z_context, z_target


def reduced_images(split: Split, side: int, *, device: torch.device, workers: int | None = 0) -> Tensor:
    """All images of a split uint8 ``(N, C, s, s)`` at ``side`` pixels at most, read by all processes.

    Args:
        split: The images.
        side: Largest side in pixels.
        device: Where images are made smaller.
        workers: Number of processes that decode images.

    Returns:
        All of them on the CPU of the main process; none on the others.
    """
    (rows,) = _Pass(device, workers).apply(split, lambda images, _: [reduced(images, side)])
    return rows.whole()


def held(rows: Rows) -> Tensor:
    """What this process keeps: all rows on the main process, on the others those of their leaves."""
    if rows.team.size == 1 or rows.team.rank == 0:
        return rows.whole()
    rows.whole()  # It sends the leaves to the main process.
    return torch.cat([rows.empty, *rows.leaves.values()])
