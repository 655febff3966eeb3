"""Comparisons of runs and methods, and the doctor of any embeddings."""

import json
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats

from gmje_bench.cli import main
from gmje_bench.compare import compare_methods, compare_runs
from gmje_bench.doctor import diagnose
from gmje_bench.errors import OptionError, RunFolderError
from gmje_bench.report.leaderboard import boards
from gmje_bench.report.significance import holm
from gmje_bench.runs import Record, write_results


def records(method: str, *values: float, name: str = "linear_probe") -> list[Record]:
    return [Record(method=method, seed=s, status="ok", metrics={name: v}) for s, v in enumerate(values)]


def test_differences_are_paired_over_common_seeds(make_results):
    first = make_results(*records("gmje", 80.0, 70.0, 60.0, 50.0))
    second = make_results(*records("gmje", 81.0, 71.5, 61.2))
    (found,) = compare_runs(first, second)
    assert (found.method, found.metric, found.seeds, found.better) == ("gmje", "linear_probe", 3, True)
    assert found.mean == pytest.approx((1 + 1.5 + 1.2) / 3)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 2, found.mean, stats.sem([1, 1.5, 1.2])))
    assert found.p == pytest.approx(stats.ttest_1samp([1, 1.5, 1.2], 0).pvalue)
    assert found.told_apart
    back = compare_runs(second, first)[0]
    assert back.mean == pytest.approx(-found.mean)
    assert not back.better


def test_one_seed_has_neither_interval_nor_test(make_results):
    one = compare_runs(make_results(*records("a", 1.0)), make_results(*records("a", 2.0)))[0]
    assert (one.low, one.high, one.p, one.mean, one.told_apart) == (None, None, None, 1.0, False)


def test_equal_numbers_are_equal(make_results):
    same = compare_runs(make_results(*records("a", 1.0, 2.0)), make_results(*records("a", 1.0, 2.0)))[0]
    assert (same.mean, same.low, same.high, same.better, same.p) == (0.0, None, None, None, 1.0)


