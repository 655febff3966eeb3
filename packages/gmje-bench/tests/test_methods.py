"""Every method of the registry builds, trains a step, and names its unknown options."""

import pytest
import torch
from lightly.loss import BarlowTwinsLoss, DINOLoss, LeJEPALoss, NTXentLoss, VICRegLoss
from lightly.models.modules import DINOProjectionHead

from gmje_bench.errors import OptionError
from gmje_bench.methods import METHODS, Setting, build_objective
from gmje_bench.suites import load_suite
from gmje_bench.training.module import build_module
from gmje_core import GMJEConfig, JointEmbeddingModel, nt_xent

pytestmark = pytest.mark.filterwarnings("ignore::gmje_core.criteria.gje.TraceTrapWarning")


@pytest.mark.parametrize("name", METHODS)
def test_a_step_reaches_the_encoder(name):
    module = build_module(name, load_suite("smoke"), channels=1, seed=0)
    loss = module(*torch.rand(2, 128, 1, 28, 28), torch.arange(128) % 10)
    assert loss.isfinite()
    if not module.trains:
        return
    loss.backward()
    first = next(module.backbone.parameters())
    assert first.grad.abs().max() > 0
    assert module.diagnostics()["verdict"] in {"healthy", "trace trap", "dead components", "dimensional collapse"}


@pytest.mark.parametrize("name", METHODS)
def test_unknown_options_are_named(name):
    with pytest.raises(OptionError, match="'temperture'"):
        build_objective(name, Setting(8, 10), {"temperture": 1.0})


