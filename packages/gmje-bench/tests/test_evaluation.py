"""Evaluation of any model by any tasks: the numbers of a run, the cache, tasks of one's own, and messages."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import gmje_bench
from gmje_bench.cli import main
from gmje_bench.datasets import load_dataset
from gmje_bench.errors import OptionError
from gmje_bench.evaluation import measure
from gmje_bench.evaluation.models import open_model
from gmje_bench.runs import METRICS, read_results
from gmje_bench.suites import Suite
from gmje_bench.tasks import TASKS
from gmje_bench.tasks.plugins import register_task_file
from gmje_bench.training.module import build_module

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


@pytest.fixture
def passes(monkeypatch):
    """How many images each pass through a network had."""
    seen, extract = [], measure.extract_features

    def counting(module, split, *arguments, **options):
        seen.append(len(split))
        return extract(module, split, *arguments, **options)

    monkeypatch.setattr(measure, "extract_features", counting)
    return seen


def test_the_second_call_reads_embeddings_and_gives_the_same_numbers(trained, data, passes, tmp_path):
    model = tmp_path / "models" / "simclr-seed0"
    shutil.copytree(trained / "models" / "simclr-seed0", model)
    shutil.copy(trained / "results.json", tmp_path)
    cache = tmp_path / "cache"
    first = gmje_bench.evaluate(model, data, ["knn"], cache=cache)
    assert passes == [200, len(data.test)]
    again = gmje_bench.evaluate(model, data, ["knn", "linear_probe"], cache=cache)
    assert len(passes) == 2, "nothing went through the network"
    assert again.metrics["knn"] == first.metrics["knn"]
    weights = load_file(model / "model.safetensors")
    name = next(name for name in weights if name.endswith("weight"))
    save_file(weights | {name: weights[name] + 0.1}, model / "model.safetensors")
    assert gmje_bench.evaluate(model, data, ["knn"], cache=cache).source != first.source
    assert len(passes) == 4, "other weights are another model"
    gmje_bench.evaluate(model, load_dataset("embedded", limit=100), ["knn"], cache=cache)
    assert len(passes) == 6, "other images are other embeddings"


def test_modules_are_not_told_apart_by_their_weights(data, tmp_path):
    cache, found = tmp_path / "cache", {}
    for side in (2, 14):
        network = nn.Sequential(nn.AvgPool2d(side), nn.Flatten())
        found[side] = gmje_bench.evaluate(network, data, ["knn"], cache=cache).metrics["knn"]
        assert found[side] == gmje_bench.evaluate(network, data, ["knn"], keep=False).metrics["knn"]
    assert found[2] != found[14]
    assert not cache.exists(), "embeddings of a module are not kept"


# These networks have the same weights, and differ in how convolutions are padded.
TWINS = ("mobilenetv3_small_100", "tf_mobilenetv3_small_100")


def test_named_models_of_the_same_weights_are_two_models(data):
    opened = [open_model(f"timm:{name}", data, pretrained=False) for name in (*TWINS, *TWINS)]
    first, second = (model.module.state_dict() for model in opened[:2])
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    sources = [model.source for model in opened]
    assert sources[:2] == sources[2:]
    assert sources[0] != sources[1]


def test_methods_of_runs_with_the_same_weights_are_two_models(trained, data, tmp_path):
    opened = []
    for name in TWINS:
        folder = tmp_path / name / "models" / "random-seed0"
        folder.mkdir(parents=True)
        results = json.loads((trained / "results.json").read_text())
        results["options"]["network"]["backbone"] = f"timm:{name}"
        (tmp_path / name / "results.json").write_text(json.dumps(results))
        module = build_module("random", Suite.model_validate(results["options"]), 1, 0, image_size=28)
        save_file(module.state_dict(), folder / "model.safetensors")
        opened.append(open_model(folder, data))
    first, second = (model.module.state_dict() for model in opened)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert opened[0].source != opened[1].source


def test_a_damaged_file_of_the_cache_is_made_again(trained, data, tmp_path):
    model = trained / "models" / "gje-seed0"
    first = gmje_bench.evaluate(model, data, ["knn"], cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert gmje_bench.evaluate(model, data, ["knn"], cache=tmp_path).metrics == first.metrics
    assert len(file.read_bytes()) > 1000


def test_tasks_on_views_come_from_the_cache_too(trained, data, tmp_path):
    model = trained / "models" / "simclr-seed0"
    first = gmje_bench.evaluate(model, data, ["uncertainty"], cache=tmp_path)
    again = gmje_bench.evaluate(model, data, ["uncertainty"], cache=tmp_path)
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


def changed(trained, folder, number):
    """A copy of a run's model whose weights are all the same number."""
    model = folder / "models" / "simclr-seed0"
    shutil.copytree(trained / "models" / "simclr-seed0", model)
    shutil.copy(trained / "results.json", folder)
    weights = load_file(model / "model.safetensors")
    same = {name: torch.full_like(x, number) if x.is_floating_point() else x for name, x in weights.items()}
    save_file(same, model / "model.safetensors")
    return str(model)


