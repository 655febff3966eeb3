"""Pretraining: its schedule, its order of images, its optimisers, and what it does when a run goes wrong."""

import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from gmje_bench import pretrain as loop
from gmje_bench.datasets import load_dataset
from gmje_bench.errors import OptionError
from gmje_bench.methods import Objective
from gmje_bench.module import JointEmbedding, build_module
from gmje_bench.pretrain import DivergedError, build_optimizer, learning_rate, plan, pretrain
from gmje_bench.suite import Training, load_suite


@pytest.fixture(scope="module")
def data():
    return load_dataset("fashion_mnist_12k", limit=200)


def world(rank: int = 0, size: int = 1, accumulation: int = 1) -> SimpleNamespace:
    return SimpleNamespace(num_processes=size, process_index=rank, gradient_accumulation_steps=accumulation)


def train(data, method="gmje", seed=0, **changes):
    torch.manual_seed(123)  # what came before a run must not matter to it
    module = build_module(method, load_suite("smoke"), data.channels, seed)
    training = Training(epochs=2, batch_size=64, warmup_steps=2).model_copy(update=changes)
    said = []
    accelerator = Accelerator(cpu=True)
    history = pretrain(
        module, data, training, seed=seed, accelerator=accelerator, on_epoch=lambda *values: said.append(values)
    )
    return module, history, said


@pytest.mark.parametrize("warmup", [0, 1, 10])
@pytest.mark.parametrize("total", [20, 100])
def test_learning_rate_is_a_ramp_then_half_a_cosine(total, warmup):
    for step in range(total):
        rate = learning_rate(step, total, 0.3, warmup)
        if step < warmup:
            assert rate == pytest.approx(0.3 * (step + 1) / warmup)
        else:
            angle = math.pi * (step - warmup) / (total - warmup)
            assert rate == pytest.approx(0.15 * (1 + math.cos(angle)))
        assert rate > 0


@pytest.mark.parametrize("size", [1, 2, 4])
def test_processes_share_the_global_batches_of_one(size):
    training = Training(batch_size=8)
    schedule = plan(37, training, world())
    assert schedule.steps_per_epoch == 4, "the incomplete batch is dropped"
    whole = loop._order(37, schedule, training, 5, 1, world())
    shares = [loop._order(37, schedule, training, 5, 1, world(rank, size)) for rank in range(size)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([share[step] for share in shares]), batch)
    seen = torch.cat(whole)
    assert len(seen.unique()) == 32, "no image twice in an epoch"


def test_order_is_a_function_of_seed_and_epoch():
    training = Training(batch_size=8)
    schedule = plan(64, training, world())

    def order(seed, epoch):
        return torch.cat(loop._order(64, schedule, training, seed, epoch, world()))

    torch.manual_seed(1)
    first = order(0, 0)
    torch.manual_seed(2)
    assert torch.equal(first, order(0, 0))
    assert not torch.equal(first, order(0, 1))
    assert not torch.equal(first, order(1, 0))


@pytest.mark.parametrize(
    ("images", "batch", "processes", "accumulation", "words"),
    [
        (100, 128, 1, 1, "larger than the 100 training images"),
        (100, 9, 2, 1, "does not divide evenly over 2 processes"),
        (100, 10, 1, 3, "accumulation over 3 steps"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(images, batch, processes, accumulation, words):
    with pytest.raises(OptionError, match=words):
        plan(images, Training(batch_size=batch), world(size=processes, accumulation=accumulation))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_only_weight_matrices_of_the_encoder_decay(name):
    module = build_module("gje", load_suite("smoke").replace(seeds=[0]), 1, 0)
    module.criterion.register_parameter("factor", nn.Parameter(torch.eye(3)))
    optimizer = build_optimizer(module, Training(optimizer=name, weight_decay=0.3, learning_rate=0.1))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for key, parameter in module.named_parameters():
        free = parameter.ndim < 2 or key.startswith("criterion.")
        assert decay[id(parameter)] == (0.0 if free else 0.3), key
    assert type(optimizer).__name__.lower() == name
    if name == "sgd":
        assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


@pytest.mark.parametrize("method", ["gmje", "gje", "vicreg"])
def test_the_same_seed_gives_the_same_weights(data, method):
    (one, first, _), (two, second, _) = (train(data, method) for _ in range(2))
    assert first == second
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key]), key
    other, third, _ = train(data, method, seed=1)
    assert third != first
    assert not torch.equal(next(other.parameters()), next(one.parameters()))


def test_history_has_an_entry_an_epoch_and_is_told(data):
    _, history, said = train(data, "gmje")
    assert [entry["epoch"] for entry in history] == [1.0, 2.0]
    assert [(epoch, loss) for epoch, loss, _ in said] == [(entry["epoch"], entry["loss"]) for entry in history]
    for entry in history:
        assert {"effective_rank", "log_det_per_dim", "trace_ratio", "component_usage", "verdict"} <= set(entry)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_lowers_the_loss(data, optimizer):
    rate = {"adamw": 2e-3, "sgd": 0.1}[optimizer]
    _, history, _ = train(data, "simclr", optimizer=optimizer, learning_rate=rate, epochs=4)
    assert history[-1]["loss"] < history[0]["loss"] - 0.1


class _Breaks(nn.Module):
    """A loss that is infinite at its third step."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, z_context: torch.Tensor, z_target: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return (z_context - z_target).square().mean() * (math.inf if self.calls == 3 else 1.0)


def test_a_loss_that_is_no_number_says_where(data):
    whole = build_module("simclr", load_suite("smoke"), 1, 0)
    module = JointEmbedding(whole.backbone, whole.projector, Objective(_Breaks()), name="mine")
    with pytest.raises(DivergedError, match="mine diverged at epoch 1, step 3"):
        pretrain(
            module,
            data,
            Training(epochs=1, batch_size=32),
            seed=0,
            accelerator=Accelerator(cpu=True),
            on_epoch=lambda *_: None,
        )


def test_embeddings_that_are_no_numbers_say_where(data):
    with pytest.raises(DivergedError, match=r"gje diverged at epoch 1, step \d: .*NaN or infinity"):
        train(data, "gje", optimizer="sgd", learning_rate=1e30, warmup_steps=0)
