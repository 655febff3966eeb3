"""The synthetic tasks as a whole: units, files, processes, failures and the picture."""

import multiprocessing

import pytest
import torch

from gmje_bench.alignment import rivals
from gmje_bench.alignment.conditional import Conditional
from gmje_bench.alignment.engine import TRUTH, Picture, run, units
from gmje_bench.alignment.figure import draw_alignment
from gmje_bench.alignment.rivals import Rival
from gmje_bench.alignment.tasks import make_truth
from gmje_bench.cli import main
from gmje_bench.errors import BenchError, OptionError
from gmje_bench.runs import METRICS, read_results, write_results
from gmje_bench.suites import Synthetic
from gmje_core import ConfigError


def options(**changes):
    return Synthetic(
        **{"tasks": ["crossing", "ring"], "methods": ["gje", "gmje"], "samples": 400, "epochs": 1} | changes
    )


def test_units_of_all_dimensions_and_seeds_are_measured():
    chosen = options(tasks=["crossing"], dims=[0, 16])
    work = units(chosen, [0, 1])
    assert work == [("crossing", None, 0), ("crossing", None, 1), ("crossing", 16, 0), ("crossing", 16, 1)]
    for unit, found in zip(work, run(chosen, work), strict=True):
        assert [r.method for r in found.records] == [TRUTH, "gje", "gmje"]
        assert all((r.task, r.dim, r.seed) == unit for r in found.records)
        for record in found.records:
            wanted = {name for name, metric in METRICS.items() if metric.task == "synthetic"}
            assert set(record.metrics) == wanted - ({"theory"} if record.method != "gje" else set())
        floor = found.records[0].metrics
        assert floor["kl"] == 0
        assert floor["recall"] == 1
        assert floor["weights"] < 0.1
        assert abs(floor["energy"]) < 0.02
        assert (found.picture is None) == (unit.dim is not None)
        if found.picture is not None:
            again = Picture.from_tensors("crossing", found.picture.tensors())
            assert again.samples.keys() == {TRUTH, "gje", "gmje"}
            assert all(torch.equal(again.means[name], z) for name, z in found.picture.means.items())


def test_the_suite_writes_files_and_picture(tmp_path, capsys):
    folder = tmp_path / "results"
    command = [
        "run",
        "--suite",
        "synthetic",
        "--tasks",
        "crossing",
        "--methods",
        "gje",
        "--limit",
        "400",
        "--jobs",
        "1",
    ]
    assert main([*command, "--output", str(folder)]) == 0
    results = read_results(folder)
    assert results.dataset is None
    assert [(r.dim, r.method) for r in results.alignment] == [(d, m) for d in (None, 16) for m in (TRUTH, "gje")]
    assert (folder / "alignment.png").read_bytes().startswith(b"\x89PNG")
    captured = capsys.readouterr()
    assert "crossing, 16-d" in captured.out
    assert "gje on crossing in 16 dimensions, seed 0: KL" in captured.err
    before = (folder / "alignment.png").read_bytes()
    assert main([*command, "--output", str(folder)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    results.alignment = results.alignment[:2]  # as if it had been killed there
    write_results(folder, results)
    assert main([*command, "--output", str(folder), "--resume"]) == 0
    assert "1 to do, 2 finished before" not in capsys.readouterr().err
    assert len(read_results(folder).alignment) == 4
    assert (folder / "alignment.png").read_bytes() == before


def test_processes_change_no_number():
    chosen = options(tasks=["crossing", "band"], methods=["mse", "gje"], samples=300)
    alone, together = (
        [r.model_dump(exclude={"seconds"}) for found in run(chosen, units(chosen, [0]), jobs) for r in found.records]
        for jobs in (1, 2)
    )
    assert alone == together


def test_a_killed_process_ends_the_run_with_a_reason(monkeypatch):
    chosen = options()
    found = run(chosen, units(chosen, [0, 1, 2]), 2)
    next(found)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(BenchError, match=r"was killed .*--resume"):
        list(found)


def test_a_failure_says_so_and_stops_nothing(tmp_path, capsys, monkeypatch):
    def fail(*_: object) -> Conditional:
        raise ConfigError("no such luck")

    monkeypatch.setitem(rivals.RIVALS, "gje", Rival("gje", "GJE", fail))
    command = ["run", "--suite", "synthetic", "--tasks", "crossing", "--methods", "gje,gmje", "--limit", "400"]
    status = main([*command, "--jobs", "1", "--output", str(tmp_path / "run")])
    assert status == 1
    assert "failed: gje on crossing, seed 0: ConfigError: no such luck\n" in capsys.readouterr().out
    records = read_results(tmp_path / "run").alignment
    assert [r.status for r in records] == ["ok", "failed", "ok"] * 2
    assert records[1].metrics == {}


def test_an_unknown_task_is_an_option_error():
    with pytest.raises(OptionError, match="did you mean pinwheel"):
        make_truth("pinweel")
    with pytest.raises(OptionError, match="at least 2 dimensions, got 1"):
        make_truth("ring", dim=1)


def test_the_picture_has_a_row_a_task_and_a_column_a_method(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("gmje_bench.alignment.figure.Figure.savefig", lambda figure, *_, **__: drawn.append(figure))
    chosen = options(methods=["mse", "gje"], samples=300)
    found = list(run(chosen, units(chosen, [0])))
    records = [record for unit in found for record in unit.records]
    pictures = [unit.picture for unit in found]
    del pictures[1].samples["gje"]  # as after a failure
    backwards = dict(reversed(pictures[0].samples.items()))  # as a file may give them
    pictures[0] = pictures[0]._replace(samples=backwards)
    draw_alignment(pictures, records, tmp_path / "picture.png")
    axes = drawn[0].axes
    assert len(axes) == 6
    kl = next(r.metrics["kl"] for r in records if (r.task, r.method) == ("crossing", "mse"))
    assert axes[1].get_title() == f"MSE regression\nKL {kl:.3f} nats"
    assert axes[0].get_xlim() == axes[1].get_xlim() == axes[2].get_xlim()
    assert axes[0].get_ylabel() == "crossing branches\ntarget"
    assert axes[3].get_xlabel() == "target 1"
    assert [text.get_text() for text in axes[5].texts] == ["failed"]
