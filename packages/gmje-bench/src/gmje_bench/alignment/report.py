"""The synthetic tasks' results as a table for the terminal."""

from collections.abc import Iterator
from typing import NamedTuple

from rich.table import Table

from gmje_bench.alignment.engine import TRUTH
from gmje_bench.alignment.rivals import RIVALS
from gmje_bench.alignment.tasks import TASKS
from gmje_bench.protocol import PROTOCOL
from gmje_bench.report import Estimate
from gmje_bench.runs import AlignmentRecord, Results

__all__ = ["rich_table"]

_COLUMNS = ("kl", "theory", "energy", "wasserstein", "recall", "weights", "hpd", "pit")


class _Row(NamedTuple):
    task: str
    dim: int | None
    method: str
    records: list[AlignmentRecord]

    @property
    def failed(self) -> list[AlignmentRecord]:
        return [record for record in self.records if record.status == "failed"]

    def cell(self, name: str) -> str:
        """Mean over seeds and 95 % interval; of one seed the KL's interval is that of its held-out pairs."""
        values = [record.metrics[name] for record in self.records if name in record.metrics]
        if self.failed or not values:
            return ""
        estimate = Estimate.of(values)
        half_width = estimate.half_width
        if half_width is None and name == "kl" and self.method != TRUTH:
            half_width = 1.96 * self.records[0].metrics["kl_standard_error"]
        return f"{estimate.mean:.3f}" + ("" if half_width is None else f" ± {half_width:.3f}")


def rich_table(results: Results) -> Table:
    """The table for a terminal: a block a task, its first row the noise floor. Why a method failed is not in it.

    Args:
        results: Of one run.
    """
    table = Table(
        title="alignment on fixed embeddings with known truth",
        caption=(
            "KL in nats, held out; its theory: unlimited data and capacity. Distances in units of the embeddings; "
            f"errors of calibration are Kolmogorov-Smirnov distances over {PROTOCOL.calibration_pairs} pairs. "
            "± is the 95 % interval over seeds, for one seed over held-out pairs (KL only). "
            "The truth's own rows are the noise floor."
        ),
        caption_justify="left",
    )
    for title in ("task", "method"):
        table.add_column(title, no_wrap=True)
    for name in _COLUMNS:
        table.add_column(results.metrics[name].title, justify="right")
    last = None
    for row in _rows(results):
        here = (row.dim, row.task)
        if last is not None and here != last:
            table.add_section()
        title = TASKS[row.task].title + ("" if row.dim is None else f", {row.dim}-d")
        first, last = title if here != last else "", here
        if row.failed:
            table.add_row(first, _title(row.method), "failed", style="red")
        else:
            style = "dim" if row.method == TRUTH else None
            table.add_row(first, _title(row.method), *map(row.cell, _COLUMNS), style=style)
    return table


def _rows(results: Results) -> Iterator[_Row]:
    keys = dict.fromkeys((r.dim, r.task) for r in results.alignment)
    for dim, task in keys:
        here = [r for r in results.alignment if (r.dim, r.task) == (dim, task)]
        for method in dict.fromkeys(r.method for r in here):
            yield _Row(task, dim, method, [r for r in here if r.method == method])


def _title(method: str) -> str:
    return "truth (floor)" if method == TRUTH else RIVALS[method].title
