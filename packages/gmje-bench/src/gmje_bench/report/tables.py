"""Means and intervals over seeds, as tables for the terminal and in Markdown.

A method without all of its seeds has no means anywhere: a part of the seeds is shown as what it is, never averaged.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from scipy import stats

from gmje_bench.runs import PRETRAINED, AlignmentRecord, Metric, Record, Results

__all__ = [
    "FINE",
    "AlignmentRow",
    "Estimate",
    "Row",
    "alignment_rows",
    "caption",
    "decimals",
    "heading",
    "headline_metrics",
    "markdown",
    "markdown_line",
    "number",
    "rich_table",
    "run_metrics",
    "seed_values",
    "summarise",
]

_SYNTHETIC = "synthetic"
#: Verdicts that need no action.
FINE = ("healthy", "untrained", PRETRAINED)
_SYNTHETIC_CAPTION = (
    "held out; KL by theory: with unlimited data and capacity; distances in units of the embeddings; errors of "
    "calibration are Kolmogorov-Smirnov distances; the truth's own rows are the noise floor; "
    "mean ± 95 % t-interval over seeds"
)


class Estimate(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: The mean over the seeds.
        half_width: Half the width of the 95 % Student t interval; ``None`` for one seed.
    """

    mean: float
    half_width: float | None

    @classmethod
    def of(cls, values: list[float]) -> "Estimate":
        """The estimate from one value a seed.

        Examples:
            >>> Estimate.of([1.0, 2.0, 3.0])
            Estimate(mean=2.0, half_width=2.484...)
            >>> Estimate.of([5.0])
            Estimate(mean=5.0, half_width=None)
        """
        n, mean = len(values), sum(values) / len(values)
        if n < 2:
            return cls(mean, None)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
        return cls(mean, float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n))

    def text(self, places: int) -> str:
        """Mean and interval with so many digits after the point.

        Examples:
            >>> Estimate(0.81234, 0.01).text(3)
            '0.812 ± 0.010'
            >>> Estimate(0.81234, 0.00001).text(3), Estimate(-0.0001, 0.01).text(3), Estimate(0.0001, 0.0002).text(3)
            ('0.812 ± 0.000', '0.000 ± 0.010', '0.0001 ± 0.0002')
        """
        parts = [self.mean] if self.half_width is None else [self.mean, self.half_width]
        # A part has an exponent only where the whole estimate needs one.
        if max(map(abs, parts)) >= 0.5 * 10.0**-places:
            parts = [round(part, places) + 0.0 for part in parts]
        return " ± ".join(number(part, places) for part in parts)

    def __str__(self) -> str:
        return self.text(1)


class Row(NamedTuple):
    """A method in the table.

    Attributes:
        method: The name of the method.
        estimates: Estimates of the metrics that every seed has; empty where a seed failed or has not run, because the
            mean of a part is not reported.
        verdict: The verdicts of all seeds, joined where they differ; for a failure, its reason.
        seconds: Mean wall-clock time of a seed.
        seeds: Number of seeds that finished.
    """

    method: str
    estimates: dict[str, Estimate]
    verdict: str
    seconds: float
    seeds: int

    @property
    def good(self) -> bool:
        """Whether the method finished, and no seed of it ended with a bad verdict."""
        return bool(self.estimates) and self.verdict in FINE


class AlignmentRow(NamedTuple):
    """A method on a synthetic task.

    Attributes:
        task: The synthetic task.
        dim: Size that both views are lifted to; ``None`` for the size of the task itself.
        method: The name of the method; ``truth`` is the noise floor.
        estimates: Estimates by metric; empty where a seed failed.
        error: Why a seed failed; empty where none did.
    """

    task: str
    dim: int | None
    method: str
    estimates: dict[str, Estimate]
    error: str


def summarise(results: Results) -> list[Row]:
    """Make one row for each method, in the order of running; methods that have not run come last."""
    wanted = [int(seed) for seed in results.options.get("seeds", [])]
    methods = [record.method for record in results.records]
    # A run may hold synthetic tasks only: its methods are then those of the alignment records.
    if results.records:
        methods += [str(method) for method in results.options.get("methods", [])]
    return [
        _row([record for record in results.records if record.method == method], method, wanted)
        for method in dict.fromkeys(methods)
    ]


