"""The criteria that tests go through, pairs to score, and a density that has settled on them."""

import pytest
import torch

from gmje_core.criteria import GJE, GMJE, GMJEGNG, GMJEMDN, GMJESMC

GJES = [
    pytest.param(lambda d: GJE(d), id="gje-running"),
    pytest.param(lambda d: GJE(d, moments="learned"), id="gje-learned"),
    pytest.param(lambda d: GJE(d, batch_share=0), id="gje-alone"),
]
GMJES = [
    pytest.param(
        lambda d, t=t, u=u, tied=tied: GMJE(d, 6, covariance_type=t, update=u, tied=tied, rank=2),
        id=f"{t}-{u}-{tied}",
    )
    for t in ("full", "low_rank", "diag", "spherical")
    for u in ("em", "gradient")
    for tied in (False, True)
] + [pytest.param(lambda d: GMJE(d, 6, batch_share=0), id="gmje-alone")]
MDNS = [
    pytest.param(
        lambda d, t=t, o=o: GMJEMDN(d, 3, covariance_type=t, rank=2, objective=o, hidden=16, context_components=6),
        id=f"mdn-{t}-{o}",
    )
    for t in ("full", "low_rank", "diag", "spherical")
    for o in ("pmi", "nll")
]
GNGS = [
    pytest.param(lambda d, t=t: GMJEGNG(d, 12, covariance_type=t, insert_every=64), id=f"gng-{t}")
    for t in ("full", "diag", "spherical")
]
SMCS = [
    pytest.param(lambda d, t=t: GMJESMC(d, 256, covariance_type=t), id=f"smc-{t}")
    for t in ("full", "diag", "spherical")
] + [pytest.param(lambda d: GMJESMC(d, 256, batch_share=0), id="smc-alone")]
HEALTHY = GJES + GMJES + MDNS + GNGS + SMCS


def allows(make, dims):
    """Whether a criterion takes views of these sizes."""
    return dims[0] == dims[1] or make not in [param.values[0] for param in SMCS]


def stops_target(criterion):
    """Whether the loss leaves the target alone."""
    return getattr(criterion, "objective", None) == "nll"


def unequal_dims(make):
    """Sizes of the views that differ where a criterion takes such."""
    return (3, 2) if allows(make, (3, 2)) else (3, 3)


def pairs(n: int = 128, dims: tuple[int, int] = (3, 3), seed: int = 0, dtype: torch.dtype = torch.float32):
    """Context and target that share both a cluster and a linear dependence."""
    g = torch.Generator().manual_seed(seed)
    centers = 2 * torch.randn(5, sum(dims), generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    shared = torch.randn(n, 2, generator=g, dtype=torch.float64)
    mixing = torch.randn(2, sum(dims), generator=torch.Generator().manual_seed(98), dtype=torch.float64)
    noise = torch.randn(n, sum(dims), generator=g, dtype=torch.float64)
    z = centers[torch.randint(5, (n,), generator=g)] + 0.3 * shared @ mixing + 0.2 * noise
    context, target = z.to(dtype).split(dims, dim=1)
    return context.contiguous(), target.contiguous()


def settle(criterion, dims=(3, 3), steps=30, dtype=torch.float32):
    """Fit the density of a criterion to a stream of fixed embeddings."""
    optimizer = torch.optim.Adam(criterion.parameters(), lr=0.05) if list(criterion.parameters()) else None
    for step in range(steps):
        loss = criterion(*pairs(dims=dims, seed=step, dtype=dtype))
        if optimizer:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return criterion
