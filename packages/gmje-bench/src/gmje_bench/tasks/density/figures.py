"""What the task measures of one density: likelihood, calibration and samples, in units in which methods compare."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from gmje_bench.alignment.metrics import hpd_ranks
from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.calibration import calibration_error
from gmje_bench.tasks.densities import Scale, conditional_log_prob, embedding_log_prob
from gmje_bench.tasks.density.fits import mean_log_prob
from gmje_bench.tasks.sampling.measures import frechet_distance, manifold_measures
from gmje_bench.tasks.subject import Subject
from gmje_core.densities.joint import JointDensity
from gmje_core.seeds import seeded

__all__ = ["PlacedDensity", "figures"]

# Draws of samples that are averaged.
_DRAWS = 3
# How far norms may be from one on the unit sphere.
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class PlacedDensity:
    """A density with the units that it is in.

    Attributes:
        density: The density.
        scale: What brings embeddings to unit mean variance.
        raw: Whether the density is one of the embeddings as they are, not of those at unit mean variance.
    """

    density: JointDensity
    scale: Scale
    raw: bool = False

    def seen(self, z: Tensor) -> Tensor:
        """Embeddings ``(n, d)`` in the density's units."""
        return z if self.raw else self.scale.apply(z)

    def nats(self, dim: int) -> float:
        """What the log-density of ``dim`` numbers gains where they are brought to unit mean variance."""
        return dim * math.log(self.scale.factor) if self.raw else 0.0

    def sample(self, count: int, seed: int, *, on_sphere: bool) -> Tensor:
        """Contexts ``(count, d)`` at unit mean variance, float64."""
        with seeded(seed, self.density.context.mean.device):
            z = self.density.sample((count,))[0].double()
        if not self.raw:
            z = z * self.scale.factor + self.scale.center
        return self.scale.apply(torch.nn.functional.normalize(z, dim=1) if on_sphere else z)


def figures(placed: PlacedDensity, subject: Subject) -> dict[str, float]:
    """All figures of one density on test pairs, except the differences to another; see the task.

    Args:
        placed: The density.
        subject: The encoder, with its training pairs.
    """
    test, train, scale = subject.test, subject.train, placed.scale
    context, target = placed.seen(test.context), placed.seen(test.target)
    size = test.context.shape[1]
    joint = -mean_log_prob(placed.density, context, target) - placed.nats(2 * size)
    marginal = -float(embedding_log_prob(placed.density, context).mean()) - placed.nats(size)
    rows = slice(0, PROTOCOL.conditional_pairs)
    scores = conditional_log_prob(
        placed.density, context[rows], target[rows], PROTOCOL.conditional_samples, subject.seed
    )
    ranks = hpd_ranks(*scores, Generator().manual_seed(subject.seed))
    real = scale.apply(test.context[: PROTOCOL.samples])
    on_sphere = _better_on_sphere(placed, subject)
    distance, floor, precision, coverage = 0.0, 0.0, 0.0, 0.0
    for draw in range(_DRAWS):
        cloud = placed.sample(len(real), subject.seed + draw, on_sphere=on_sphere)
        order = torch.randperm(len(train.context), generator=Generator().manual_seed(subject.seed + draw))
        distance += frechet_distance(real, cloud)
        floor += frechet_distance(real, scale.apply(train.context[order[: len(real)]]))
        near = manifold_measures(real, cloud, min(PROTOCOL.neighbours, len(real) - 1))
        precision, coverage = precision + near.precision / _DRAWS, coverage + near.coverage / _DRAWS
    return {
        "joint_nll": joint,
        "conditional_nll": joint - marginal,
        "calibration": calibration_error(ranks),
        "frechet_over_floor": distance / floor,
        "sample_precision": precision,
        "sample_coverage": coverage,
    }


def _better_on_sphere(placed: PlacedDensity, subject: Subject) -> bool:
    """Whether samples at unit norm have a smaller Fréchet distance from the validation embeddings, which have it."""
    assert subject.pairs is not None
    held_out = subject.pairs.validation[0]
    if (held_out.double().norm(dim=1) - 1).abs().max() >= _UNIT_TOLERANCE:
        return False
    real = placed.scale.apply(held_out[: PROTOCOL.samples])
    as_it_is, projected = (
        frechet_distance(real, placed.sample(len(real), subject.seed + _DRAWS, on_sphere=on_sphere))
        for on_sphere in (False, True)
    )
    return projected < as_it_is
