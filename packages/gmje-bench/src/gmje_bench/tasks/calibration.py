r"""Whether the regions of a density hold what they say: highest-density regions of conditionals and of marginals.

The region of level ``p`` holds the share ``p`` of the density's own samples, those of highest density. The density is
calibrated where the region of every level holds that share of the data. The rank of a point is the level of the region
that just holds it, uniform on [0, 1] under a calibrated density (Hyndman, 1996), in any dimension.
"""

from collections.abc import Callable

import torch
from scipy import stats
from torch import Generator, Tensor

from gmje_bench.alignment.metrics import hpd_ranks
from gmje_core import JointGaussianMixture
from gmje_core.densities.joint import JointDensity
from gmje_core.densities.scaled import ScaledJointMixture
from gmje_core.seeds import seeded

__all__ = ["LEVELS", "calibration_error", "marginal_ranks", "reliability"]

#: The levels at which nominal and actual coverage are compared.
LEVELS = tuple(level / 100 for level in range(5, 100, 5))

# Samples of a marginal that points are ranked among, and rows whose densities are held at a time.
_SAMPLES, _ROWS = 4000, 500


def reliability(ranks: Tensor) -> Tensor:
    """Nominal and actual coverage of regions at the levels 5, 10 ... 95 %, with the band of a calibrated density.

    Args:
        ranks: ``(n,)`` in [0, 1].

    Returns:
        ``(19, 4)`` float64: nominal coverage, actual coverage, and the ends of the interval that the actual coverage of
        a calibrated density lies in with probability 95 % at each level (binomial).

    Examples:
        >>> reliability(torch.linspace(0, 1, 1001))[9].round(decimals=2).tolist()
        [0.5, 0.5, 0.47, 0.53]
    """
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    covered = (ranks.double().unsqueeze(0) <= levels.unsqueeze(1)).double().mean(dim=1)
    low, high = (torch.from_numpy(end) for end in stats.binom.interval(0.95, len(ranks), levels.numpy()))
    return torch.stack([levels, covered, low / len(ranks), high / len(ranks)], dim=1)


def calibration_error(ranks: Tensor) -> float:
    r"""Mean gap between nominal and actual coverage over the levels 5, 10 ... 95 %, at most 0.5.

    Its mean under a calibrated density is :math:`\tfrac{1}{19} \sum_p \sqrt{2 p (1 - p) / (\pi n)}`, that is
    :math:`0.33 / \sqrt{n}`: .017 for 400 ranks, .010 for 1,000.

    Args:
        ranks: ``(n,)`` in [0, 1].

    Examples:
        >>> calibration_error(torch.zeros(10)), round(calibration_error(torch.linspace(0, 1, 1001)), 2)
        (0.5, 0.0)
    """
    curve = reliability(ranks)
    return float((curve[:, 1] - curve[:, 0]).abs().mean())


@torch.no_grad()
def marginal_ranks(density: JointDensity, context: Tensor, target: Tensor, seed: int) -> dict[str, Tensor]:
    """Ranks of contexts under the density's marginal of contexts, and of targets under that of targets.

    Args:
        density: The density that is evaluated.
        context: ``(n, d_c)``.
        target: ``(m, d_t)``.
        seed: Seed of the 4,000 samples that both are ranked among.

    Returns:
        ``context`` ``(n,)`` and ``target`` ``(m,)`` in [0, 1], float64. The latter is missing for a density whose
        conditional is a network: its marginal of targets has no closed form.
    """
    generator = Generator().manual_seed(seed)
    with seeded(seed, density.context.mean.device):
        sampled = _samples(density)
    ranks = {"context": _ranks(density.context.log_prob, context.to(sampled[0]), sampled[0], generator)}
    if isinstance(density, JointGaussianMixture | ScaledJointMixture):
        ranks["target"] = _ranks(density.target.log_prob, target.to(sampled[1]), sampled[1], generator)
    return ranks


def _ranks(log_prob: Callable[[Tensor], Tensor], points: Tensor, own: Tensor, generator: Generator) -> Tensor:
    scores = [torch.cat([log_prob(part) for part in z.split(_ROWS)]) for z in (points, own)]
    return hpd_ranks(scores[0], scores[1].unsqueeze(1), generator)


def _samples(density: JointDensity) -> tuple[Tensor, Tensor]:
    """Samples of the density itself, not yet brought to any sphere."""
    context = density.context.sample((_SAMPLES,))
    parts = [density.condition(part).sample() for part in context.split(_ROWS)]
    return context, torch.cat(parts)
