"""The leaderboard has a table for every task, its methods from best to worst, with what the seeds can tell apart.

Here are the numbers and words of the cells; the page's template only lays them out.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from gmje_bench.errors import OptionError, did_you_mean
from gmje_bench.report.significance import PairedTests, paired_tests
from gmje_bench.report.tables import (
    AlignmentRow,
    Row,
    alignment_rows,
    decimals,
    heading,
    markdown_line,
    run_metrics,
    seed_values,
    summarise,
)
from gmje_bench.runs import OUTLIER_KINDS, OUTLIER_SCORES, SOURCES, Metric, Results

__all__ = [
    "Board",
    "Cell",
    "Column",
    "Line",
    "Tested",
    "alignment_boards",
    "boards",
    "kind_board",
    "method_title",
    "outlier_boards",
    "source_title",
    "task_title",
]

_TASKS = {
    "linear_probe": "accuracy",
    "knn": "accuracy",
    "few_labels": "accuracy",
    "effective_rank": "accuracy",
    "uncertainty": "uncertainty",
}
_TITLES = {
    "accuracy": "Representation",
    "uncertainty": "Uncertainty",
    "sampling": "Sampling",
    "density": "Densities",
    "completion": "Completions",
}
# Tasks whose metrics end with a dot and the kind of density that they are measured of; see :func:`kind_board`.
_BY_KIND = ("sampling", "density", "completion")
# Tasks that have tables of their own in their sections.
_OWN_TABLES = (*_BY_KIND, "outliers")
_ARROWS = {True: "↑", False: "↓"}


class Column(NamedTuple):
    """Head of a column: words, and which way is better."""

    title: str
    arrow: str


class Cell(NamedTuple):
    """One number.

    Attributes:
        text: Mean and interval; a dash where there is none.
        mark: ``best``, ``tied`` (not told apart from the best, or the reference), ``reference``, or empty.
    """

    text: str
    mark: str = ""


class Line(NamedTuple):
    """A row of a board; ``problem`` says why there are no numbers."""

    labels: tuple[str, ...]
    cells: tuple[Cell, ...]
    problem: str = ""


class Tested(NamedTuple):
    """The tests of one column, for the fold-out below a board."""

    title: str
    reference: str
    p: dict[str, str]


class Board(NamedTuple):
    """A table of the leaderboard."""

    title: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    tests: tuple[Tested, ...]

    def markdown(self) -> str:
        """The table in Markdown, without its title and tests."""
        head = [*self.labels, *(f"{column.title} {column.arrow}".rstrip() for column in self.columns)]
        lines = [markdown_line(head), markdown_line(["---"] * len(self.labels) + ["---:"] * len(self.columns))]
        for line in self.lines:
            cells = [cell.text for cell in line.cells] or [line.problem, *["–"] * (len(self.columns) - 1)]
            lines.append(markdown_line([*line.labels, *cells]))
        return "\n".join(lines)


class _Scores:
    """Estimates, seeds' values and tests of the methods that finished, by metric."""

    def __init__(self, results: Results, reference: str | None) -> None:
        self.metrics = run_metrics(results)
        self.rows = summarise(results)
        names = [row.method for row in self.rows]
        if reference is not None and reference not in names:
            raise OptionError(f"the run has no method {reference!r}{did_you_mean(reference, names)}")
        self.reference = reference
        self.tests: dict[str, PairedTests | None] = {}
        self.places: dict[str, int] = {}
        for name, metric in self.metrics.items():
            complete = [row for row in self.rows if name in row.estimates]
            values = seed_values(results, complete, name)
            self.tests[name] = paired_tests(values, higher_is_better=metric.higher_is_better, reference=reference)
            self.places[name] = decimals([row.estimates[name].mean for row in complete], metric.unit)

    def cell(self, row: Row, name: str) -> Cell:
        if name not in row.estimates:
            return Cell("–")
        return Cell(row.estimates[name].text(self.places[name]), _mark(row.method, self.tests[name], self.reference))

    def ranked(self, name: str) -> list[Row]:
        """Sort rows by a metric, the best first; methods without it come last, in the order of running."""
        sign = -1 if self.metrics[name].higher_is_better else 1
        have = [row for row in self.rows if name in row.estimates]
        rest = [row for row in self.rows if name not in row.estimates]
        return sorted(have, key=lambda row: sign * row.estimates[name].mean) + rest

    def tested(self, names: Iterable[str]) -> tuple[Tested, ...]:
        return tuple(
            Tested(heading(self.metrics[name]), tests.reference, {method: _p(p) for method, p in tests.p.items()})
            for name in names
            if (tests := self.tests[name]) is not None and tests.p
        )


