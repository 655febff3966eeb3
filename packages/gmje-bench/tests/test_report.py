"""The report against its numbers: intervals, tables, and what the figures show."""

import io
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from gmje_bench.report import Estimate, draw_accuracy, draw_diagnostics, figures, markdown, rich_table, summarise
from gmje_bench.report.charts import draw_dots
from gmje_bench.report.leaderboard import Board, Cell, Column, Line
from gmje_bench.report.palette import method_styles
from gmje_bench.report.tables import heading
from gmje_bench.runs import METRICS, Record, Results

ACCURACIES = {"gmje": (83.0, 85.0, 87.0), "gje-batch": (39.0, 40.0, 42.0)}


def record(method: str, seed: int, value: float) -> Record:
    history = [
        {"epoch": float(epoch), "loss": value / epoch, "effective_rank": value, "log_det_per_dim": -value / 10}
        | ({"trace_ratio": 1.0} if method == "gje-batch" else {})
        for epoch in (1, 2)
    ]
    return Record(
        method=method,
        seed=seed,
        status="ok",
        metrics={"linear_probe": value, "knn": value - 5, "effective_rank": value / 2},
        verdict="healthy" if method == "gmje" else "trace trap",
        history=history,
        seconds={"pretrain": 10.0, "knn": 2.0},
    )


@pytest.fixture
def results(make_results) -> Results:
    return make_results(*[record(m, seed, v) for m, values in ACCURACIES.items() for seed, v in enumerate(values)])


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """Figures, as they are about to be saved."""
    kept: list[Figure] = []
    save = figures.save_png
    monkeypatch.setattr(figures, "save_png", lambda figure, path: (kept.append(figure), save(figure, path)))
    return kept


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_intervals_are_scipys(n):
    values = np.random.default_rng(n).normal(80, 3, n)
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    estimate = Estimate.of(list(values))
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.mean - estimate.half_width == pytest.approx(low)
    assert estimate.mean + estimate.half_width == pytest.approx(high)


def test_one_seed_has_no_interval(results):
    results.records = [r for r in results.records if r.seed == 0]
    row = summarise(results)[0]
    assert row.estimates["linear_probe"] == Estimate(83.0, None)
    assert "±" not in str(row.estimates["linear_probe"])


def test_rows_keep_the_order_of_running_and_the_mean_time(results):
    first, second = summarise(results)
    assert (first.method, second.method) == ("gmje", "gje-batch")
    assert (first.seconds, first.seeds, first.verdict) == (12.0, 3, "healthy")
    assert second.verdict == "trace trap"


def test_verdicts_that_differ_are_all_shown(results):
    results.records[1].verdict = "dead components"
    assert summarise(results)[0].verdict == "healthy, dead components"


@pytest.mark.parametrize("name", ["auroc.held_out.joint", "linear_probe"])
def test_a_chart_holds_its_title_and_its_ticks(name):
    values = {"gmje": 0.89725, "simclr": 0.89900}
    figure = draw_dots(
        {method: (Estimate(value, None), [value]) for method, value in values.items()},
        heading(METRICS[name]),
        method_styles(values),
    )
    figure.draw_without_rendering()
    axes = figure.axes[0]
    label = axes.xaxis.label.get_window_extent()
    assert figure.bbox.x0 <= label.x0
    assert label.x1 <= figure.bbox.x1
    low, high = axes.get_xlim()
    ticks = [t.label1.get_window_extent() for t in axes.xaxis.get_major_ticks() if low <= t.get_loc() <= high]
    assert all(one.x1 < two.x0 for one, two in itertools.pairwise(ticks))


def test_a_board_is_a_table_of_markdown():
    lines = (Line(("a|b",), (Cell("1"), Cell("2"))), Line(("c",), (), "failed"))
    board = Board("title", ("method",), (Column("kNN", "↑"), Column("mean", "")), lines, ())
    assert board.markdown().split("\n") == [
        "| method | kNN ↑ | mean |",
        "| --- | ---: | ---: |",
        r"| a\|b | 1 | 2 |",
        "| c | failed | – |",
    ]


