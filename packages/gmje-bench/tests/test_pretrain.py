"""Pretraining: its order of images, the forms it trains in, and what it does when a run goes wrong."""

import math
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.order import EpochOrder
from gmje_bench.errors import RunFolderError
from gmje_bench.methods import Objective
from gmje_bench.suites import Training, load_suite
from gmje_bench.training import pretrain as loop
from gmje_bench.training.checkpoint import Checkpoint, Progress
from gmje_bench.training.module import JointEmbedding, build_module
from gmje_bench.training.pretrain import DivergedError, pretrain
from gmje_bench.training.schedule import plan


@pytest.fixture(scope="module")
def data():
    return load_dataset("fashion_mnist_12k", limit=200)


def world(rank: int = 0, size: int = 1, accumulation: int = 1) -> SimpleNamespace:
    return SimpleNamespace(num_processes=size, process_index=rank, gradient_accumulation_steps=accumulation)


def order(seed, epoch, **changes):
    return EpochOrder(seed=seed, epoch=epoch, batch_size=8, **changes)


def train(data, method="gmje", seed=0, **changes):
    torch.manual_seed(123)  # what came before a run must not matter to it
    module = build_module(method, load_suite("smoke"), data.channels, seed)
    training = Training(epochs=2, batch_size=64, warmup_steps=2).model_copy(update=changes)
    said = []
    accelerator = Accelerator(cpu=True)
    progress = pretrain(
        module, data, training, seed=seed, accelerator=accelerator, on_epoch=lambda *values: said.append(values)
    )
    return module, progress.history, said


@pytest.mark.parametrize("size", [1, 2, 4])
def test_processes_share_the_global_batches_of_one(size):
    training = Training(batch_size=8)
    schedule = plan(37, training, world())
    assert schedule.steps_per_epoch == 4, "the incomplete batch is dropped"
    whole = order(5, 1, steps=4).batches(37)
    shares = [order(5, 1, steps=4, rank=rank, world_size=size).batches(37) for rank in range(size)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([share[step] for share in shares]), batch)
    seen = torch.cat(whole)
    assert len(seen.unique()) == 32, "no image twice in an epoch"


def test_order_is_a_function_of_seed_and_epoch():
    def images(seed, epoch):
        return torch.cat(order(seed, epoch, steps=8).batches(64))

    torch.manual_seed(1)
    first = images(0, 0)
    torch.manual_seed(2)
    assert torch.equal(first, images(0, 0))
    assert not torch.equal(first, images(0, 1))
    assert not torch.equal(first, images(1, 0))


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


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_training_lowers_the_loss(data, optimizer):
    rate = {"adamw": 2e-3, "sgd": 0.1, "lars": 1.0}[optimizer]
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


def test_channels_last_changes_the_order_of_memory_alone(data):
    whole = [train(data, "moco", channels_last=value)[:2] for value in (False, True)]
    (_, plain), (module, last) = whole
    # smallconv keeps that order in any case, so that the numbers are the same to the last bit
    assert plain == last
    for encoder in (module.backbone, module.target_encoder):
        for parameter in encoder.parameters():
            assert parameter.ndim != 4 or parameter.is_contiguous(memory_format=torch.channels_last)


def test_compiling_is_for_training_alone(data, monkeypatch):
    calls = []

    def fake(function):
        def compiled(images):
            calls.append(len(images))
            return function(images)

        return compiled

    monkeypatch.setattr(torch, "compile", fake)
    module, history, _ = train(data, "gje", compile=True)
    assert history == train(data, "gje")[1]
    assert calls == [128] * 6
    module.eval().embed(torch.zeros(2, 1, 28, 28))
    assert len(calls) == 6
    assert module.state_dict().keys() == train(data, "gje")[0].state_dict().keys()


@pytest.mark.parametrize(("minutes", "saves"), [(None, 2), (1e-9, 6), (1e9, 2)])
def test_checkpoints_by_the_clock(data, minutes, saves, monkeypatch, tmp_path):
    saved = []
    monkeypatch.setattr(Checkpoint, "save", lambda self, module, optimizer, progress, *_: saved.append(progress.step))
    module = build_module("gje", load_suite("smoke"), 1, 0)
    training = Training(epochs=2, batch_size=64, checkpoint_minutes=minutes)
    checkpoint = Checkpoint(tmp_path / "c", {})
    pretrain(
        module, data, training, seed=0, accelerator=Accelerator(cpu=True), on_epoch=lambda *_: None,
        checkpoint=checkpoint,
    )  # fmt: skip
    assert len(saved) == saves


def test_processes_that_found_different_checkpoints_stop():
    found = torch.tensor([[1, 3], [0, 0]])
    two = SimpleNamespace(num_processes=2, device=torch.device("cpu"), gather=lambda own: found)
    with pytest.raises(RunFolderError, match="a folder that all machines share"):
        loop._check_agreed(Progress(1, 3), two)
    found = torch.tensor([[1, 3], [1, 3]])
    loop._check_agreed(Progress(1, 3), SimpleNamespace(**{**vars(two), "gather": lambda own: found}))
