"""The section of the synthetic tasks: their tables, and their picture."""

from gmje_bench.report import leaderboard as boards
from gmje_bench.report.blocks import Block, Content, Details, Figure, Figures, Heading, Table, Words
from gmje_bench.report.embed import Drawer, png_uri
from gmje_bench.runs.reading import Run

__all__ = ["synthetic"]


def synthetic(run: Run, drawer: Drawer) -> Content:
    """The first table is open and the others unfold; below them is the picture."""
    tables = boards.alignment_boards(run.results)
    blocks: list[Block] = []
    for table in tables[:1]:
        blocks += [Heading(table.title), Table(table)]
    blocks += [Details(table.title, (Table(table),)) for table in tables[1:]]
    if run.picture is not None:
        tasks = ", ".join(dict.fromkeys(record.task for record in run.results.alignment)) or "the synthetic tasks"
        alt = f"Samples of the target given the context, the truth beside every method, a row a task: {tasks}"
        blocks += [
            Heading("Conditional pictures"),
            Words("A row a task, a column a method; each panel has its axes and its KL to the truth in nats."),
            Figures((Figure("", alt, uri=png_uri(run.picture)),), "wide"),
        ]
    return blocks or None
