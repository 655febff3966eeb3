"""Evaluation of any model by any tasks: the numbers of a run, the cache, tasks of one's own, and messages."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import gmje_bench
from gmje_bench.cli import main
from gmje_bench.datasets import load_dataset
from gmje_bench.errors import OptionError
from gmje_bench.runs import METRICS, read_results
from gmje_bench.tasks import TASKS
from gmje_bench.tasks.plugins import register_task_file

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "neighbour_agreement.py"


@pytest.fixture(scope="module")
def data():
    return load_dataset("embedded", limit=200)


@pytest.fixture
def own_task():
    task = register_task_file(EXAMPLE)
    yield task
    del TASKS[task.name], METRICS["nearest"]


@pytest.mark.parametrize("method", ["gje", "simclr"])
def test_a_method_of_a_run_has_the_runs_numbers(trained, data, tmp_path, method):
    found = gmje_bench.evaluate(trained / "models" / f"{method}-seed0", data, ["linear_probe", "knn"], cache=tmp_path)
    record = next(record for record in read_results(trained).records if record.method == method)
    assert found.metrics == record.metrics
    assert found.choices["probe_c"] == record.choices["probe_c"]


def test_the_second_call_reads_embeddings_and_gives_the_same_numbers(data, tmp_path):
    calls = []

    class Counting(nn.Flatten):
        def forward(self, images):
            calls.append(len(images))
            return super().forward(images)

    torch.manual_seed(0)
    network = nn.Sequential(Counting(), nn.Linear(784, 12))
    first = gmje_bench.evaluate(network, data, ["knn"], cache=tmp_path)
    passes = len(calls)
    assert passes > 0
    again = gmje_bench.evaluate(network, data, ["knn", "linear_probe"], cache=tmp_path)
    assert len(calls) == passes, "nothing went through the network"
    assert again.metrics["knn"] == first.metrics["knn"]
    with torch.no_grad():
        network[1].weight += 0.1 * torch.randn(12, 784)
    assert gmje_bench.evaluate(network, data, ["knn"], cache=tmp_path).source != first.source
    assert len(calls) > passes, "other weights are another model"
    passes = len(calls)
    gmje_bench.evaluate(network, load_dataset("embedded", limit=100), ["knn"], cache=tmp_path)
    assert len(calls) > passes, "other images are other embeddings"


def test_a_damaged_file_of_the_cache_is_made_again(data, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 12))
    first = gmje_bench.evaluate(network, data, ["knn"], cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert gmje_bench.evaluate(network, data, ["knn"], cache=tmp_path).metrics == first.metrics
    assert len(file.read_bytes()) > 1000


def test_tasks_on_views_come_from_the_cache_too(data, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 6))
    first = gmje_bench.evaluate(network, data, ["uncertainty"], cache=tmp_path)
    again = gmje_bench.evaluate(network, data, ["uncertainty"], cache=tmp_path)
    assert first.metrics == again.metrics
    assert "ood_auroc_fitted" in first.metrics
    torch.testing.assert_close(first.artifacts, again.artifacts, rtol=0, atol=0)


def test_a_task_of_ones_own(own_task, data, tmp_path):
    found = gmje_bench.evaluate(lambda images: images.flatten(1), data, [own_task.name], cache=tmp_path)
    pixels = [split.batch(torch.arange(len(split))).float().flatten(1) for split in (data.train, data.test)]
    train, test = (nn.functional.normalize(part, dim=1) for part in pixels)
    nearest = data.train.labels[(test @ train.T).argmax(dim=1)]
    assert found.metrics["nearest"] == pytest.approx(100 * float((nearest == data.test.labels).double().mean()))
    assert register_task_file(EXAMPLE) is own_task, "once"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def measure(subject): ...", "METRICS of"),
        ("METRICS = {}", "no function 'measure'"),
        ("1 +", "cannot be imported: SyntaxError"),
        (
            "from gmje_bench.runs import Metric\n"
            "METRICS = {'knn': Metric(title='k', higher_is_better=True, task='wrong')}\ndef measure(subject): ...",
            "'knn' of .* exists",
        ),
    ],
)
def test_a_task_file_that_is_wrong(tmp_path, text, words):
    (tmp_path / "wrong.py").write_text(text)
    with pytest.raises(OptionError, match=words):
        register_task_file(tmp_path / "wrong.py")
    assert "wrong" not in TASKS


def test_the_command_writes_every_number(trained, tmp_path, capsys):
    output, folder = tmp_path / "found.json", trained / "models" / "simclr-seed0"
    arguments = ["evaluate", str(folder), "--limit", "200", "--tasks", "knn", "--output", str(output)]
    assert main([*arguments, "--cache", str(tmp_path / "cache")]) == 0
    (row,) = json.loads(output.read_text())["models"]
    record = next(record for record in read_results(trained).records if record.method == "simclr")
    assert row["metrics"]["knn"] == record.metrics["knn"]
    assert "simclr-seed0" in capsys.readouterr().out


def test_one_model_that_fails_does_not_stop_the_others(trained, tmp_path, capsys):
    folder = str(trained / "models" / "simclr-seed0")
    options = ["--limit", "200", "--tasks", "knn", "--no-cache"]
    assert main(["evaluate", "timm:no_such", folder, *options]) == 2
    shown = capsys.readouterr()
    assert "simclr-seed0" in shown.out
    assert "no model 'no_such'" in shown.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "knm"], "did you mean knn"),
        (["--dataset", "cifar11"], "did you mean cifar10"),
        (["--cache", "a", "--no-cache"], "exclude each other"),
        (["--output", "no/such/folder/a.json"], "does not exist"),
        (["--task-file", "none.py"], "cannot read the task file"),
    ],
)
def test_mistakes_are_one_line(arguments, words, capsys):
    assert main(["evaluate", "timm:resnet10t", "--random-weights", "--limit", "50", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
