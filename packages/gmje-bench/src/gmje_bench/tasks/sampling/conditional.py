"""Conditional samples in pictures: what a density expects of the other view of a few test images."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.densities import Scale
from gmje_bench.tasks.sampling.classifier import small
from gmje_bench.tasks.sampling.decoder import Decoder, decode
from gmje_bench.tasks.subject import Subject
from gmje_bench.views import TwoViews, ViewConfig
from gmje_core.seeds import seeded

__all__ = ["conditional_pictures", "of_different_classes", "to_bytes", "view_pixels"]

_CONTEXTS, _SAMPLES = 3, 8
# Embeddings whose norms are this near to one are taken to lie on the unit sphere.
_TOLERANCE = 1e-3


@torch.no_grad()
def conditional_pictures(subject: Subject, decoder: Decoder, scale: Scale) -> dict[str, Tensor]:
    """Decoded samples of the target given the context, for three test images chosen by a fixed seed, of other classes.

    All pictures of one image are decoded with the same noise, so that they differ by what the density says alone. Where
    embeddings have unit norm, samples and means are brought to it.

    Args:
        subject: The encoder; there are no pictures where it has no density or its views are not known.
        decoder: A decoder of scaled embeddings.
        scale: The scale of the embeddings that it decodes.

    Returns:
        uint8 pictures: ``sampling.conditional.context`` and ``.target``, the two views as they are, ``.real``, the
        decoded embedding of the target, and ``.mean``, the decoded mean of the conditional, ``(3, C, s, s)`` each;
        ``.samples`` ``(3, 8, C, s, s)``.
    """
    density, test = subject.density, subject.test
    if density is None or subject.views is None:
        return {}
    first = test.images[: PROTOCOL.feature_batch]  # The embeddings of these were computed in one batch of views.
    rows = of_different_classes(test.labels[: len(first)], _CONTEXTS)
    posterior = density.condition(test.context[rows].to(density.context.mean.dtype))
    with seeded(subject.seed, density.context.mean.device):
        samples = posterior.sample((_SAMPLES,)).transpose(0, 1).to(test.target)
    mean = posterior.mean.to(test.target)
    if (test.target.norm(dim=1) - 1).abs().max() < _TOLERANCE:
        samples, mean = F.normalize(samples, dim=-1), F.normalize(mean, dim=-1)
    every = torch.cat([test.target[rows, None], mean[:, None], samples], dim=1)
    drawn = torch.stack([decode(decoder, scale.apply(row), seed=0, same_noise=True) for row in every])
    views = TwoViews(subject.views, PROTOCOL.view_seed)(first, epoch=0, step=0)
    context, target = (view_pixels(view[rows], subject.views) for view in views)
    found = {"context": context, "target": target, "real": drawn[:, 0], "mean": drawn[:, 1], "samples": drawn[:, 2:]}
    return {f"sampling.conditional.{name}": to_bytes(pixels) for name, pixels in found.items()}


def of_different_classes(labels: Tensor, count: int) -> Tensor:
    """Indices of ``count`` images chosen by a fixed seed, of as many classes as there are."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).tolist()
    firsts = list({int(labels[row]): row for row in reversed(order)}.values())
    return torch.tensor([*firsts, *(row for row in order if row not in firsts)][:count])


def view_pixels(views: Tensor, config: ViewConfig) -> Tensor:
    """Pixels of normalised views, in [0, 1] and small."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    return small(to_bytes(views * std + mean))


def to_bytes(pixels: Tensor) -> Tensor:
    """Pixels in [0, 1] as uint8."""
    return (255 * pixels).round().clamp(0, 255).to(torch.uint8)
