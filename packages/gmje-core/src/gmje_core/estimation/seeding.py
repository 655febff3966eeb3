"""Where components begin: k-means++ seeding, also used to move dead components onto badly explained samples.

Everything is drawn from a CPU generator and worked out on the device without reading from it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gmje_core.estimation.moments import MIN_VARIANCE

__all__ = [
    "Centres",
    "Reseeding",
    "dead_components",
    "find_centres",
    "kmeans_plus_plus",
    "move_to_means",
    "nearest_centre",
    "reseeding",
    "step_generator",
]

# A component is dead below this share of the mean mass, and restarts with that one.
_DEAD, _REBORN = 0.05, 0.5
# Most rounds of Lloyd's algorithm.
_LLOYD_ROUNDS = 50
# At most this share of a batch is given to dead components in one step.
_RESEED_SHARE = 1 / 8


class Centres(NamedTuple):
    """Where the components of a mixture may begin, found on one batch.

    Attributes:
        means: ``(m, D)`` rows of the batch, ``m`` the smaller of the number of components and of rows.
        found: ``(m,)`` whether the row is a centre of its own; false where the batch has too few distinct rows.
        variance: Scalar in float64, the variance of a dimension within a cluster.
        total_mean: ``(D,)`` in float64, mean of the batch.
        total_variance: ``(D,)`` in float64, variances of the batch.
    """

    means: Tensor
    found: Tensor
    variance: Tensor
    total_mean: Tensor
    total_variance: Tensor


class Reseeding(NamedTuple):
    """Which components to move where.

    Attributes:
        places: ``(m,)`` indices of distinct components.
        points: ``(m, D)`` samples.
        moved: ``(m,)`` whether component and sample belong together; the others stay as they are.
        mass: Share of the samples that a moved component is given.
    """

    places: Tensor
    points: Tensor
    moved: Tensor
    mass: float


def step_generator(seed: int, step: int) -> torch.Generator:
    """A fresh generator for each step, so that a run resumed from its state draws what it would have drawn."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def find_centres(z: Tensor, components: int, generator: torch.Generator) -> Centres:
    """Find centres on a batch ``(B, D)`` by k-means++; one component begins at the mean.

    Args:
        z: ``(B, D)``.
        components: ``K``; components beyond the rows of the batch get no centre.
        generator: CPU generator.
    """
    total_mean, total_variance = z.double().mean(dim=0), z.double().var(dim=0, unbiased=False).clamp_min(MIN_VARIANCE)
    if components == 1:
        found = torch.ones(1, dtype=torch.bool, device=z.device)
        return Centres(total_mean[None].to(z), found, total_variance.mean(), total_mean, total_variance)
    index, found, distances = _draw_rows(z, min(components, len(z)), generator)
    variance = torch.maximum(distances.double().mean() / z.shape[1], 0.1 * total_variance.mean())
    return Centres(z[index], found, variance, total_mean, total_variance)


def dead_components(mass: Tensor) -> Tensor:
    """``(K,)`` which components explain less than a twentieth of the mean share, from masses ``(K,)`` that sum to 1."""
    return mass < _DEAD / len(mass)


def reseeding(z: Tensor, mass: Tensor, means: Tensor, generator: torch.Generator) -> Reseeding:
    """Choose badly explained samples for dead components, at most an eighth of the batch.

    Args:
        z: ``(B, D)``.
        mass: ``(K,)`` share of the samples that each component explains.
        means: ``(K, D)``.
        generator: CPU generator.
    """
    dead = dead_components(mass)
    count = min(len(dead), max(1, int(_RESEED_SHARE * len(z))))
    rows, found, _ = _draw_rows(z, count, generator, centers=means.detach(), ignored=dead)
    index = dead.to(torch.int8).argsort(descending=True, stable=True)[:count]
    return Reseeding(index, z[rows], dead[index] & found, _REBORN / len(mass))


