"""Optimisers: which parameters decay, at which rates, and LARS against its equation."""

import pytest
import torch
from torch import nn

from gmje_bench.suites import Training, load_suite
from gmje_bench.training.module import build_module
from gmje_bench.training.optimizers import build_optimizer, set_rate


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_only_weight_matrices_of_the_encoder_decay(name):
    module = build_module("gje", load_suite("smoke").replace(seeds=[0]), 1, 0)
    module.criterion.register_parameter("factor", nn.Parameter(torch.eye(3)))
    training = Training(optimizer=name, weight_decay=0.3, learning_rate=0.1, criterion_learning_rate=0.01)
    optimizer = build_optimizer(module, training)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for key, parameter in module.named_parameters():
        group, of_criterion = groups[id(parameter)], key.startswith("criterion.")
        assert group["weight_decay"] == (0.0 if parameter.ndim < 2 or of_criterion else 0.3), key
        assert group["peak"] == (0.01 if of_criterion else 0.1), key
    assert type(optimizer).__name__.lower() == name
    if name != "adamw":
        assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


@pytest.mark.parametrize(("scaling", "rate"), [("constant", 0.3), ("linear", 1.2), ("sqrt", 0.6)])
def test_the_rate_grows_with_the_batch_and_that_of_the_criterion_does_not(scaling, rate):
    training = Training(learning_rate=0.3, batch_size=1024, learning_rate_scaling=scaling, criterion_learning_rate=0.1)
    module = nn.ModuleDict({"backbone": nn.Linear(2, 2), "criterion": nn.Linear(2, 2)})
    optimizer = build_optimizer(module, training)
    set_rate(optimizer, lambda peak: peak / 2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate / 2, rate / 2, 0.05])


def test_lars_follows_its_equation():
    """v = m v + 0.001 |w| / (|g| + d |w|) (g + d w); w = w - r v: one step, then another with momentum."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    decay, rate = 0.1, 0.5
    optimizer = build_optimizer(layer, Training(optimizer="lars", learning_rate=rate, weight_decay=decay))
    weight, bias = (p.detach().clone() for p in (layer.weight, layer.bias))
    momentum, momentum_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    for _ in range(2):
        layer.zero_grad()
        layer(torch.randn(5, 3, dtype=torch.float64)).square().sum().backward()
        gradient = layer.weight.grad.clone()
        trust = 0.001 * weight.norm() / (gradient.norm() + decay * weight.norm() + 1e-8)
        momentum = 0.9 * momentum + trust * (gradient + decay * weight)
        momentum_bias = 0.9 * momentum_bias + layer.bias.grad
        weight, bias = weight - rate * momentum, bias - rate * momentum_bias
        optimizer.step()
        torch.testing.assert_close(layer.weight.detach(), weight)
        torch.testing.assert_close(layer.bias.detach(), bias)
