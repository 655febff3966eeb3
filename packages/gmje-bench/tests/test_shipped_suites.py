"""Every suite of the package, and every task alone, from the command line to the HTML report: small, but for real."""

from pathlib import Path

import pytest

from gmje_bench import report
from gmje_bench.cli import main
from gmje_bench.runs import read_results
from gmje_bench.suites import SYNTHETIC_TASKS, load_suite, suite_names
from gmje_bench.tasks import TASKS

pytestmark = pytest.mark.usefixtures("small")

ONE_JOB = ("--jobs", "1")  # other processes would read the protocol at its full size
SMALL_IMAGES = ("--limit", "150", "--epochs", "1", "--batch-size", "50", "--methods", "random,gmje", *ONE_JOB)
SMALL_PAIRS = ("--limit", "100", "--epochs", "1", "--methods", "gje", *ONE_JOB)
ACCURACIES = {"linear_probe", "knn"}


def run_and_report(folder: Path, *arguments: str) -> Path:
    assert main(["run", *arguments, "--output", str(folder)]) == 0
    assert main(["validate", str(folder)]) == 0
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert page.rstrip().endswith("</html>")
    assert "<svg" in page or "<img" in page or read_results(folder).records == []
    return folder


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_ends_with_a_report(name, tmp_path):
    has_images = load_suite(name).dataset is not None
    folder = run_and_report(tmp_path / "run", "--suite", name, *(SMALL_IMAGES if has_images else SMALL_PAIRS))
    results = read_results(folder)
    assert results.failed() == []
    assert {record.method for record in results.records} == ({"random", "gmje"} if has_images else set())
    assert (folder / "diagnostics.png").exists() == has_images
    assert (folder / "alignment.png").exists() == (load_suite(name).synthetic is not None)
    measured = {name for record in results.records for name in record.metrics}
    assert (folder / "accuracy.png").exists() == bool(measured & ACCURACIES)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_alone_ends_with_a_report(task, tmp_path, capsys):
    folder = run_and_report(tmp_path / "run", "--suite", "vision", "--tasks", task, *SMALL_IMAGES)
    assert "warning: " not in capsys.readouterr().err
    results = read_results(folder)
    assert all(results.metrics[name].task in (task, "effective_rank") for r in results.records for name in r.metrics)
    assert any(results.metrics[name].task == task for record in results.records for name in record.metrics)
    assert (folder / "accuracy.png").exists() == (task in ACCURACIES)


@pytest.mark.parametrize("task", SYNTHETIC_TASKS)
def test_every_synthetic_task_alone_ends_with_a_report(task, tmp_path):
    folder = run_and_report(tmp_path / "run", "--suite", "synthetic", "--tasks", task, *SMALL_PAIRS)
    assert {(record.task, record.status) for record in read_results(folder).alignment} == {(task, "ok")}
    assert (folder / "alignment.png").exists()


def test_a_figure_that_cannot_be_drawn_is_one_warning(tmp_path, capsys, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("no ink\nat all")

    monkeypatch.setattr(report, "draw_accuracy", broken)
    folder = run_and_report(tmp_path / "run", "--suite", "vision", "--tasks", "knn", *SMALL_IMAGES)
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warned == ["warning: accuracy.png was not drawn (RuntimeError: no ink at all); the results are not affected"]
    assert not (folder / "accuracy.png").exists()
    assert (folder / "diagnostics.png").exists(), "the other figures are drawn"
    assert [record.status for record in read_results(folder).records] == ["ok", "ok"]


def test_what_is_only_looked_at_fails_no_method(tmp_path, capsys, monkeypatch):
    from gmje_bench.evaluation import measure

    def latent_map(*_: object) -> None:
        raise ValueError("perplexity")

    monkeypatch.setattr(measure, "latent_map", latent_map)
    run_and_report(tmp_path / "run", "--suite", "vision", "--tasks", "uncertainty", *SMALL_IMAGES)
    assert "random seed 0: latent_map was not made (ValueError: perplexity)" in capsys.readouterr().err