@pytest.mark.parametrize(("seeds", "p"), [(2, 0.5), (3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_differences_that_agree_by_chance_are_no_certainty(make_results, seeds, p):
    first = make_results(*records("a", *(79.1 + 1.1 * seed for seed in range(seeds))))
    second = make_results(*records("a", *(79.6 + 1.1 * seed for seed in range(seeds))))
    (found,) = compare_runs(first, second)
    assert (found.low, found.high, found.p) == (None, None, p)
    assert found.told_apart == (p < 0.05)


def test_several_methods_are_corrected_together(make_results):
    shifts = {"a": (1.0, 1.5, 1.2), "b": (0.1, 0.4, 0.3), "c": (0.5, -0.2, 0.1)}
    base = (80.0, 81.0, 82.5)
    first = make_results(*(r for name in shifts for r in records(name, *base)))
    moved = {name: [b + d for b, d in zip(base, by, strict=True)] for name, by in shifts.items()}
    second = make_results(*(r for name, values in moved.items() for r in records(name, *values)))
    raw = [stats.ttest_1samp(by, 0).pvalue for by in shifts.values()]
    found = compare_runs(first, second)
    assert [d.p for d in found] == pytest.approx(holm(raw))
    assert raw[0] < 0.05 / 3 < raw[1]
    assert [d.told_apart for d in found] == [True, False, False]
    against = compare_methods(make_results(*records("z", *base), *second.records), "z")
    assert [(d.method, d.p) for d in against] == [(d.method, pytest.approx(d.p)) for d in found]


def test_the_marks_are_those_of_the_report(make_results):
    drawn = np.random.default_rng(3).normal(80.0, 1.0, size=(4, 5)) + np.array([[0.0], [0.5], [3.0], [-3.0]])
    results = make_results(*(r for name, row in zip("abcd", drawn.tolist(), strict=True) for r in records(name, *row)))
    (board,) = boards(results, "a")
    tied = {line.labels[0]: line.cells[0].mark == "tied" for line in board.lines if line.labels[0] != "a"}
    assert {d.method: not d.told_apart for d in compare_methods(results, "a")} == tied
    assert set(tied.values()) == {True, False}


def test_lower_can_be_better(make_results):
    first, second = (make_results(*records("a", v, name="aurc_softmax")) for v in (0.3, 0.2))
    assert compare_runs(first, second)[0].better


def test_failed_seeds_take_no_part(make_results):
    first = make_results(*records("a", 1.0, 2.0))
    second = make_results(*records("a", 3.0), Record(method="a", seed=1, status="failed", error="no"))
    assert compare_runs(first, second)[0].seeds == 1


def test_methods_of_a_run_against_a_reference(make_results):
    results = make_results(*records("gmje", 86.0, 87.0), *records("simclr", 85.0, 86.5), *records("random", 80.0, 81.0))
    found = {d.method: d.mean for d in compare_methods(results, "simclr")}
    assert found == {"gmje": 0.75, "random": -5.25}
    with pytest.raises(OptionError, match="no method 'simclear'; did you mean simclr"):
        compare_methods(results, "simclear")


@pytest.mark.parametrize(("change", "words"), [
    (lambda r: r.protocol.update(version="9"), "protocol differs .version: '9' and '1'"),
    (lambda r: setattr(r.dataset, "fingerprint", "g"), "dataset differs"),
    (lambda r: r.options["training"].update(epochs=3), "option training differs .epochs: 3 and 2"),
])  # fmt: skip
def test_runs_that_mean_different_things_are_refused(make_results, change, words):
    first, second = make_results(*records("a", 1.0)), make_results(*records("a", 2.0))
    first = first.model_copy(deep=True)
    change(first)
    with pytest.raises(RunFolderError, match=words):
        compare_runs(first, second)


def test_nothing_in_common(make_results):
    with pytest.raises(RunFolderError, match="no method, metric and seed in common"):
        compare_runs(make_results(*records("a", 1.0)), make_results(*records("b", 1.0)))


def test_the_command_prints_and_writes(make_results, tmp_path, capsys):
    for name, shift in (("one", 0.0), ("two", 2.0)):
        (tmp_path / name).mkdir()
        values = (80 + shift, 81 + 1.1 * shift, 82.5 + 0.9 * shift)
        write_results(tmp_path / name, make_results(*records("gmje", *values)))
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert main(["compare", one, two, "--json", str(tmp_path / "d.json")]) == 0
    assert "+2 % *" in capsys.readouterr().out
    written = json.loads((tmp_path / "d.json").read_text())[0]
    assert 1.4 < written["low"] < 1.6
    assert written["p"] < 0.05
    for wrong in ([one], [one, two, "--reference", "gmje"], [one, two, one]):
        assert main(["compare", *wrong]) == 2
        assert "compare takes two run folders, or one and --reference METHOD" in capsys.readouterr().err
    assert main(["compare", one, str(tmp_path / "tow")]) == 2
    assert "did you mean" in capsys.readouterr().err


# The doctor


def healthy(rows: int = 400, dim: int = 64) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, dim))


def low_rank() -> np.ndarray:
    return healthy(400, 2) @ np.random.default_rng(1).normal(size=(2, 64))


@pytest.mark.parametrize(("embeddings", "verdict"), [
    (healthy(), "healthy"), (low_rank(), "dimensional collapse"), (np.ones((400, 64)), "complete collapse"),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["npy", "safetensors", "lists", "columns"])
def test_verdicts_from_every_kind_of_file(embeddings, verdict, kind, tmp_path, capsys):
    path = tmp_path / f"z.{'parquet' if kind in ('lists', 'columns') else kind}"
    if kind == "npy":
        np.save(path, embeddings.astype(np.float32))
    elif kind == "safetensors":
        save_file({"z": torch.from_numpy(embeddings)}, path)
    elif kind == "lists":
        pq.write_table(pa.table({"id": list(range(400)), "z": embeddings.tolist()}), path)
    else:
        pq.write_table(pa.table({f"z{i}": embeddings[:, i] for i in range(64)}), path)
    assert main(["doctor", str(path)]) == (verdict != "healthy")
    out = capsys.readouterr().out
    assert out.startswith(f"{verdict}: 400 embeddings of size 64")
    assert "effective rank" in out


def test_two_files_are_context_and_target(tmp_path, capsys):
    z = healthy()
    for name, values in (("a", z), ("b", z + 0.1 * healthy())):
        np.save(tmp_path / f"{name}.npy", values)
    assert main(["doctor", str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]) == 0
    assert "alignment" in capsys.readouterr().out
    assert "alignment" not in diagnose(z).evidence


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_numbers_of_few_bits_are_read(dtype, tmp_path, capsys):
    path = tmp_path / "z.safetensors"
    save_file({"z": torch.from_numpy(healthy()).to(dtype)}, path)
    assert main(["doctor", str(path)]) == 0
    assert "effective rank" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["npy", "safetensors", "parquet"])
def test_the_doctor_answers_without_torch(kind, tmp_path):
    path = tmp_path / f"z.{kind}"
    if kind == "npy":
        np.save(path, healthy())
    elif kind == "safetensors":
        save_file({"z": torch.from_numpy(healthy())}, path)
    else:
        pq.write_table(pa.table({"z": healthy().tolist()}), path)
    code = (
        "import sys; from gmje_bench.cli import main; status = main(['doctor', sys.argv[1], sys.argv[1]]); "
        "print(status, {'torch', 'matplotlib', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 set()", done.stdout + done.stderr


def write(path, content):
    path.write_bytes(content)


@pytest.mark.parametrize(("name", "make", "words"), [
    ("none.npy", lambda p: None, "No such file"),
    ("z.npz", lambda p: np.savez(p, z=healthy()), "its ending is unknown; did you mean .npy"),
    ("z.npy", lambda p: np.save(p, np.array([{}, 1], dtype=object), allow_pickle=True), "is not an array of numbers"),
    ("z.npy", lambda p: write(p, b"\x93NUMPY"), "is not an array of numbers"),
    ("z.npy", lambda p: np.save(p, np.zeros(5)), r"has shape \(5,\)"),
    ("z.npy", lambda p: np.save(p, np.array([["a", "b"], ["c", "d"]])), "not numbers"),
    ("z.npy", lambda p: np.save(p, np.array([[1.0, 2.0], [1.0, np.nan]])), "in 1 row.s., first row 1"),
    ("z.safetensors", lambda p: write(p, b"12345678"), "not a whole safetensors file"),
    ("z.safetensors", lambda p: save_file({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, p), "name one with --key"),
    ("z.parquet", lambda p: write(p, b"PAR1"), "not a whole Parquet file"),
    ("z.parquet", lambda p: pq.write_table(pa.table({"t": ["a", "b"]}), p), "no column of numbers"),
    ("z.parquet", lambda p: pq.write_table(pa.table({"z": [[1.0], [1.0, 2.0]]}), p), "of different sizes"),
])  # fmt: skip
def test_files_that_are_no_embeddings(name, make, words, tmp_path, capsys):
    path = tmp_path / name
    make(path)
    assert main(["doctor", str(path)]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(words, error), error


def test_a_key_chooses(tmp_path, capsys):
    path = tmp_path / "z.safetensors"
    save_file({"good": torch.from_numpy(healthy()), "flat": torch.ones(400, 64)}, path)
    assert main(["doctor", str(path), "--key", "good"]) == 0
    assert main(["doctor", str(path), "--key", "flat"]) == 1
    capsys.readouterr()
    assert main(["doctor", str(path), "--key", "godo"]) == 2
    assert "did you mean good" in capsys.readouterr().err
