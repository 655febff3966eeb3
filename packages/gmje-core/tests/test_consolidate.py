"""The closing stage of every criterion: another density answers, the critic stays, and the state holds both."""

import pytest
import torch
from criterion_cases import GNGS, MDNS, SMCS, pairs, settle

from gmje_core.criteria import GJE, GMJE, build_criterion
from gmje_core.densities.scaled import ScaledJointMixture
from gmje_core.errors import BatchSizeError, ConfigError, NonFiniteError, NotFittedError, ShapeError
from gmje_core.estimation import consolidation
from gmje_core.estimation.consolidated import ConsolidatedDensity
from gmje_core.estimation.scaled import SCALES, SHRINKAGES

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


def scaled(components=2, dims=(2, 2), seed=0, scales=SCALES):
    """A density to hold, with the scales that the closing stage gives it."""
    g = torch.Generator().manual_seed(seed)
    (c, t), grid = dims, torch.tensor(scales)
    context_tril, target_tril = (torch.eye(d).repeat(components, 1, 1) for d in dims)
    weights = torch.randn(components, len(grid), len(SCALES), generator=g)
    means, gain = torch.randn(components, c + t, generator=g), torch.randn(components, t, c, generator=g)
    return ScaledJointMixture(
        weights, *means.split(dims, dim=1), context_tril, gain, target_tril, grid, torch.tensor(SCALES)
    )


@pytest.mark.parametrize("room", [0, 4])
def test_room_is_made_where_the_module_is(room):
    """The meta device stands for any other one."""
    first = ConsolidatedDensity((2, 2))
    first.hold(scaled())
    held, loaded = (ConsolidatedDensity((2, 2), room).to("meta") for _ in range(2))
    held.hold(scaled())
    with pytest.warns(UserWarning, match="non-meta parameter"):
        loaded.load_state_dict(first.state_dict())
    with torch.device("meta"):
        built = ConsolidatedDensity((2, 2), room)
    built.hold(scaled())
    for module, places in ((held, max(2, room)), (loaded, 2), (built, max(2, room))):
        assert {name: buffer.device.type for name, buffer in module.named_buffers()} == dict.fromkeys(
            ("log_weights", "context_means", "target_means", "context_tril", "gain", "target_tril"), "meta"
        )
        assert module.get_buffer("gain").shape == (places, 2, 2)


@pytest.mark.parametrize("room", [0, 1, 3, 60])
def test_any_state_of_a_density_is_loaded(room):
    first, other = ConsolidatedDensity((2, 2), 3), ConsolidatedDensity((2, 2), room)
    first.hold(scaled(2))
    z = pairs(5, dims=(2, 2))
    for _ in range(2):  # into an empty holder, and into one that holds a density
        other.load_state_dict(first.state_dict())
        assert torch.equal(other().log_prob(*z), first().log_prob(*z))
        other.hold(scaled(5, seed=1))
        assert other.get_buffer("gain").shape[0] == max(5, room)


@pytest.mark.parametrize("room", [0, 3])
def test_a_state_without_a_density_empties_the_holder(room):
    before, holder = ConsolidatedDensity((2, 2)), ConsolidatedDensity((2, 2), room)
    keys = holder.state_dict().keys()
    holder.hold(scaled(5))
    holder.load_state_dict(before.state_dict())
    assert not holder.fitted
    assert holder.state_dict().keys() == keys
    with pytest.raises(NotFittedError, match="call consolidate"):
        holder()
    holder.hold(scaled(2))
    assert len(holder.get_buffer("gain")) == max(2, room)


def test_a_state_of_other_modules_changes_nothing():
    criterion = settle(GMJE(2, 6), dims=(2, 2), steps=2)
    criterion.consolidated.hold(scaled())
    own = criterion.critic.state_dict(prefix="critic.")
    assert "consolidated._extra_state" in criterion.load_state_dict(own, strict=False).missing_keys
    assert criterion.density().log_weights.shape[0] == 2


def test_states_that_do_not_fit_are_named():
    holder, other = ConsolidatedDensity((2, 2)), ConsolidatedDensity((2, 3))
    other.hold(scaled(2, (2, 3)))
    with pytest.raises(RuntimeError, match="size mismatch for target_means"):
        holder.load_state_dict(other.state_dict())
    state = {**other.state_dict(), "log_weights": torch.zeros(())}
    with pytest.raises(RuntimeError, match="size mismatch for log_weights"):
        other.load_state_dict(state)
    del state["log_weights"]
    with pytest.raises(RuntimeError, match=r"Missing key.*log_weights"):
        other.load_state_dict(state)


def test_only_what_can_be_held_is():
    holder = ConsolidatedDensity((2, 2))
    with pytest.raises(ConfigError, match=r"scales .* must be \(0\.2, 0\.3.*but are \[2\.0, 3\.0"):
        holder.hold(scaled(scales=[10 * scale for scale in SCALES]))
    with pytest.raises(ConfigError, match=r"but are \[1\.0\]"):
        holder.hold(scaled(scales=[1.0]))
    with pytest.raises(ShapeError, match=r"dimensions \(2, 2\), but has \(2, 3\)"):
        holder.hold(scaled(dims=(2, 3)))
    assert not holder.fitted
    holder.hold(scaled().to(torch.float64))
    assert holder.fitted


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
