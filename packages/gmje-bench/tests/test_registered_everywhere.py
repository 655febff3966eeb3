"""Tasks and methods of one's own, from files and from installed packages, in every command."""

import json
from importlib import metadata
from pathlib import Path

import pytest

import gmje_bench
from gmje_bench.cli import main
from gmje_bench.errors import OptionError
from gmje_bench.methods import METHODS
from gmje_bench.runs import METRICS, read_results
from gmje_bench.tasks import TASKS

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
METHOD = str(EXAMPLES / "align_uniform.py")
TASK = '''"""Number of test images."""
from gmje_bench.report.blocks import Words
from gmje_bench.runs import Metric
from gmje_bench.tasks.subject import TaskResult
METRICS = {"rows": Metric(title="number of rows", higher_is_better=True, task="counting")}
def measure(subject):
    return TaskResult({"rows": float(len(subject.test.features))})
def section(run, drawer):
    return [Words("It was counted.")]
'''
SMALL = ["run", "--suite", "smoke", "--limit", "150", "--epochs", "1", "--methods"]


@pytest.fixture(autouse=True)
def forget():
    """What a command registers is forgotten before the next one, as in a process of its own."""
    registries = [(registry, dict(registry)) for registry in (TASKS, METRICS, METHODS)]

    def restore():
        for registry, before in registries:
            registry.clear()
            registry.update(before)

    yield restore
    restore()


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "counting.py"
    path.write_text(TASK)
    return path


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Entry points as of installed packages."""

    def install(group, **modules):
        entries = [metadata.EntryPoint(name, module, group) for name, module in modules.items()]
        monkeypatch.setattr(metadata, "entry_points", lambda group: [one for one in entries if one.group == group])
        monkeypatch.syspath_prepend(tmp_path)

    return install


def test_a_task_file_is_run_reported_and_checked(task, tmp_path, forget, capsys):
    folder, option = tmp_path / "run", ["--task-file", str(task)]
    assert main([*SMALL, "random", "--tasks", "knn", *option, "--output", str(folder)]) == 0
    results = read_results(folder)
    (record,) = results.records
    assert results.options["tasks"] == ["knn", "counting"]
    assert record.metrics["rows"] > 0
    assert results.sources["task counting"].startswith("sha256:")
    forget()
    assert main(["validate", str(folder)]) == 0
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "number of rows" in page, "the leaderboard needs no file"
    assert "It was counted." not in page
    assert main(["report", str(folder), *option]) == 0
    assert "It was counted." in (folder / "report.html").read_text()
    forget()
    again = [*SMALL, "random", "--tasks", "knn", *option, "--output", str(folder), "--resume"]
    assert main(again) == 0
    forget()
    task.write_text(TASK + "# changed\n")
    capsys.readouterr()
    assert main(again) == 2
    assert "task counting" in capsys.readouterr().err, "another program is another task"


def test_a_suite_may_name_the_task_of_a_file(task, tmp_path, forget, capsys):
    suite = tmp_path / "mine.toml"
    suite.write_text('extends = "smoke"\ntasks = ["counting"]\n')
    assert main(["validate", "--suite", str(suite)]) == 2
    assert "unknown task 'counting'" in capsys.readouterr().err
    assert main(["validate", "--suite", str(suite), "--task-file", str(task)]) == 0
    assert main(["run", "--suite", str(suite), "--task-file", str(task), "--dry-run"]) == 0


def test_synthetic_suites_have_no_tasks_of_files(task, capsys):
    assert main(["run", "--suite", "synthetic", "--task-file", str(task), "--dry-run"]) == 2
    assert "--task-file" in capsys.readouterr().err


def test_a_run_with_plug_ins_can_be_evaluated(task, tmp_path, forget, capsys):
    folder, output = tmp_path / "run", tmp_path / "a.json"
    options = ["--task-file", str(task), "--method-file", METHOD, "--tasks", "knn", "--output", str(folder)]
    assert main([*SMALL, "align_uniform,random", *options]) == 0
    expected = {record.method: record.metrics["knn"] for record in read_results(folder).records}
    forget()
    model = str(folder / "models" / "align_uniform-seed0")
    evaluate = ["evaluate", "--limit", "150", "--tasks", "knn", "--no-cache", "--output", str(output)]
    assert main([*evaluate, model]) == 2
    error = capsys.readouterr().err
    assert "unknown method 'align_uniform'" in error
    assert "--method-file" in error
    assert main([*evaluate, str(folder / "models" / "random-seed0")]) == 0, "the run's own task plays no part"
    assert main([*evaluate, model, "--method-file", METHOD]) == 0
    (row,) = json.loads(output.read_text())["models"]
    assert row["metrics"]["knn"] == expected["align_uniform"]
    forget()
    edited = tmp_path / Path(METHOD).name
    edited.write_text(Path(METHOD).read_text() + "# edited\n")
    capsys.readouterr()
    assert main([*evaluate, model, "--method-file", str(edited)]) == 2
    assert "was trained by another 'align_uniform' (sha256:" in capsys.readouterr().err


def test_installed_tasks_are_known_everywhere(task, tmp_path, forget, installed, capsys):
    installed("gmje_bench.tasks", counting="counting")
    assert main(["list"]) == 0
    assert "counting             Number of test images\n" in capsys.readouterr().out
    folder = tmp_path / "run"
    forget()
    assert main([*SMALL, "random", "--tasks", "counting", "--output", str(folder)]) == 0
    assert read_results(folder).sources == {"task counting": "counting:counting"}
    forget()
    assert main(["report", str(folder)]) == 0
    assert "It was counted." in (folder / "report.html").read_text()
    forget()
    pixels = gmje_bench.evaluate(lambda images: images.flatten(1), "embedded", ["counting"], limit=150)
    assert pixels.metrics["rows"] > 0, "in Python too"


def test_an_installed_task_that_is_broken_is_left_out_with_a_warning(task, tmp_path, installed, capsys):
    (tmp_path / "no_task.py").write_text("x = 1\n")
    installed("gmje_bench.tasks", broken="no_such_module", empty="no_task", knn="counting", counting="counting")
    warned = "task broken: .*ModuleNotFoundError|task empty: .*no function 'measure'|'knn' of a task that exists"
    with pytest.warns(UserWarning, match=warned) as caught:
        assert main(["list"]) == 0
    assert len(caught) == 3
    shown = capsys.readouterr().out
    assert "counting  " in shown
    assert "broken  " not in shown
    with pytest.warns(UserWarning, match=warned), pytest.raises(OptionError, match="unknown task 'broken'"):
        gmje_bench.evaluate(lambda images: images.flatten(1), "embedded", ["broken"], limit=50)


def test_list_shows_what_files_hold(task, capsys):
    assert main(["list", "--task-file", str(task), "--method-file", METHOD]) == 0
    shown = capsys.readouterr().out
    assert "Number of test images" in shown
    assert "align_uniform  " in shown
