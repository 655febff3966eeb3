"""Casts of a criterion, or of a model that holds one: no digit of its state is lost, and training goes on."""

import copy

import pytest
import torch
from criterion_cases import HEALTHY, allows, pairs, settle

from gmje_core import GMJEConfig, JointEmbeddingModel
from gmje_core.criteria import GMJE, GMJESMC
from gmje_core.precise import PreciseModule

CASTS = ["float", "bfloat16"]


def continued(criterion, steps=3):
    """Losses of the next steps, which an optimiser follows where there are parameters."""
    optimizer = torch.optim.SGD(criterion.parameters(), lr=0.1) if list(criterion.parameters()) else None
    losses = []
    for step in range(steps):
        loss = criterion(*pairs(seed=100 + step))
        losses.append(loss.item())
        if optimizer:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("make", HEALTHY)
def test_a_criterion_that_was_cast_goes_on_as_it_was(make, cast):
    criterion = settle(make((3, 3)), steps=5)
    other = getattr(copy.deepcopy(criterion), cast)()
    for key, value in criterion.state_dict().items():
        assert other.state_dict()[key].dtype == value.dtype, key
        assert torch.equal(other.state_dict()[key], value), key
    assert continued(other) == continued(criterion)
    assert torch.equal(other.density().log_prob(*pairs(seed=9)), criterion.density().log_prob(*pairs(seed=9)))


@pytest.mark.parametrize("dims", [(3, 3), (3, 2)])
@pytest.mark.parametrize("make", HEALTHY)
def test_double_makes_all_of_it_double(make, dims):
    if not allows(make, dims):
        pytest.skip("this criterion takes views of one size")
    criterion = settle(make(dims), dims, steps=2).double()
    tensors = {**dict(criterion.named_parameters()), **dict(criterion.named_buffers())}
    assert {value.dtype for value in tensors.values() if value.is_floating_point()} == {torch.float64}
    assert criterion(*pairs(dims=dims, dtype=torch.float64)).isfinite()


@pytest.mark.parametrize("cast", CASTS)
def test_a_consolidated_density_keeps_its_digits(cast):
    criterion = settle(GMJE(3, 6, density_components=4), steps=3)
    criterion.consolidate(*pairs(300, seed=10), pairs(100, seed=11))
    before = criterion.density().log_prob(*pairs(50, seed=12))
    assert torch.equal(getattr(criterion, cast)().density().log_prob(*pairs(50, seed=12)), before)


@pytest.mark.parametrize("criterion", ["gje", "gmje", "gmje-mdn", "gmje-gng", "gmje-smc"])
def test_a_model_in_bfloat16_trains(criterion):
    torch.manual_seed(0)
    model = JointEmbeddingModel(
        GMJEConfig(backbone="smallconv", in_channels=1, image_size=28, dim=8, hidden=16, criterion=criterion)
    )
    model(*torch.rand(2, 32, 1, 28, 28))
    kept = {key: value.dtype for key, value in model.criterion.state_dict().items()}
    model.bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        out = model(*torch.rand(2, 32, 1, 28, 28).bfloat16())
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    assert out.features.dtype == torch.bfloat16
    assert out.loss.dtype == torch.float32
    assert {key: value.dtype for key, value in model.criterion.state_dict().items()} == kept
    assert all(p.isfinite().all() for p in model.parameters())


def test_whole_numbers_stay_whole():
    criterion = settle(GMJESMC(3, 64), steps=3)
    born = criterion.critic.born.clone()
    assert torch.equal(criterion.type(torch.float64).critic.born, born)
    assert criterion.critic.born.dtype == torch.long
    assert criterion.critic.particles.dtype == torch.float64


def test_devices_are_followed_with_a_cast_and_without():
    """The meta device stands for any other one."""
    for arguments in ((torch.device("meta"),), (torch.device("meta"), torch.bfloat16)):
        module = PreciseModule()
        module.register_buffer("mean", torch.zeros(2, dtype=torch.float64))
        module.inner = torch.nn.Linear(2, 2)
        module.to(*arguments)
        assert (module.mean.device.type, module.mean.dtype) == ("meta", torch.float64)
        assert (module.inner.weight.device.type, module.inner.weight.dtype) == ("meta", torch.float32)