def test_all_methods_start_from_the_same_encoder():
    suite = load_suite("smoke")
    modules = [build_module(name, suite, 1, seed=3) for name in METHODS]
    for module in modules[1:]:
        for ours, theirs in zip(module.backbone.parameters(), modules[0].backbone.parameters(), strict=True):
            assert torch.equal(ours, theirs)
        for ours, theirs in zip(module.projector.parameters(), modules[0].projector.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    other = build_module("gmje", suite, 1, seed=4)
    assert not torch.equal(next(other.backbone.parameters()), next(modules[0].backbone.parameters()))


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("batch", [2, 17])
def test_nt_xent_is_lightlys(temperature, batch):
    g = torch.Generator().manual_seed(batch)
    z_context, z_target = (3 * torch.randn(batch, 6, generator=g, dtype=torch.float64) for _ in range(2))
    ours = nt_xent(z_context, z_target, temperature)
    assert ours.item() == pytest.approx(NTXentLoss(temperature)(z_context, z_target).item(), abs=1e-6)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("simclr", {"temperature": 0}, "temperature must be at least"),
        ("simclr", {"temperature": "low"}, "temperature must be a number"),
        ("vicreg", {"nu_param": -1.0}, "nu_param must be a number of at least 0"),
        ("vicreg", {"nu_param": True}, "nu_param must be a number"),
        ("moco", {"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ("byol", {"hidden": 2.5}, "hidden must be an integer of at least 1, got 2.5"),
        ("swav", {"epsilon": 0.0}, "epsilon must be at least"),
        ("lejepa", {"weight": 1.5}, r"weight must lie in \[0, 1\], got 1.5"),
        ("lejepa", {"directions": 0}, "directions must be an integer of at least 1, got 0"),
        ("dino", {"teacher_temperature": 0}, "teacher_temperature must be at least"),
        ("dino", {"center_momentum": 1}, r"center_momentum must lie in \[0, 1\), got 1"),
        ("supervised", {"weight": 1.0}, "no option 'weight'"),
        ("gmje", {"components": "many"}, "components"),
        ("gje", {"step": 0.0}, "step must lie"),
    ],
)
def test_an_option_out_of_range_is_named(method, options, words):
    with pytest.raises(OptionError, match=words):
        build_objective(method, Setting(8, 10), options)


class _Notes(torch.nn.Module):
    def forward(self, z_context: torch.Tensor, z_target: torch.Tensor) -> torch.Tensor:
        self.dtype, self.autocast = z_context.dtype, torch.is_autocast_enabled("cpu")
        return (z_context - z_target).square().mean()


@pytest.mark.parametrize("name", ["simclr", "vicreg"])
def test_mixed_precision_ends_before_the_loss(name):
    module = build_module(name, load_suite("smoke"), channels=1, seed=0)
    module.criterion = _Notes()
    with torch.autocast("cpu", torch.bfloat16):
        loss = module(*torch.rand(2, 8, 1, 28, 28), torch.arange(8))
    assert (module.criterion.dtype, module.criterion.autocast) == (torch.float32, False)
    loss.backward()
    assert next(module.backbone.parameters()).grad.isfinite().all()


@pytest.mark.parametrize("name", ["byol", "dino", "jepa"])
def test_both_views_are_the_context_once(name):
    module = build_module(name, load_suite("smoke"), channels=1, seed=0).eval()
    views = torch.rand(2, 8, 1, 28, 28)
    labels = torch.zeros(8, dtype=torch.long)
    with torch.no_grad():
        forth, back = module(*views, labels), module(*views.flip(0), labels)
        once = module.criterion(module.embed(views[0]), module.embed_target(views[1]))
    torch.testing.assert_close(forth, back)
    assert not torch.isclose(forth, once)


@pytest.mark.parametrize("name", ["byol", "simsiam", "dino", "jepa"])
def test_no_gradient_reaches_what_is_predicted(name):
    criterion = build_objective(name, Setting(8, 10), {}).criterion
    z_context, z_target = (torch.randn(16, 8, requires_grad=True) for _ in range(2))
    both = name == "simsiam"
    loss = criterion(z_context, z_target)
    gradient = torch.autograd.grad(loss, z_target, allow_unused=True)[0]
    assert (gradient is not None and gradient.abs().max() > 0) == both


def test_losses_are_lightlys():
    z_context, z_target = torch.randn(2, 32, 8, generator=torch.Generator().manual_seed(0)).unbind()
    for name, loss in {"barlow": BarlowTwinsLoss(), "vicreg": VICRegLoss(), "simclr": NTXentLoss(0.1)}.items():
        criterion = build_objective(name, Setting(8, 10), {}).criterion
        torch.testing.assert_close(criterion(z_context, z_target), loss(z_context, z_target))


def test_lejepa_is_lightlys():
    """With local views that are the global ones, lightly's loss is that of the global views alone."""
    views = torch.randn(2, 32, 8, generator=torch.Generator().manual_seed(0))
    criterion = build_objective("lejepa", Setting(8, 10), {"weight": 0.3, "directions": 64}).criterion
    oracle = LeJEPALoss(lambda_param=0.3, sigreg_num_vectors=64)
    for step in range(3):
        torch.manual_seed(step)  # the directions of a step
        expected = oracle(local_proj=views, global_proj=views)
        state = torch.get_rng_state()
        torch.testing.assert_close(criterion(*views), expected)
        assert torch.equal(torch.get_rng_state(), state), "no other draw is moved"
        views = 2 * views + step


def test_lejepa_aims_at_a_standard_normal():
    criterion = build_objective("lejepa", Setting(8, 10), {"weight": 1.0}).criterion.eval()
    z = torch.randn(2, 2000, 8, generator=torch.Generator().manual_seed(0))
    right = criterion(*z)
    for wrong in (2 * z, z + 0.5, torch.cat([z[..., :4], z[..., :4]], dim=-1), z.sign()):
        assert criterion(*wrong) > 2 * right
    assert not build_objective("lejepa", Setting(8, 10), {}).normalize


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_dino_is_lightlys():
    """The head of DINO behind its normalised bottleneck, and the loss of a teacher and a student of two views."""
    generator = torch.Generator().manual_seed(0)
    first, second, *teacher = torch.nn.functional.normalize(torch.randn(4, 32, 8, generator=generator), dim=2)
    criterion = build_objective("dino", Setting(8, 10), {"prototypes": 20}).criterion
    head = DINOProjectionHead(8, 8, 8, 20)
    with torch.no_grad():
        head.last_layer.weight_v.copy_(criterion.loss.prototypes.parametrizations.weight.original1)
    oracle = DINOLoss(20, center_momentum=0.0)
    both = oracle([head.last_layer(z) for z in teacher], [head.last_layer(z) for z in (first, second)])
    criterion.eval()  # the center stays
    forth, back = criterion(first, teacher[1]), criterion(second, teacher[0])
    torch.testing.assert_close((forth + back) / 2, both)


def test_dinos_averages_move_by_half_a_step_a_call():
    criterion = build_objective("dino", Setting(8, 10), {"prototypes": 20, "momentum": 0.81}).criterion
    inner, z = criterion.loss, torch.nn.functional.normalize(torch.randn(32, 8), dim=1)
    criterion(z, z)  # the first call copies the prototypes
    start = inner.teacher(z)
    center = inner.loss.center.clone()
    torch.testing.assert_close(center[0, 0], (1 - 0.9**0.5) * start.mean(dim=0))
    raw = inner.prototypes.parametrizations.weight
    before = raw.original1.detach().clone()
    with torch.no_grad():
        raw.original1.neg_()
    criterion(z, z), criterion(z, z)
    average = inner.teacher.average.module.parametrizations.weight.original1
    torch.testing.assert_close(average, 0.81 * before - 0.19 * before)
    torch.testing.assert_close(raw.original0, torch.ones(20, 1))


def test_the_supervised_head_learns_labels_and_only_them():
    torch.manual_seed(0)
    criterion = build_objective("supervised", Setting(4, 3), {}).criterion
    z = torch.eye(4)[:3].repeat(10, 1) * 10
    labels = torch.arange(30) % 3
    optimizer = torch.optim.SGD(criterion.parameters(), lr=1.0)
    for _ in range(100):
        optimizer.zero_grad()
        criterion(z, z, labels).backward()
        optimizer.step()
    assert criterion(z, z, labels) < 0.01
    assert criterion(z, z, labels.roll(1)) > 1


def test_prototypes_stay_on_the_sphere():
    criterion = build_objective("swav", Setting(8, 10), {"prototypes": 5}).criterion
    heads = criterion.loss.prototypes.heads[0].weight
    with torch.no_grad():
        heads.mul_(7)
    criterion(*torch.randn(2, 16, 8))
    torch.testing.assert_close(heads.norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("name", METHODS)
def test_models_of_the_paper_can_be_published(name):
    module = build_module(name, load_suite("smoke"), channels=1, seed=0, image_size=28)
    assert (module.config is not None) == name.startswith(("gje", "gmje"))
    if module.config is not None:
        model = JointEmbeddingModel(GMJEConfig.from_json(module.config.to_json()))
        model.load_state_dict(module.state_dict())
        images = torch.rand(4, 1, 28, 28)
        module.eval(), model.eval()
        assert torch.equal(model.embed(images), module.embed(images))
        assert torch.equal(model.embed_target(images), module.embed_target(images))
