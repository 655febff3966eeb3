"""The section of verdicts: what became of every record."""

from gmje_bench.report import leaderboard as boards
from gmje_bench.report.blocks import Content, Verdicts
from gmje_bench.report.embed import Drawer
from gmje_bench.report.tables import FINE, alignment_rows, summarise
from gmje_bench.runs.reading import Run

__all__ = ["verdicts"]


def verdicts(run: Run, drawer: Drawer) -> Content:
    """Every record with what became of it, those that need care first; then methods that have not finished."""
    lines = []
    for record in run.results.records:
        bad = record.status == "failed"
        verdict = "failed" if bad else record.verdict or "untrained"
        words = record.error if bad else record.advice
        lines.append((record.method, str(record.seed), verdict, words or "", bad or verdict not in FINE))
    lines += [
        (row.method, "", f"failed on {boards.task_title(row.task, row.dim)}", row.error, True)
        for row in alignment_rows(run.results)
        if row.error
    ]
    lines += [
        (row.method, "", "not finished", f"{row.verdict}: no mean is shown of a part", True)
        for row in summarise(run.results)
        if not row.estimates and row.verdict.startswith("not finished")
    ]
    return [Verdicts(tuple(sorted(lines, key=lambda line: not line[-1])))] if lines else None
