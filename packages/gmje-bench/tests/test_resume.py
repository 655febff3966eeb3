"""Runs that are stopped and resumed: the same numbers to the last bit, and nothing foreign or damaged is taken up."""

import json
import shutil
import signal
import time

import pytest
import torch
from accelerate import Accelerator
from dataset_factories import folder_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.optim import AdamW

from gmje_bench.cli import main
from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.reading import LazyImages
from gmje_bench.errors import RunFolderError
from gmje_bench.runs import read_results
from gmje_bench.suites import Training, load_suite
from gmje_bench.training.checkpoint import Checkpoint, Progress
from gmje_bench.training.interrupts import Interrupted, Interrupts
from gmje_bench.training.module import build_module
from gmje_bench.training.optimizers import build_optimizer
from gmje_bench.training.pretrain import pretrain

METHODS = ["gmje", "gmje-mdn", "gmje-gng", "gmje-smc", "gje", "moco", "byol", "swav", "simsiam", "dino", "lejepa"]
TRAINING = Training(epochs=2, batch_size=32, warmup_steps=2)


@pytest.fixture(scope="module")
def data():
    return load_dataset("fashion_mnist_12k", limit=128)


def trained(data, method, path, *, stop_at=None, **changes):
    """Train, and be stopped after so many steps."""
    module = build_module(method, load_suite("smoke"), data.channels, seed=0)
    torch.manual_seed(7)
    steps = 0

    def on_step() -> None:
        nonlocal steps
        steps += 1
        torch.rand(1)  # as a layer with dropout would
        if steps == stop_at:
            signal.raise_signal(signal.SIGTERM)

    with Interrupts() as interrupts, interrupts.deferred():
        progress = pretrain(
            module,
            data,
            TRAINING.model_copy(update=changes),
            seed=0,
            accelerator=Accelerator(cpu=True),
            on_epoch=lambda *_: None,
            on_step=on_step,
            checkpoint=Checkpoint(path, {"method": method}),
            interrupts=interrupts,
        )
    return module, progress.history, torch.get_rng_state()


@pytest.mark.parametrize("stops", [(3,), (4,), (1, 2, 4)], ids=["mid-epoch", "at an epoch's end", "three times"])
@pytest.mark.parametrize("method", METHODS)
def test_training_goes_on_to_the_last_bit(data, method, stops, tmp_path):
    module, history, random_state = trained(data, method, tmp_path / "whole")
    for stop in stops:
        with pytest.raises(Interrupted) as caught:
            trained(data, method, tmp_path / "cut", stop_at=stop)
        assert caught.value.signal == signal.SIGTERM
        assert (tmp_path / "cut").exists()
    resumed, resumed_history, resumed_state = trained(data, method, tmp_path / "cut")
    assert resumed_history == history
    assert torch.equal(resumed_state, random_state)
    for key, value in module.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def test_training_on_files_goes_on_with_the_same_views(tmp_path):
    folder_of(tmp_path / "train", {"ant": 13, "bee": 12}, size=(130, 110), suffix="jpg")
    folder_of(tmp_path / "val", {"ant": 2, "bee": 2}, size=(130, 110), suffix="jpg")
    data = load_dataset(f"imagefolder:{tmp_path}", image_size=96)
    assert isinstance(data.train.source, LazyImages)
    module, history, _ = trained(data, "simclr", tmp_path / "whole", batch_size=8, workers=0)
    with pytest.raises(Interrupted):
        trained(data, "simclr", tmp_path / "cut", stop_at=2, batch_size=8, workers=2)
    resumed, resumed_history, _ = trained(data, "simclr", tmp_path / "cut", batch_size=8, workers=1)
    assert resumed_history == history
    for key, value in module.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def checkpoint(path, method="gje", **identity):
    module = build_module(method, load_suite("smoke"), 1, seed=0)
    return module, build_optimizer(module, TRAINING), Checkpoint(path, {"method": method, **identity})


