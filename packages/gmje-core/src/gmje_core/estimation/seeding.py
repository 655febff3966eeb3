"""Where components begin: k-means++ seeding, also used to move dead components onto badly explained samples."""

from typing import Protocol

import torch
from torch import Tensor

from gmje_core.estimation.moments import MIN_VARIANCE

__all__ = ["Seedable", "kmeans_plus_plus", "reseed_dead", "start_on", "step_generator"]

# A component is dead below this share of the mean mass, and restarts with that one.
_DEAD, _REBORN = 0.05, 0.5
# At most this share of a batch is given to dead components in one step.
_RESEED_SHARE = 1 / 8


class Seedable(Protocol):
    """A mixture whose components can be put on samples."""

    @property
    def mass(self) -> Tensor:
        """``(K,)`` running share of the samples that each component explains; all zero before the start."""

    @property
    def means(self) -> Tensor:
        """``(K, D)``."""

    def start(self, means: Tensor, variance: float, total: tuple[Tensor, Tensor], batch_size: int) -> None:
        """Begin from cluster centres: the first ``len(means)`` components share the mass, the rest are empty."""

    def reseed(self, index: Tensor, points: Tensor, mass: float) -> None:
        """Move components ``index`` (m,) onto ``points`` (m, D)."""


def step_generator(seed: int, step: int) -> torch.Generator:
    """A fresh generator for each step, so that a run resumed from its state draws what it would have drawn."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


@torch.no_grad()
def start_on(mixture: Seedable, z: Tensor, generator: torch.Generator) -> None:
    """Start a mixture by k-means++ on a first batch ``(B, D)``; what it has no sample for is re-seeded later."""
    index, distances = kmeans_plus_plus(z, min(len(mixture.mass), len(z)), generator=generator)
    variance = z.double().var(dim=0, unbiased=False).clamp_min(MIN_VARIANCE)
    within = torch.maximum(distances.double().mean() / z.shape[1], 0.1 * variance.mean())
    mixture.start(z[index], float(within), (z.double().mean(dim=0), variance), len(z))


@torch.no_grad()
def reseed_dead(mixture: Seedable, z: Tensor, generator: torch.Generator) -> int:
    """Move dead components onto badly explained samples of a batch ``(B, D)``; returns how many were moved."""
    components = len(mixture.mass)
    dead = (mixture.mass < _DEAD / components).nonzero().flatten()
    if not len(dead):
        return 0
    alive = mixture.means.detach()[mixture.mass >= _DEAD / components]
    count = min(len(dead), max(1, int(_RESEED_SHARE * len(z))))
    index, _ = kmeans_plus_plus(z, count, generator=generator, centers=alive)
    mixture.reseed(dead[: len(index)], z[index], _REBORN / components)
    return len(index)


def kmeans_plus_plus(
    x: Tensor, count: int, *, generator: torch.Generator, centers: Tensor | None = None, trials: int = 1
) -> tuple[Tensor, Tensor]:
    r"""Rows of ``x`` drawn one by one with probability proportional to their squared distance to the nearest centre.

    Arthur and Vassilvitskii (2007). With ``centers``, those count as chosen already. With more than one of ``trials``
    the choice is greedy: of several rows drawn, the one that brings all rows nearest to their centres is taken, so
    that centres rarely share a cluster.

    Args:
        x: ``(B, D)``.
        count: How many rows to draw; fewer are returned where fewer distinct rows remain.
        generator: CPU generator; the same state draws the same rows on every device and rank.
        centers: ``(M, D)``, existing centres.
        trials: Rows drawn for each choice.

    Returns:
        Indices ``(count,)`` into ``x``, and ``(B,)`` squared distances to the nearest centre at the end.

    Examples:
        >>> x = torch.tensor([[0.0], [0.0], [5.0], [9.0]])
        >>> index, distances = kmeans_plus_plus(x, 3, generator=torch.Generator().manual_seed(0))
        >>> sorted(x[index].flatten().tolist()), distances.tolist()
        ([0.0, 5.0, 9.0], [0.0, 0.0, 0.0, 0.0])
    """
    points = x.detach().to("cpu", torch.float64)
    chosen: list[int] = []
    if centers is None or len(centers) == 0:
        chosen.append(int(torch.randint(len(points), (1,), generator=generator)))
        nearest = (points - points[chosen[0]]).square().sum(dim=1)
    else:
        nearest = torch.cdist(points, centers.detach().to(points)).square().min(dim=1).values
    while len(chosen) < count and bool((nearest > 0).any()):
        drawn = torch.multinomial(nearest / nearest.max(), trials, replacement=True, generator=generator)
        pick = int(drawn if trials == 1 else _most_helpful(points, nearest, drawn))
        chosen.append(pick)
        # These distances are exact, unlike those that rank the trials, so that a row equal to a centre is never drawn.
        nearest = torch.minimum(nearest, (points - points[pick]).square().sum(dim=1))
    index = torch.tensor(chosen, dtype=torch.long, device=x.device)
    return index, nearest.to(x)


def _most_helpful(points: Tensor, nearest: Tensor, drawn: Tensor) -> Tensor:
    """The one of the rows ``drawn`` (t,) that, as a centre, leaves the least sum of squared distances."""
    centred = points - points.mean(dim=0)
    norms = centred.square().sum(dim=1)
    # The expansion of the square is exact enough to rank the rows drawn.
    distances = torch.addmm(norms, centred[drawn], centred.T, alpha=-2) + norms[drawn].unsqueeze(1)
    return drawn[torch.minimum(nearest, distances).sum(dim=1).argmin()]