@pytest.mark.parametrize(("number", "task", "words"), [(0, "uncertainty", "all the same"), (torch.nan, "knn", "NaN")])
def test_a_model_that_cannot_be_measured_does_not_stop_the_others(trained, tmp_path, capsys, number, task, words):
    bad, good, output = changed(trained, tmp_path, number), trained / "models" / "random-seed0", tmp_path / "a.json"
    options = ["--limit", "200", "--tasks", task, "--no-cache", "--output", str(output)]
    assert main(["evaluate", bad, str(good), *options]) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert bad in shown.err.splitlines()[-1], "the message names the model"
    assert [row["model"] for row in json.loads(output.read_text())["models"]] == ["random-seed0"]


OWN = """
from gmje_bench.runs import Metric
from gmje_bench.tasks.subject import TaskResult
METRICS = {"rows": Metric(title="rows", higher_is_better=True, task="own")}
def measure(subject):
    right = TaskResult({"rows": float(len(subject.test.features))})
    return WRONG if subject.method.startswith("simclr") else right
"""


@pytest.fixture
def own_file(tmp_path):
    """Writes the file of a task that gives something wrong for one method."""

    def write(wrong):
        (tmp_path / "own.py").write_text(OWN.replace("WRONG", wrong))
        return tmp_path / "own.py"

    yield write
    TASKS.pop("own", None)
    METRICS.pop("rows", None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("TaskResult({'rows': float('nan')})", "task own: rows is nan, not a finite number"),
        ("TaskResult({'rows': subject.test.features})", "task own: rows is a Tensor, not a finite number"),
        ("TaskResult({'row': 1.0})", "task own: METRICS does not declare 'row'"),
        ("TaskResult({}, choices={'best': float('inf')})", "task own: best is inf, not a finite number"),
        ("{'rows': 1.0}", "task own: measure must give a TaskResult, got dict"),
    ],
)
def test_what_a_task_must_not_give_fails_that_model_alone(trained, own_file, tmp_path, capsys, wrong, words):
    models = [str(trained / "models" / f"{method}-seed0") for method in ("simclr", "random")]
    options = ["--limit", "200", "--tasks", "own", "--no-cache", "--task-file", str(own_file(wrong))]
    assert main(["evaluate", *models, *options, "--output", str(tmp_path / "a.json")]) == 2
    assert words in capsys.readouterr().err
    (row,) = json.loads((tmp_path / "a.json").read_text())["models"]
    assert (row["model"], row["metrics"]["rows"]) == ("random-seed0", 40)


def test_a_task_with_a_defect_keeps_its_traceback_and_the_numbers_of_before(trained, own_file, tmp_path, capsys):
    models = [str(trained / "models" / f"{method}-seed0") for method in ("random", "simclr")]
    options = ["--limit", "200", "--tasks", "own", "--no-cache", "--task-file", str(own_file("1 / 0"))]
    with pytest.raises(ZeroDivisionError):
        main(["evaluate", *models, *options, "--output", str(tmp_path / "a.json")])
    assert "random-seed0" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "a.json").read_text())["models"]) == 1


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