def damaged(path, kind):
    content = path.read_bytes()
    path.write_bytes({"truncated": content[:-1], "empty": b"", "flipped": b"\xff" * 8 + content[8:]}[kind])


@pytest.mark.parametrize("kind", ["truncated", "empty", "flipped"])
def test_a_damaged_checkpoint_is_named_and_kept(kind, tmp_path):
    path = tmp_path / "checkpoint"
    module, optimizer, file = checkpoint(path)
    file.save(module, optimizer, Progress(1))
    damaged(path, kind)
    before = path.read_bytes()
    with pytest.raises(RunFolderError, match="is damaged"):
        file.restore(module, optimizer)
    assert path.read_bytes() == before


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    module, optimizer, file = checkpoint(tmp_path / "checkpoint")
    file.save(module, optimizer, Progress(1))
    for other in (checkpoint(file.path, dataset="other"), checkpoint(file.path, "vicreg")):
        with pytest.raises(RunFolderError, match="of other options, data or versions"):
            other[2].restore(other[0], other[1])


def test_a_second_signal_does_not_wait():
    with Interrupts() as interrupts, interrupts.deferred():
        signal.raise_signal(signal.SIGINT)
        assert interrupts.pending == signal.SIGINT
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
    with Interrupts(), pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert not interrupts.pending
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