def _row(records: list[Record], method: str, wanted: list[int]) -> Row:
    failed = [record for record in records if record.status == "failed"]
    finished = len(records) - len(failed)
    if failed:
        return Row(method, {}, f"failed (seed {_seeds(failed)}): {failed[0].error}", 0.0, finished)
    once = bool(records) and all(record.verdict == PRETRAINED for record in records)
    missing = [] if once else [seed for seed in wanted if seed not in {record.seed for record in records}]
    if missing or not records:
        words = f" (seed {', '.join(map(str, missing))})" if missing else ""
        return Row(method, {}, f"not finished{words}", 0.0, finished)
    verdict = ", ".join(dict.fromkeys(record.verdict or "untrained" for record in records))
    seconds = sum(sum(record.seconds.values()) for record in records) / len(records)
    return Row(method, _estimates(records), verdict, seconds, finished)


def alignment_rows(results: Results) -> list[AlignmentRow]:
    """Make one row for each synthetic task and method, in the order of running."""
    keys = dict.fromkeys((record.dim, record.task, record.method) for record in results.alignment)
    rows = []
    for dim, task, method in keys:
        records = [r for r in results.alignment if (r.dim, r.task, r.method) == (dim, task, method)]
        failed = [record for record in records if record.status == "failed"]
        error = f"failed (seed {_seeds(failed)}): {failed[0].error}" if failed else ""
        rows.append(AlignmentRow(task, dim, method, {} if failed else _estimates(records), error))
    return rows


def _estimates(records: Sequence[Record | AlignmentRecord]) -> dict[str, Estimate]:
    """Estimates of the metrics that every one of the seeds has."""
    names = [name for name in records[0].metrics if all(name in record.metrics for record in records)]
    return {name: Estimate.of([record.metrics[name] for record in records]) for name in names}


def _seeds(records: Sequence[Record | AlignmentRecord]) -> str:
    return ", ".join(str(record.seed) for record in records)


def run_metrics(results: Results) -> dict[str, Metric]:
    """The metrics that any record of the run has, in the schema's order; those of synthetic tasks are not among them.

    Args:
        results: The results of a run; each name is looked up in the run's own ``metrics``.
    """
    present = {name for record in results.records for name in record.metrics}
    return {name: metric for name, metric in results.metrics.items() if name in present}


def headline_metrics(results: Results) -> dict[str, Metric]:
    """Those of :func:`run_metrics` that short tables show."""
    return {name: metric for name, metric in run_metrics(results).items() if metric.headline}


def seed_values(results: Results, rows: Iterable[Row], name: str) -> dict[str, dict[int, float]]:
    """A metric's values by method and seed, of the methods whose row has an estimate of it.

    Args:
        results: The results of a run.
        rows: The rows of :func:`summarise`; they fix the order of the methods.
        name: The name of the metric.
    """
    return {
        row.method: {record.seed: record.metrics[name] for record in results.records if record.method == row.method}
        for row in rows
        if name in row.estimates
    }


