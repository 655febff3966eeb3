"""Where components begin: k-means++ seeding, also used to move dead components onto badly explained samples."""

import torch
from torch import Tensor

__all__ = ["kmeans_plus_plus"]


def kmeans_plus_plus(
    x: Tensor, count: int, *, generator: torch.Generator, centers: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Rows of ``x`` drawn one by one with probability proportional to their squared distance to the nearest centre.

    Arthur and Vassilvitskii (2007). With ``centers``, those count as chosen already.

    Args:
        x: ``(B, D)``.
        count: How many rows to draw; fewer are returned where fewer distinct rows remain.
        generator: CPU generator; the same state draws the same rows on every device and rank.
        centers: ``(M, D)``, existing centres.

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
        pick = int(torch.multinomial(nearest / nearest.max(), 1, generator=generator))
        chosen.append(pick)
        nearest = torch.minimum(nearest, (points - points[pick]).square().sum(dim=1))
    index = torch.tensor(chosen, dtype=torch.long, device=x.device)
    return index, nearest.to(x)