TINY = ["run", "--suite", "smoke", "--limit", "300", "--methods", "random,gje"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main([*TINY, "--output", str(folder)]) == 0
    return folder


def numbers(folder):
    results = read_results(folder)
    return [r.model_dump(exclude={"seconds", "peak_memory_mib"}) for r in [*results.records, *results.alignment]]


def test_finished_records_are_not_done_again(whole, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    results = json.loads((folder / "results.json").read_text())
    kept = results["records"].pop(0)
    results["alignment"] = []
    (folder / "results.json").write_text(json.dumps(results))
    capsys.readouterr()
    assert main([*TINY, "--output", str(folder), "--resume"]) == 0
    assert "gje seed 0: finished before" in capsys.readouterr().err
    assert kept["method"] == "random"
    assert sorted(map(str, numbers(folder))) == sorted(map(str, numbers(whole)))


def test_methods_and_seeds_may_be_added(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    more = [*TINY[:-1], "random,gje,vicreg", "--seeds", "0,1"]
    assert main([*more, "--output", str(folder), "--resume"]) == 0
    done = [(r.method, r.seed) for r in read_results(folder).records]
    assert sorted(done) == [(m, s) for m in ("gje", "random", "vicreg") for s in (0, 1)]


@pytest.mark.parametrize(("changes", "words"), [
    (["--epochs", "2"], "option training is not this run's (epochs: 1 there, 2 here)"),
    (["--limit", "200"], "option limit is not this run's (300 there, 200 here)"),
    (["--held-out-classes", "Bag"], "option held_out_classes is not this run's ([] there, ['Bag'] here)"),
    (["--set", "training.learning_rate=1"], "option training is not this run's (learning_rate: 0.002 there, 1.0 here)"),
    (["--set", "views.flip=0"], "option views is not this run's (flip: 0.5 there, 0.0 here)"),
    (["--set", "method.gje.step=0.1"], "the options of method gje are not this run's"),
    (["--methods", "gje"], "without its methods random"),
    (["--seeds", "1"], "without its seeds 0"),
])  # fmt: skip
def test_another_run_is_not_gone_on_with(changes, words, whole, capsys):
    before = (whole / "results.json").read_bytes()
    assert main([*TINY, *changes, "--output", str(whole), "--resume"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1
    assert (whole / "results.json").read_bytes() == before


def test_resuming_starts_a_run_where_there_is_none(whole, tmp_path):
    folder = tmp_path / "new" / "run"
    for _ in range(2):
        assert main([*TINY, "--output", str(folder), "--resume"]) == 0
        assert numbers(folder) == numbers(whole)


def test_seconds_of_training_are_those_of_all_its_parts(tmp_path, monkeypatch):
    """A clock that moves by one with each step: every step that is not done again counts once."""
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    step = AdamW.step

    def counted(*arguments, **options):
        nonlocal now
        now += 1
        if now == 5:
            signal.raise_signal(signal.SIGTERM)
        return step(*arguments, **options)

    monkeypatch.setattr(AdamW, "step", counted)
    options = ["run", "--suite", "smoke", "--limit", "128", "--batch-size", "32", "--epochs", "2"]
    options += ["--methods", "simclr", "--tasks", "knn"]
    assert main([*options, "--output", str(tmp_path / "cut")]) == 143
    assert main([*options, "--output", str(tmp_path / "cut"), "--resume"]) == 0
    assert now == 8
    assert read_results(tmp_path / "cut").records[0].seconds["pretrain"] == 8


def test_a_checkpoint_that_says_no_seconds_is_gone_on_with(tmp_path):
    module, optimizer, file = checkpoint(tmp_path / "checkpoint")
    file.save(module, optimizer, Progress(1, seconds=7.5))
    assert file.restore(module, optimizer).seconds == 7.5
    with safe_open(file.path, "pt") as held:
        described = held.metadata()
    del described["seconds"]
    save_file(load_file(file.path), file.path, described)
    progress = file.restore(module, optimizer)
    assert (progress.epoch, progress.seconds) == (1, 0.0)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_the_optimiser_comes_back_in_the_order_of_its_parameters(optimizer, tmp_path):
    training = TRAINING.model_copy(update={"optimizer": optimizer})

    def started():
        module = build_module("gje", load_suite("smoke"), 1, seed=0)
        module.backbone.to(memory_format=torch.channels_last)
        return module, build_optimizer(module, training)

    first, before = started()
    for parameter in first.parameters():
        parameter.grad = torch.rand_like(parameter)
    before.step()
    file = Checkpoint(tmp_path / "checkpoint", {})
    file.save(first, before, Progress(1))
    second, after = started()
    file.restore(second, after)
    compared = 0
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert before.state[one].keys() == after.state[two].keys()
        for key, value in before.state[one].items():
            restored = after.state[two][key]
            assert torch.equal(value, restored)
            if value.shape == two.shape:
                assert restored.stride() == two.stride()
                compared += value.ndim == 4 and not restored.is_contiguous()
    assert compared


@pytest.mark.parametrize(("arguments", "words"), [
    (["--resume"], "--resume goes with the --output"),
    (["--output", "nowhere", "--resume", "--overwrite"], "without --overwrite"),
])  # fmt: skip
def test_mistakes_about_resuming(arguments, words, capsys):
    assert main([*TINY, *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"schema_version": 1}'])
def test_damaged_results_are_not_overwritten(content, tmp_path, capsys):
    (tmp_path / "results.json").write_text(content)
    assert main([*TINY, "--output", str(tmp_path), "--resume"]) == 2
    assert "is not a results file" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text() == content


def test_a_failed_method_is_tried_again(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    results = json.loads((folder / "results.json").read_text())
    results["records"][1] |= {"status": "failed", "error": "out of luck", "metrics": {}}
    (folder / "results.json").write_text(json.dumps(results))
    assert main([*TINY, "--output", str(folder), "--resume"]) == 0
    assert numbers(folder) == numbers(whole)


@pytest.mark.parametrize("victim", ["models/gje-seed0/model.safetensors", "results.json"])
def test_validate_names_what_is_damaged(victim, whole, tmp_path, capsys):
    assert main(["validate", str(whole)]) == 0
    assert "is valid: suite smoke, protocol v6" in capsys.readouterr().out
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / victim).write_bytes((folder / victim).read_bytes()[:-9])
    assert main(["validate", str(folder)]) == 2
    assert str(folder / victim) in capsys.readouterr().err
