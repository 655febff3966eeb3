"""The probe that is trained along: it changes nothing else, learns what can be learned, and is taken up again."""

import torch
from accelerate import Accelerator

from gmje_bench.datasets import load_dataset
from gmje_bench.suites import Training, load_suite
from gmje_bench.training.checkpoint import Checkpoint
from gmje_bench.training.interrupts import Interrupted
from gmje_bench.training.module import build_module
from gmje_bench.training.online_probe import OnlineProbe
from gmje_bench.training.pretrain import pretrain


class Stop:
    """Asks to stop once, after so many questions."""

    def __init__(self, after: int) -> None:
        self.left = after

    @property
    def pending(self) -> int:
        self.left -= 1
        return 2 if self.left == 0 else 0


def trained(data, *, online, checkpoint=None, interrupts=None, method="byol", compiled=False):
    module = build_module(method, load_suite("smoke"), data.channels, 0)
    training = Training(epochs=2, batch_size=64, warmup_steps=2, online_probe=online, compile=compiled)
    progress = pretrain(
        module,
        data,
        training,
        seed=0,
        accelerator=Accelerator(cpu=True),
        on_epoch=lambda *_: None,
        checkpoint=checkpoint,
        interrupts=interrupts,
    )
    return module, progress.history, torch.get_rng_state()


def test_no_other_number_changes_and_a_resumed_run_has_the_same_accuracy(tmp_path):
    data = load_dataset("fashion_mnist_12k", limit=200)
    torch.manual_seed(1)
    module, history, random = trained(data, online=True)
    torch.manual_seed(1)
    without, plain, random_without = trained(data, online=False)
    torch.testing.assert_close(module.state_dict(), without.state_dict(), rtol=0, atol=0)
    assert torch.equal(random, random_without)
    assert [{k: v for k, v in epoch.items() if k != "online_probe"} for epoch in history] == plain
    assert all(0 <= epoch["online_probe"] <= 100 for epoch in history)

    file = Checkpoint(tmp_path / "a.safetensors", {})
    torch.manual_seed(1)
    try:
        trained(data, online=True, checkpoint=file, interrupts=Stop(5))
    except Interrupted:
        pass
    else:
        raise AssertionError("it was not stopped")
    _, resumed, _ = trained(data, online=True, checkpoint=file)
    assert resumed == history


def test_a_compiled_backbone_is_watched_too(monkeypatch):
    data = load_dataset("fashion_mnist_12k", limit=200)
    monkeypatch.setattr(torch, "compile", lambda function: lambda images: function(images))
    module, history, _ = trained(data, online=True, compiled=True)
    assert history == trained(data, online=True)[1]
    assert module.watch is None, "nothing is seen after training"


def test_only_what_the_encoder_is_trained_on_is_seen():
    module = build_module("byol", load_suite("smoke"), 1, 0)
    seen = []
    module.watch = seen.append
    views = torch.rand(2, 3, 1, 28, 28)
    module(*views, torch.zeros(3))
    with torch.no_grad():
        module(*views, torch.zeros(3))
    module.eval()(*views, torch.zeros(3))
    (features,) = seen
    assert (len(features), features.requires_grad) == (6, False)


def test_it_learns_classes_from_all_views_of_a_batch():
    probe = OnlineProbe(4, 2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for _ in range(100):
            labels = torch.randint(2, (32,), generator=generator)
            x = torch.randn(32, 4, generator=generator) + 3 * torch.eye(4)[labels]
            for view in (x, x):
                probe.look(view)
            probe.step(labels)
        accuracy = probe.end_epoch()
    assert accuracy > 95
