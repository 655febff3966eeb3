"""The section of the leaderboard: the headline metrics as dots, and the tables of all tasks."""

from gmje_bench.report import charts
from gmje_bench.report import leaderboard as boards
from gmje_bench.report.blocks import Content, Figure, Figures, Heading, Table, Words
from gmje_bench.report.embed import Drawer
from gmje_bench.report.palette import method_styles
from gmje_bench.report.significance import POWER, paired_spread, paired_tests, rerun_factor, seeds_to_tell
from gmje_bench.report.tables import Row, heading, headline_metrics, seed_values, summarise
from gmje_bench.runs import Results
from gmje_bench.runs.reading import Run

__all__ = ["leaderboard"]

# The difference that one would like to tell, in points of per cent.
_POINTS = 0.5


def leaderboard(run: Run, drawer: Drawer) -> Content:
    """Tables by task, and the headline metrics as dots with their intervals."""
    tables = boards.boards(run.results, run.reference)
    if not any(row.estimates for row in summarise(run.results)):
        return None
    styles = method_styles(record.method for record in run.results.records)
    rows = [row for row in summarise(run.results) if row.estimates]
    figures = []
    for name, metric in headline_metrics(run.results).items():
        by_seed = seed_values(run.results, rows, name)
        values = {
            row.method: (row.estimates[name], list(by_seed[row.method].values()))
            for row in rows
            if row.method in by_seed
        }
        if values:
            ranked = sorted(values.items(), key=lambda item: (1, -1)[metric.higher_is_better] * item[1][0].mean)
            figure = charts.draw_dots(dict(ranked), heading(metric), styles)
            words = f"{heading(metric)}, {'higher' if metric.higher_is_better else 'lower'} is better"
            alt = f"{words}. " + "; ".join(f"{method} {estimate[0].text(3)}" for method, estimate in ranked)
            figures.append(Figure(words, alt, drawer.svg(figure, alt)))
    seeds = max(row.seeds for row in rows)
    tests = "One seed: no interval and no test."
    if seeds > 1:
        tests = (
            f"Mean ± half of the 95 % t-interval over {seeds} seeds; one further run lies within "
            f"{rerun_factor(seeds):.1f} times that half in 95 % of all cases."
        )
    marks, family = "★ the best mean", "all pairs of methods, because the same numbers choose the best"
    if run.reference:
        marks, family = f"◆ the reference, {run.reference}", "the methods of a column"
    explained = Words(
        f"{tests} ↑ higher is better, ↓ lower is better. {marks}; ≈ not told apart from it (paired t-tests over seeds, "
        f"5 %, Holm's correction over {family}). A method with a failed or unfinished seed has no mean."
        f"{_power(run.results, rows, run.reference)}"
    )
    below = [block for table in tables for block in (Heading(table.title), Table(table))]
    return [explained, Figures(tuple(figures)), *below]


def _power(results: Results, rows: list[Row], reference: str | None) -> str:
    """How many seeds would tell half a point apart, for the headline metrics in per cent; nothing for one seed."""
    needed = []
    for name, metric in headline_metrics(results).items():
        values = seed_values(results, rows, name)
        if metric.unit != "%" or not values:
            continue
        tests = paired_tests(values, higher_is_better=metric.higher_is_better, reference=reference)
        spread = None if tests is None else paired_spread(values, tests.reference)
        if spread is not None:
            needed.append(f"{seeds_to_tell(_POINTS, spread) or 'more than 10,000'} for {metric.title}")
    if not needed:
        return ""
    return f" To tell {_POINTS} points apart in {POWER:.0%} of all cases takes so many seeds: {', '.join(needed)}."