def boards(results: Results, reference: str | None = None) -> list[Board]:
    """A board for every task that the run measured, except those with tables of their own.

    Args:
        results: The results of a run.
        reference: The method that others are tested against; the best of each column where missing.

    Raises:
        OptionError: the run has no such method.
    """
    scores = _Scores(results, reference)
    groups: dict[str, dict[str, Metric]] = {}
    for name, metric in scores.metrics.items():
        if metric.task not in _OWN_TABLES:
            groups.setdefault(_TASKS.get(metric.task, metric.task), {})[name] = metric
    made = []
    for group, metrics in groups.items():
        first = next((name for name, metric in metrics.items() if metric.headline), next(iter(metrics)))
        lines = [
            Line((row.method,), tuple(scores.cell(row, name) for name in metrics), "" if row.estimates else row.verdict)
            for row in scores.ranked(first)
        ]
        title = _TITLES.get(group, group.replace("_", " ").capitalize())
        made.append(Board(title, ("method",), _columns(metrics.values()), tuple(lines), scores.tested(metrics)))
    return made


def kind_board(results: Results, task: str, words: Callable[[str], str], reference: str | None = None) -> Board | None:
    """Measures of a task by method and kind of density; ``None`` where the run has none.

    Args:
        results: The results of a run.
        task: The task, whose metrics are named ``MEASURE.KIND``.
        words: A function that gives words for a kind.
        reference: The same as in :func:`boards`; a cell is tested against the same kind of other methods.
    """
    scores = _Scores(results, reference)
    names = [name for name, metric in scores.metrics.items() if metric.task == task]
    if not names:
        return None
    measures = list(dict.fromkeys(name.partition(".")[0] for name in names))
    sources = list(dict.fromkeys(name.partition(".")[2] for name in names))
    lines = []
    for row in scores.rows:
        if not row.estimates:
            lines.append(Line((row.method, ""), (), row.verdict))
            continue
        for source in sources:
            keys = [f"{measure}.{source}" for measure in measures]
            if any(key in row.estimates for key in keys):
                cells = tuple(scores.cell(row, key) for key in keys)
                lines.append(Line((row.method, words(source)), cells))
    heads = [scores.metrics[next(n for n in names if n.partition(".")[0] == measure)] for measure in measures]
    columns = tuple(
        Column(heading(metric).replace(metric.title, metric.title.split(",")[0]), _ARROWS[metric.higher_is_better])
        for metric in heads
    )
    return Board(_TITLES[task], ("method", "density"), columns, tuple(lines), scores.tested(names))


def outlier_boards(results: Results, reference: str | None = None) -> list[Board]:
    """AUROC and false positive rate by method and score, a column for each kind of outliers; nothing without them.

    Args:
        results: The results of a run.
        reference: The same as in :func:`boards`; a cell is tested against the same score of other methods.
    """
    scores = _Scores(results, reference)
    names = [name.split(".") for name, metric in scores.metrics.items() if metric.task == "outliers"]
    kinds = [kind for kind in OUTLIER_KINDS if any(parts[1] == kind for parts in names)]
    made = []
    for measure, title in (("auroc", "AUROC"), ("fpr95", "False positive rate at 95 %")):
        lines = []
        for row in scores.rows:
            if not row.estimates:
                lines.append(Line((row.method, ""), (), row.verdict))
            for score, words in OUTLIER_SCORES.items():
                keys = [f"{measure}.{kind}.{score}" for kind in kinds]
                if any(key in row.estimates for key in keys):
                    lines.append(Line((row.method, words), tuple(scores.cell(row, key) for key in keys)))
        mine = [".".join(parts) for parts in names if parts[0] == measure]
        if mine:
            columns = tuple(Column(OUTLIER_KINDS[kind], _ARROWS[measure == "auroc"]) for kind in kinds)
            made.append(Board(title, ("method", "score"), columns, tuple(lines), scores.tested(mine)))
    return made


