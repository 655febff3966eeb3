"""Means and intervals over seeds, as a table for the terminal and one in Markdown."""

import math
from typing import NamedTuple

from rich.table import Table
from scipy import stats

from gmje_bench.runs import METRICS, Results

__all__ = ["Estimate", "Row", "markdown", "rich_table", "summarise"]


class Estimate(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: Of the seeds.
        half_width: Of the 95 % Student t interval; ``None`` for one seed.
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

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.half_width is None else f"{self.mean:.1f} ± {self.half_width:.1f}"


class Row(NamedTuple):
    """A method in the table.

    Attributes:
        method: Its name.
        estimates: By metric; empty where a seed failed, because a part is not a mean.
        verdict: Of all seeds, joined where they differ; for a failure, its reason.
        seconds: Mean wall-clock of a seed.
        seeds: Number of seeds that finished.
    """

    method: str
    estimates: dict[str, Estimate]
    verdict: str
    seconds: float
    seeds: int


def summarise(results: Results) -> list[Row]:
    """One row a method, in the order of running; a method with a failed seed has no estimates."""
    rows = []
    for method in dict.fromkeys(record.method for record in results.records):
        records = [record for record in results.records if record.method == method]
        failed = [record for record in records if record.status == "failed"]
        if failed:
            seeds = ", ".join(str(record.seed) for record in failed)
            rows.append(Row(method, {}, f"failed (seed {seeds}): {failed[0].error}", 0.0, len(records) - len(failed)))
            continue
        estimates = {name: Estimate.of([record.metrics[name] for record in records]) for name in METRICS}
        verdict = ", ".join(dict.fromkeys(record.verdict or "untrained" for record in records))
        seconds = sum(sum(record.seconds.values()) for record in records) / len(records)
        rows.append(Row(method, estimates, verdict, seconds, len(records)))
    return rows


def _header() -> list[str]:
    titles = [f"{m.title} [{m.unit}]" if m.unit else m.title for m in METRICS.values()]
    return ["method", *titles, "verdict", "seconds", "seeds"]


def _cells(row: Row) -> list[str]:
    numbers = [str(row.estimates[name]) if row.estimates else "-" for name in METRICS]
    return [row.method, *numbers, row.verdict, f"{row.seconds:.0f}" if row.estimates else "-", str(row.seeds)]


def _caption(results: Results) -> str:
    d, t = results.dataset, results.options["training"]
    return (
        f"{d.name} ({d.train} + {d.test} images), {results.options['network']['backbone']}, {t['epochs']} epochs, "
        f"batch {t['batch_size']}, protocol v{results.protocol['version']}; mean ± 95 % t-interval over seeds"
    )


def rich_table(results: Results) -> Table:
    """The table for a terminal."""
    table = Table(title=f"suite {results.suite}", caption=_caption(results), caption_justify="left")
    for index, title in enumerate(_header()):
        table.add_column(title, justify="right" if 0 < index <= len(METRICS) or index > len(METRICS) + 1 else "left")
    for row in summarise(results):
        style = None if row.verdict in ("healthy", "untrained") else "red"
        table.add_row(*_cells(row), style=style)
    return table


def markdown(results: Results) -> str:
    """The table with its caption, in Markdown."""
    lines = [f"# Suite {results.suite}", "", _caption(results) + ".", ""]
    lines += ["| " + " | ".join(_header()) + " |", "| --- |" + " ---: |" * len(METRICS) + " --- | ---: | ---: |"]
    # An error's text may hold the mark that separates cells.
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in summarise(results)]
    lines += ["", f"Command: `{results.command}`", "", f"World size {results.world_size}; started {results.started}."]
    return "\n".join(lines) + "\n"
