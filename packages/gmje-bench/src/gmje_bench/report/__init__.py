"""What a run looks like: summaries over seeds, tables, figures, and the page."""

from gmje_bench.report.export import to_csv, to_parquet
from gmje_bench.report.figures import draw_accuracy, draw_diagnostics
from gmje_bench.report.tables import Estimate, Row, markdown, rich_table, summarise

__all__ = [
    "Estimate",
    "Row",
    "draw_accuracy",
    "draw_diagnostics",
    "markdown",
    "rich_table",
    "summarise",
    "to_csv",
    "to_parquet",
]