def kmeans_plus_plus(
    x: Tensor, count: int, *, generator: torch.Generator, centers: Tensor | None = None, trials: int = 1
) -> tuple[Tensor, Tensor]:
    r"""Draw rows of ``x`` one by one with probability proportional to their squared distance to the nearest centre.

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
    index, found, nearest = _draw_rows(x, count, generator, centers=centers, trials=trials)
    return index[found], nearest


@torch.no_grad()
def _draw_rows(
    x: Tensor,
    count: int,
    generator: torch.Generator,
    *,
    centers: Tensor | None = None,
    ignored: Tensor | None = None,
    trials: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of k-means++ without a read from the device: ``(count,)`` indices, which are new, ``(B,)`` distances.

    Args:
        x: ``(B, D)``.
        count: How many rows.
        generator: CPU generator.
        centers: ``(M, D)`` that count as chosen.
        ignored: ``(M,)`` which of them do not.
        trials: How many rows are drawn for each choice.
    """
    points = x.double()
    chosen: list[Tensor] = []
    new: list[Tensor] = []
    if centers is None or len(centers) == 0:
        first = torch.randint(len(points), (1,), generator=generator)
        chosen.append(first.to(points.device))
        new.append(torch.ones(1, dtype=torch.bool, device=points.device))
        nearest = (points - points[chosen[0]]).square().sum(dim=1)
    else:
        distances = torch.cdist(points, centers.to(points)).square()
        if ignored is not None:
            distances = distances.masked_fill(ignored, torch.inf)
        nearest = distances.amin(dim=1)
    tiny = torch.finfo(points.dtype).tiny
    # Squares are expanded about the mean, where few digits cancel; a single trial needs no ranking.
    centred = points - points.mean(dim=0) if trials > 1 else points
    norms = centred.square().sum(dim=1)
    while len(chosen) < count:
        most = nearest.amax(dim=0, keepdim=True)
        pick = _draw(nearest / most.clamp_min(tiny), trials, generator)
        if trials > 1:
            pick = _most_helpful(centred, norms, nearest, pick)
        chosen.append(pick)
        new.append(most > 0)
        # These distances are exact, unlike those that rank trials: a row that equals a centre gets the distance zero.
        nearest = torch.minimum(nearest, (points - points[pick]).square().sum(dim=1))
    return torch.cat(chosen), torch.cat(new), nearest.to(x)


def _draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw indices ``(count,)`` with replacement, with probabilities proportional to weights ``(B,)``."""
    if count == 1:
        # The largest of p / e, with e exponential, is a draw with probabilities p.
        noise = torch.empty(len(weights), dtype=torch.float64).exponential_(generator=generator)
        return (weights / noise.to(weights.device, non_blocking=True)).argmax(dim=0, keepdim=True)
    # Places in the cumulative distribution take one random number for each draw, not one for each row.
    cumulative = weights.cumsum(dim=0)
    places = torch.rand(count, dtype=torch.float64, generator=generator).to(weights.device, non_blocking=True)
    return torch.searchsorted(cumulative / cumulative[-1], places).clamp_max(len(weights) - 1)


def _most_helpful(rows: Tensor, norms: Tensor, nearest: Tensor, drawn: Tensor) -> Tensor:
    """The one, ``(1,)``, of the rows drawn ``(t,)`` that as a centre leaves the least sum of squared distances."""
    # The expansion of the square is exact enough to rank the rows.
    distances = torch.addmm(norms, rows[drawn], rows.T, alpha=-2) + norms[drawn].unsqueeze(1)
    return drawn[torch.minimum(nearest, distances).sum(dim=1).argmin(dim=0, keepdim=True)]


def move_to_means(rows: Tensor, centres: Tensor) -> Tensor:
    """Move centres to the means of the rows nearest to them, by rounds of Lloyd's algorithm (k-means).

    It ends when no row changes its centre, or after 50 rounds; a centre without rows stays where it is.

    Args:
        rows: ``(N, D)``.
        centres: ``(K, D)``.

    Returns:
        ``(K, D)``.

    Examples:
        >>> move_to_means(torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([[0.0], [8.0]])).flatten().tolist()
        [1.0, 9.0]
    """
    before: Tensor | None = None
    for _ in range(_LLOYD_ROUNDS):
        chosen = nearest_centre(rows, centres)
        if before is not None and torch.equal(chosen, before):
            break
        before = chosen
        count = torch.zeros(len(centres)).to(rows).index_add_(0, chosen, torch.ones_like(rows[:, 0]))
        total = torch.zeros_like(centres).index_add_(0, chosen, rows - rows.mean(dim=0))
        mean = total / count.clamp_min(1).unsqueeze(1) + rows.mean(dim=0)
        centres = torch.where(count.unsqueeze(1) > 0, mean, centres)
    return centres


def nearest_centre(rows: Tensor, centres: Tensor) -> Tensor:
    """Index ``(N,)`` of the nearest centre of each row."""
    origin = centres.mean(dim=0)
    rows, centres = rows - origin, centres - origin
    # After centring, the expansion of the square loses no digits that matter.
    return torch.addmm(centres.square().sum(dim=1), rows, centres.T, alpha=-2).argmin(dim=1)
