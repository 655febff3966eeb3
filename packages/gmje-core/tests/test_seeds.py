"""Calls with a seed leave the generators of the user alone, those of devices too that the call does not use."""

from contextlib import nullcontext

import pytest
import torch
from criterion_cases import pairs

from gmje_core import JointEmbeddingMixture
from gmje_core.criteria import GMJE, GMJEMDN
from gmje_core.seeds import seeded


@pytest.fixture
def seedings(monkeypatch):
    """Seeds given to generators of CUDA devices, whether or not there are any."""
    found = []
    monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: found.append(("one", seed)))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: found.append(("all", seed)))
    return found


CALLS = {
    "network": lambda: GMJEMDN(4),
    "sample": lambda: JointEmbeddingMixture(2, random_state=0).fit(*pairs(200)).sample(5),
    "consolidate": lambda: GMJE(3, 6, density_components=4).consolidate(*pairs(300), pairs(100, seed=11)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_on_the_cpu_seeds_no_device(name, seedings):
    before = torch.get_rng_state()
    CALLS[name]()
    assert seedings == []
    assert torch.equal(torch.get_rng_state(), before)


def test_the_device_in_use_is_seeded_and_put_back(monkeypatch, seedings):
    put_back, entered = [], []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: f"state of {device}")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: put_back.append((state, device)))
    monkeypatch.setattr(torch.cuda, "device", lambda device: entered.append(device) or nullcontext())
    device = torch.device("cuda", 1)
    before = torch.get_rng_state()
    with seeded(7, device):
        assert torch.initial_seed() == 7
        assert put_back == []
    assert seedings == [("one", 7)]
    assert entered == [device]
    assert put_back == [("state of cuda:1", device)]
    assert torch.equal(torch.get_rng_state(), before)


def test_mps_is_seeded(monkeypatch, seedings):
    found = []
    monkeypatch.setattr(torch.mps, "manual_seed", found.append)
    with seeded(3, torch.device("mps")):
        pass
    assert (found, seedings) == ([3], [])


def test_the_generators_are_put_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="negative dimension"), seeded(0, torch.device("cpu")):
        torch.randn(-1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_on_the_default_device_is_that_of_the_seed():
    """The weights are drawn where they are made; the meta device has no generator."""
    with torch.device("meta"):
        assert GMJEMDN(4).network.head.weight.is_meta
    first, other = GMJEMDN(4, seed=1).network.head.weight, GMJEMDN(4, seed=2).network.head.weight
    assert torch.equal(GMJEMDN(4, seed=1).network.head.weight, first)
    assert not torch.equal(first, other)
