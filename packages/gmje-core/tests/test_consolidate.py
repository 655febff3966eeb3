"""The closing stage of every criterion: another density answers, the critic stays, and the state holds both."""

import pytest
import torch
from criterion_cases import GNGS, MDNS, SMCS, pairs, settle

from gmje_core.criteria import GJE, GMJE, build_criterion
from gmje_core.densities.scaled import ScaledJointMixture
from gmje_core.errors import BatchSizeError, ConfigError, NonFiniteError, NotFittedError, ShapeError
from gmje_core.estimation import consolidation
from gmje_core.estimation.consolidated import ConsolidatedDensity
from gmje_core.estimation.scaled import SHRINKAGES

MAKERS = [
    pytest.param(lambda **o: GJE(3, **o), id="gje"),
    pytest.param(lambda **o: GMJE(3, 6, **o), id="gmje"),
    *[
        pytest.param(lambda make=param.values[0], **_: make((3, 3)), id=param.id)
        for param in (MDNS[0], GNGS[0], SMCS[0])
    ],
]


def consolidated(criterion):
    criterion.density_components = criterion.density_components or 8
    criterion.consolidate(*pairs(2000, seed=10), pairs(300, seed=11))
    return criterion


@pytest.mark.parametrize("make", MAKERS)
def test_it_answers_in_place_of_the_critic_and_better(make):
    criterion = settle(make(), steps=30)
    held_out = pairs(1000, seed=12)
    before = criterion.density()
    batch = pairs(seed=60)
    loss = criterion.eval()(*batch)
    consolidated(criterion)
    after = criterion.density()
    assert isinstance(after, ScaledJointMixture)
    assert after.log_prob(*held_out).mean() > before.log_prob(*held_out).mean() + 0.1
    torch.testing.assert_close(criterion.critic_density().log_prob(*held_out), before.log_prob(*held_out))
    assert criterion(*batch).item() == loss.item(), "the encoder's objective is the critic's business"


@pytest.mark.parametrize("room", [0, 8])
@pytest.mark.parametrize("make", MAKERS[:2])
def test_the_state_holds_it(make, room):
    first, second = consolidated(settle(make(density_components=8), steps=3)), make(density_components=room)
    second.load_state_dict(first.state_dict())
    held_out = pairs(50, seed=12)
    assert torch.equal(first.density().log_prob(*held_out), second.density().log_prob(*held_out))


def test_room_is_made_before():
    """What is saved has the same names and shapes before and after, so that a configuration describes it."""
    criterion = GMJE(3, 6, density_components=8)
    before = {name: tensor.shape for name, tensor in criterion.state_dict().items()}
    consolidated(settle(criterion, steps=3))
    assert {name: tensor.shape for name, tensor in criterion.state_dict().items()} == before


def test_the_factor_of_the_conditional_is_told(monkeypatch):
    def enlarged(density, *_, seed):
        return density.with_conditional_factor(1.3)

    monkeypatch.setattr(consolidation, "calibrate_conditional", enlarged)
    criterion = settle(GMJE(3, 6, density_components=8), steps=3)
    assert criterion.consolidate(*pairs(300, seed=10), pairs(300, seed=11)).conditional_factor == 1.3
    monkeypatch.setattr(consolidation, "calibrate_conditional", lambda density, *_, seed: density)
    assert criterion.consolidate(*pairs(300, seed=10), pairs(300, seed=11)).conditional_factor == 1.0


def test_room_that_is_not_filled_answers_nothing():
    """Fewer components than there is room for, where fewer are likelier or pairs are few."""
    criterion = GMJE(3, 6, density_components=40)
    fit = criterion.consolidate(*pairs(200, seed=10), pairs(100, seed=11))
    assert fit.components <= 10
    assert criterion.consolidated.gain.shape[0] == 40
    assert len(criterion.density().log_weights) == fit.components
    assert fit.shrinkage in [share * 6 for share in SHRINKAGES]


def test_none_is_held_at_first():
    assert [name for name in GMJE(3, 6).state_dict() if "consolidated" in name] == ["consolidated._extra_state"]
    with pytest.raises(NotFittedError, match="call consolidate"):
        ConsolidatedDensity((3, 3))()


def test_embeddings_on_the_sphere_give_samples_there():
    criterion = GMJE(3, 6, density_components=4)
    context, target = (torch.nn.functional.normalize(z, dim=1) for z in pairs(600))
    criterion.consolidate(context[:500], target[:500], (context[500:], target[500:]))
    assert criterion.density().unit_norm
    assert not consolidated(GMJE(3, 6)).density().unit_norm


def test_bad_input():
    criterion = GMJE(3, 6, density_components=8)
    context, target = pairs(100)
    with pytest.raises(ShapeError, match=r"z_target must have shape \(B, 3\)"):
        criterion.consolidate(context, target[:, :2], (context, target))
    with pytest.raises(NonFiniteError, match="z_context"):
        criterion.consolidate(context / 0, target, (context, target))
    with pytest.raises(BatchSizeError, match="at least 2 pairs"):
        criterion.consolidate(context[:1], target[:1], (context, target))
    with pytest.raises(ConfigError, match="density_components"):
        build_criterion("gmje", 3, density_components=-1)