def test_markdown_is_a_table(results):
    lines = markdown(results).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + len(ACCURACIES)
    assert len({row.count("|") for row in rows}) == 1, "every row has a cell for every column"
    assert "linear probe [%]" in rows[0]
    assert "85.0 ± 5.0" in rows[2]
    assert "trace trap" in rows[3]


def test_the_terminals_table_holds_the_same(results):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(rich_table(results))
    text = console.export_text()
    for word in ("85.0 ± 5.0", "trace trap", "protocol v1", "kNN [%]"):
        assert word in text


def test_bars_are_the_means_with_their_intervals(results, drawn, tmp_path):
    draw_accuracy(results, tmp_path / "accuracy.png")
    axes = drawn[0].axes[0]
    rows = summarise(results)
    probe, knn = (row_of_bars for row_of_bars in axes.containers if hasattr(row_of_bars, "errorbar"))
    for bars, name in ((probe, "linear_probe"), (knn, "knn")):
        assert [bar.get_height() for bar in bars] == pytest.approx([row.estimates[name].mean for row in rows])
        segments = bars.errorbar.lines[2][0].get_segments()
        for segment, row in zip(segments, rows, strict=True):
            assert np.ptp(segment[:, 1]) == pytest.approx(2 * row.estimates[name].half_width)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["gmje", "gje-batch"]
    assert "%" in axes.get_ylabel()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        METRICS[k].title for k in figures._ACCURACIES
    ]
    assert_png(tmp_path / "accuracy.png")


def test_diagnostics_show_every_seed_over_the_epochs(results, drawn, tmp_path):
    draw_diagnostics(results, tmp_path / "diagnostics.png")
    loss, rank, volume, ratio = drawn[0].axes
    assert [len(axes.get_lines()) for axes in (loss, rank, volume)] == [6, 6, 6]
    assert len(ratio.get_lines()) == 3 + 1, "gje-batch alone reports the ratio; and the line at 1"
    assert list(loss.get_lines()[0].get_ydata()) == [83.0, 41.5]
    assert "nats" in volume.get_ylabel()
    assert all(axes.get_xlabel() == "epoch" for axes in (loss, rank, volume, ratio))
    assert {text.get_text() for text in drawn[0].legends[0].get_texts()} == set(ACCURACIES)
    colors = {line.get_color() for line in loss.get_lines()}
    assert len(colors) == len(ACCURACIES), "a colour for a method, not for a seed"
    assert_png(tmp_path / "diagnostics.png")


@pytest.mark.parametrize("losses", [(2.5, 2.0), (0.9, 0.1), (-400.0, 12.0), (1e5, -3e4)])
def test_losses_have_plain_tick_labels(results, drawn, tmp_path, losses):
    for one in results.records:
        one.history = [{"epoch": float(epoch), "loss": loss} for epoch, loss in enumerate(losses, start=1)]
    draw_diagnostics(results, tmp_path / "diagnostics.png")
    axes = drawn[0].axes[0]
    low, high = axes.get_ylim()
    labels = [t.get_text() for t, y in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True) if low <= y <= high]
    assert len(labels) >= 3
    assert all(re.fullmatch(r"\N{MINUS SIGN}?[0-9,]+(\.[0-9]{1,2})?", label) for label in labels), labels


def test_a_run_of_untrained_encoders_draws_too(results, tmp_path):
    for one in results.records:
        one.history, one.verdict = [], None
    draw_diagnostics(results, tmp_path / "diagnostics.png")
    assert_png(tmp_path / "diagnostics.png")
    assert summarise(results)[0].verdict == "untrained"


def test_gaps_in_a_history_are_left_out(results, drawn, tmp_path):
    del results.records[0].history[0]["log_det_per_dim"]  # was not finite
    draw_diagnostics(results, tmp_path / "diagnostics.png")
    assert list(drawn[0].axes[2].get_lines()[0].get_xdata()) == [2.0]
    assert not any(math.isnan(y) for line in drawn[0].axes[2].get_lines() for y in line.get_ydata())


def assert_png(path: Path) -> None:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
    assert width >= 600
    assert height >= 400
