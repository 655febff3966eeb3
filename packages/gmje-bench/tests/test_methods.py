"""Every method of the registry builds, trains a step, and names its unknown options."""

import pytest
import torch
from lightly.loss import NTXentLoss

from gmje_bench.errors import OptionError
from gmje_bench.methods import METHODS, build_objective
from gmje_bench.module import build_module
from gmje_bench.suite import load_suite
from gmje_core import nt_xent

pytestmark = pytest.mark.filterwarnings("ignore::gmje_core.criteria.gje.TraceTrapWarning")


@pytest.mark.parametrize("name", METHODS)
def test_a_step_reaches_the_encoder(name):
    module = build_module(name, load_suite("smoke"), channels=1, seed=0)
    loss = module(*torch.rand(2, 128, 1, 28, 28))
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
        build_objective(name, 8, {"temperture": 1.0})


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
        ("gmje", {"components": "many"}, "components"),
        ("gje", {"decay": 2.0}, "decay must lie"),
    ],
)
def test_an_option_out_of_range_is_named(method, options, words):
    with pytest.raises(OptionError, match=words):
        build_objective(method, 8, options)


class _Notes(torch.nn.Module):
    def forward(self, z_context: torch.Tensor, z_target: torch.Tensor) -> torch.Tensor:
        self.dtype, self.autocast = z_context.dtype, torch.is_autocast_enabled("cpu")
        return (z_context - z_target).square().mean()


@pytest.mark.parametrize("name", ["simclr", "vicreg"])
def test_mixed_precision_ends_before_the_loss(name):
    module = build_module(name, load_suite("smoke"), channels=1, seed=0)
    module.criterion = _Notes()
    with torch.autocast("cpu", torch.bfloat16):
        loss = module(*torch.rand(2, 8, 1, 28, 28))
    assert (module.criterion.dtype, module.criterion.autocast) == (torch.float32, False)
    loss.backward()
    assert next(module.backbone.parameters()).grad.isfinite().all()
