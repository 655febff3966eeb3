"""Two thousand hostile batches: a finite loss and gradient, or a typed error; never a silent NaN."""

import warnings
from collections import Counter

import pytest
import torch

from gmje_core import GMJEError, NotFittedError, build_criterion

CASES = 400
DIM = 3
OPTIONS = {
    "gje": {},
    "gmje": {"components": 6},
    "gmje-mdn": {"components": 3, "hidden": 8, "context_components": 4},
    "gmje-gng": {"capacity": 8, "insert_every": 8},
    "gmje-smc": {"particles": 24},
}


def full_of(value):
    def fill(z, g):
        z = z.clone()
        z[int(torch.randint(len(z), (), generator=g)) if len(z) else 0 :, 0] = value
        return z

    return fill


DISTORTIONS = {
    "nothing": lambda z, g: z,
    "huge": lambda z, g: 1e8 * z,
    "tiny": lambda z, g: 1e-8 * z,
    "vanishing": lambda z, g: 1e-30 * z,
    "enormous": lambda z, g: 1e30 * z,
    "offset": lambda z, g: z + 1e6,
    "constant": lambda z, g: torch.ones_like(z),
    "zero": lambda z, g: torch.zeros_like(z),
    "duplicates": lambda z, g: z[:1].expand_as(z).contiguous() if len(z) else z,
    "one outlier": lambda z, g: torch.cat([z[:-1], 1e6 * z[-1:]]),
    "flat dimension": lambda z, g: (
        z * torch.tensor([1.0, 0.0, 1.0]).to(z)[: z.shape[-1]] if z.shape[-1:] == (3,) else z
    ),
    "nan": full_of(float("nan")),
    "inf": full_of(float("inf")),
    "wrong width": lambda z, g: torch.cat([z, z], dim=-1),
    "one axis": lambda z, g: z.flatten(),
    "three axes": lambda z, g: z[None],
    "empty": lambda z, g: z[:0],
    "one row": lambda z, g: z[:1],
    "integers": lambda z, g: z.long(),
    "half": lambda z, g: z.half(),
    "bfloat16": lambda z, g: z.bfloat16(),
    "double": lambda z, g: z.double(),
}


def distorted(g):
    z = torch.randn(int(torch.randint(2, 40, (), generator=g)), DIM, generator=g)
    name = list(DISTORTIONS)[int(torch.randint(len(DISTORTIONS), (), generator=g))]
    return name, DISTORTIONS[name](z, g)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.filterwarnings("ignore")
def test_finite_or_a_typed_error(name):
    outcomes = Counter()
    for seed in range(CASES):
        g = torch.Generator().manual_seed(seed)
        criterion = build_criterion(name, DIM, **OPTIONS[name])
        for _ in range(int(torch.randint(0, 3, (), generator=g))):  # fresh, or one that has seen good batches
            criterion(*torch.randn(2, 16, DIM, generator=g))
        (context_kind, context), (target_kind, target) = distorted(g), distorted(g)
        if torch.rand((), generator=g) < 0.5 and context.shape != target.shape:
            target_kind, target = context_kind, context + (0 if context.numel() == 0 else 1)
        where = f"{name}, seed {seed}: context {context_kind}, target {target_kind}"
        if context.is_floating_point():
            context = context.clone().requires_grad_()
        try:
            loss = criterion(context, target)
            loss.backward()
        except GMJEError as error:
            outcomes[type(error).__name__] += 1
        else:
            assert loss.isfinite(), where
            assert context.grad.isfinite().all(), where
            for key, value in criterion.state_dict().items():
                assert not value.isnan().any(), f"{where}: {key}"
            outcomes["finite"] += 1
    assert outcomes["finite"] > 0.1 * CASES
    assert outcomes["ShapeError"] > 0.1 * CASES
    assert outcomes["NonFiniteError"] > 0.02 * CASES


@pytest.mark.parametrize("name", OPTIONS)
def test_a_bad_batch_leaves_the_state_as_it_was(name):
    criterion = build_criterion(name, DIM, **OPTIONS[name])
    for seed in range(3):
        criterion(*torch.randn(2, 16, DIM, generator=torch.Generator().manual_seed(seed)))
    before = {key: value.clone() for key, value in criterion.state_dict().items()}
    bad = torch.randn(2, 16, DIM)
    bad[0, 3, 1] = torch.nan
    with warnings.catch_warnings(), pytest.raises(GMJEError, match="row 3"):
        criterion(*bad)
    for key, value in criterion.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", [*OPTIONS, "gje learned", "gje batch"])
@pytest.mark.filterwarnings("ignore")
def test_a_bad_first_batch_leaves_no_trace(name):
    name, *moments = name.split()
    options = OPTIONS[name] | ({"moments": moments[0]} if moments else {})
    g = torch.Generator().manual_seed(0)
    good, bad = torch.randn(3, 2, 16, DIM, generator=g), torch.randn(2, 16, DIM, generator=g)
    bad[0, 3, 1] = torch.nan
    losses, states = [], []
    for spoiled in (False, True):
        torch.manual_seed(0)
        criterion = build_criterion(name, DIM, **options)
        if spoiled:
            with pytest.raises(GMJEError, match="row 3"):
                criterion(*bad)
            with pytest.raises(NotFittedError):
                criterion.density()
        losses.append([criterion(*pairs).item() for pairs in good])
        states.append(criterion.state_dict())
        assert criterion.density().log_prob(*good[0]).isfinite().all()
    assert losses[0] == losses[1]
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