def decimals(values: Iterable[float], unit: str = "") -> int:
    """The number of digits after the point for a column of numbers: a typical one gets three significant digits.

    Args:
        values: The numbers of the column.
        unit: The unit of the column; percentages always have one digit.

    Examples:
        >>> decimals([85.2, 79.1], "%"), decimals([0.981, 0.7]), decimals([45.2, 60.0]), decimals([0.00031])
        (1, 3, 1, 6)
    """
    sizes = sorted(abs(value) for value in values if value and math.isfinite(value))
    if unit == "%" or not sizes:
        return 1
    exponent = math.floor(math.log10(sizes[len(sizes) // 2]))
    return min(max(2 - max(exponent, -4), 0), 6) if exponent < 0 else max(2 - exponent, 1 if exponent < 3 else 0)


def number(value: float, places: int) -> str:
    """A number for a table; what is too large or too small for the column has an exponent.

    Examples:
        >>> number(85.04, 1), number(-1234567.8, 1), number(0.00002, 3), number(0.0, 3), number(-0.0001, 1)
        ('85.0', '-1.23e+06', '2e-05', '0.000', '-0.0001')
    """
    if value and (abs(value) >= 1e6 or abs(value) < 0.5 * 10.0**-places):
        return f"{value:.3g}"
    return f"{value:.{places}f}"


def heading(metric: Metric) -> str:
    """Title and unit: ``linear probe [%]``."""
    return f"{metric.title} [{metric.unit}]" if metric.unit else metric.title


def caption(results: Results) -> str:
    """What was run, in a line."""
    parts = []
    if results.dataset is not None:
        parts.append(f"{results.dataset.name} ({results.dataset.train} + {results.dataset.test} images)")
    if results.records:
        network, training = results.options.get("network", {}), results.options.get("training", {})
        if "backbone" in network:
            parts.append(str(network["backbone"]))
        if "epochs" in training:
            parts.append(f"{training['epochs']} epoch{'s' * (training['epochs'] != 1)}")
        if "batch_size" in training:
            parts.append(f"batch {training['batch_size']}")
    parts.append(f"protocol v{results.protocol.get('version', '?')}")
    return ", ".join(parts) + "; mean ± 95 % t-interval over seeds"


class _Grid(NamedTuple):
    """A table before it is drawn: ``numeric`` tells which columns hold numbers, ``bad`` which rows need care."""

    title: str
    header: list[str]
    numeric: list[bool]
    rows: list[list[str]]
    bad: list[bool]
    caption: str


def _main_grid(results: Results) -> _Grid:
    metrics, rows = headline_metrics(results), summarise(results)
    columns = {}
    for name, metric in metrics.items():
        places = decimals([row.estimates[name].mean for row in rows if name in row.estimates], metric.unit)
        columns[name] = [row.estimates[name].text(places) if name in row.estimates else "-" for row in rows]
    cells = [
        [
            row.method,
            *(column[index] for column in columns.values()),
            row.verdict,
            f"{row.seconds:.0f}" if row.estimates else "-",
            str(row.seeds),
        ]
        for index, row in enumerate(rows)
    ]
    header = ["method", *map(heading, metrics.values()), "verdict", "seconds", "seeds"]
    numeric = [False, *[True] * len(metrics), False, True, True]
    return _Grid(f"suite {results.suite}", header, numeric, cells, [not row.good for row in rows], caption(results))


def _alignment_grid(results: Results) -> _Grid:
    metrics = {
        name: metric for name, metric in results.metrics.items() if metric.task == _SYNTHETIC and metric.headline
    }
    rows = alignment_rows(results)
    cells = [
        [
            row.task if row.dim is None else f"{row.task}, {row.dim}-d",
            row.method if row.method != "truth" else "truth (floor)",
            *(row.estimates[name].text(3) if name in row.estimates else "-" for name in metrics),
            row.error,
        ]
        for row in rows
    ]
    header = ["synthetic task", "method", *map(heading, metrics.values())]
    if any(row.error for row in rows):
        header.append("failure")
    else:
        cells = [line[:-1] for line in cells]
    numeric = [False, False, *[True] * len(metrics), False][: len(header)]
    return _Grid("synthetic tasks", header, numeric, cells, [bool(row.error) for row in rows], _SYNTHETIC_CAPTION)


def _grids(results: Results) -> list[_Grid]:
    grids = [_main_grid(results)] if results.records or not results.alignment else []
    return grids + ([_alignment_grid(results)] if results.alignment else [])


def rich_table(results: Results) -> RenderableType:
    """The tables for a terminal: headline metrics of the methods, then those of the synthetic tasks."""
    tables = []
    for grid in _grids(results):
        table = Table(title=grid.title, caption=grid.caption, caption_justify="left")
        for title, numeric in zip(grid.header, grid.numeric, strict=True):
            named = title in ("method", "synthetic task")  # A name that is cut short would not name the method.
            table.add_column(title, justify="right" if numeric else "left", no_wrap=named)
        for cells, bad in zip(grid.rows, grid.bad, strict=True):
            # The text of an error is not markup.
            table.add_row(*map(escape, cells), style="red" if bad else None)
        tables.append(table)
    return Group(*tables)


def markdown(results: Results) -> str:
    """The same tables with their caption, in Markdown."""
    lines = [f"# Suite {results.suite}"]
    for grid in _grids(results):
        lines += [
            "",
            grid.caption.removesuffix(".") + ".",
            "",
            markdown_line(grid.header),
            markdown_line("---:" if numeric else "---" for numeric in grid.numeric),
        ]
        lines += [markdown_line(cells) for cells in grid.rows]
    lines += ["", f"Command: `{results.command}`", "", f"World size {results.world_size}; started {results.started}."]
    return "\n".join(lines) + "\n"


def markdown_line(cells: Iterable[str]) -> str:
    r"""A line of a table in Markdown; what would end a cell is escaped.

    Examples:
        >>> print(markdown_line(["a|b", "1"]))
        | a\|b | 1 |
    """
    # An error's text may hold the mark that separates cells, or a tag.
    safe = (cell.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ") for cell in cells)
    return "| " + " | ".join(safe) + " |"
