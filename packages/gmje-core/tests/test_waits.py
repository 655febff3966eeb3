"""How often a step of training waits for a GPU: whatever reads a tensor's value, counted on the CPU."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gmje_core.criteria import CRITERIA, base, build_criterion
from gmje_core.densities import distances

# What has to know a value, or how many there are, before it can go on.
WAITS = {
    "_local_scalar_dense",
    "nonzero",
    "is_nonzero",
    "equal",
    "masked_select",
    "unique_dim",
    "_unique2",
    "bincount",
    "_linalg_check_errors",
    "multinomial",
}
STEPS = 100


class CountWaits(TorchDispatchMode):
    """Counts the operations that would make the program wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indexed_by_mask = name.startswith("index") and any(
            torch.is_tensor(i) and i.dtype in (torch.bool, torch.uint8)
            for i in (args[1] if isinstance(args[1], (tuple, list)) else [])
        )
        if name in WAITS or indexed_by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def train(criterion, monkeypatch):
    """Steps of training with the automatic check, whose measures are taken on copies in the host's memory."""
    encoder = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16))
    optimizer = torch.optim.SGD([*encoder.parameters(), *criterion.parameters()], lr=0.1)
    g = torch.Generator().manual_seed(0)
    counts = CountWaits()
    transfers = []

    def uncounted(*views):
        transfers.append(len(views))
        waits = len(counts.found)
        values = on_the_host(*views)
        del counts.found[waits:]
        return values

    on_the_host = base.embedding_diagnostics
    monkeypatch.setattr(base, "embedding_diagnostics", uncounted)
    monkeypatch.setattr(distances, "_READ_AT_ONCE", frozenset())  # as on a GPU, whose bounds are not read
    for _ in range(STEPS):
        x = torch.randn(64, 32, generator=g)
        views = x + 0.3 * torch.randn(2, 64, 32, generator=g)
        with counts:
            z = nn.functional.normalize(encoder(views.flatten(0, 1)), dim=1)
            loss = criterion(*z.chunk(2))
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert len(transfers) == STEPS // 100
    return counts.found


@pytest.mark.parametrize("name", CRITERIA)
def test_a_step_waits_at_most_once(name, monkeypatch):
    torch.manual_seed(0)
    found = train(build_criterion(name, 16), monkeypatch)
    assert len(found) <= STEPS, {what: found.count(what) for what in set(found)}
    assert len(found) >= STEPS - 1, "a step that never looks would not see a NaN"