def source_title(source: str) -> str:
    """Words for a source of samples.

    Examples:
        >>> source_title("kde"), source_title("real")
        ('a kernel density, fitted afterwards', 'real embeddings')
    """
    return SOURCES.get(source, {"real": "real embeddings", "original": "test images"}.get(source, source))


def alignment_boards(results: Results) -> list[Board]:
    """KL to the truth and its companions: a board of the KL by task and method, then one with every metric."""
    rows = alignment_rows(results)
    if not rows:
        return []
    made = [_kl_board(rows)] if any("kl" in row.estimates for row in rows) else []
    names = [name for name in results.metrics if any(name in row.estimates for row in rows)]
    metrics = [results.metrics[name] for name in names]
    places = {name: decimals([r.estimates[name].mean for r in rows if name in r.estimates]) for name in names}
    lines = [
        Line(
            (task_title(row.task, row.dim), method_title(row.method)),
            tuple(Cell(row.estimates[name].text(places[name]) if name in row.estimates else "–") for name in names),
            row.error,
        )
        for row in rows
    ]
    return [*made, Board("All measures", ("task", "method"), _columns(metrics), tuple(lines), ())]


def _kl_board(rows: list[AlignmentRow]) -> Board:
    methods = list(dict.fromkeys(row.method for row in rows))
    found = {(row.dim, row.task, row.method): row for row in rows}
    lines = []
    for dim, task in dict.fromkeys((row.dim, row.task) for row in rows):
        here = {method: found.get((dim, task, method)) for method in methods}
        kl = {
            method: row.estimates["kl"].mean
            for method, row in here.items()
            if row is not None and "kl" in row.estimates and method != "truth"
        }
        best = min(kl, key=kl.__getitem__) if kl else None
        cells = tuple(_kl_cell(row, best=method == best) for method, row in here.items())
        lines.append(Line((task_title(task, dim),), cells))
    columns = tuple(Column(method_title(method), "") for method in methods)
    return Board("KL to the truth [nats], lower is better", ("task",), columns, tuple(lines), ())


def _kl_cell(row: AlignmentRow | None, *, best: bool) -> Cell:
    if row is None:
        return Cell("–")
    if row.error:
        return Cell("failed", "failed")
    return Cell(row.estimates["kl"].text(3) if "kl" in row.estimates else "–", "best" if best else "")


def task_title(task: str, dim: int | None) -> str:
    """A synthetic task, with the size that it is lifted to."""
    return task if dim is None else f"{task}, {dim}-d"


def method_title(method: str) -> str:
    """A method on a synthetic task; the truth is the noise floor."""
    return "truth (floor)" if method == "truth" else method


def _columns(metrics: Iterable[Metric]) -> tuple[Column, ...]:
    return tuple(Column(heading(metric), _ARROWS[metric.higher_is_better]) for metric in metrics)


def _mark(method: str, tests: PairedTests | None, reference: str | None) -> str:
    if tests is None:
        return ""
    if method == tests.reference:
        return "best" if reference is None else "reference"
    return "tied" if tests.differs(method) is False else ""


def _p(p: float) -> str:
    """A p-value.

    Examples:
        >>> _p(0.00002), _p(0.0312), _p(0.4)
        ('< 0.001', '0.031', '0.40')
    """
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
