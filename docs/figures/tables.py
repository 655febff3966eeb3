"""The tables of the recorded results, for the figures that are drawn from them: the numbers stand in one place only."""

import hashlib
import re
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")


class Table(list[dict[str, str]]):
    """The rows of a table, by the names of its columns.

    Args:
        page: A page of the recorded results, without its suffix.
        columns: Columns that the table has; of several tables, the first that has them all is read.

    Attributes:
        source: What a figure says of where its numbers come from: the page and a digest of the rows.

    Raises:
        LookupError: If no table of the page has these columns.
    """

    def __init__(self, page: str, *columns: str) -> None:
        head: list[str] = []
        for line in [*(RESULTS / f"{page}.md").read_text(encoding="utf-8").splitlines(), ""]:
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
            if not cells:
                if self:
                    break
                head = []
            elif not head:
                head = cells if set(columns) <= set(cells) else ["another table"]
            elif len(head) > 1 and not set("".join(cells)) <= set(":- "):
                self.append(dict(zip(head, cells, strict=True)))
        if not self:
            raise LookupError(f"{page}.md has no table with the columns {', '.join(columns)}")
        digest = hashlib.sha256(repr([list(row.items()) for row in self]).encode()).hexdigest()
        self.source = f"benchmarks/results/{page}.md {digest[:16]}"


def numbers(cell: str) -> list[float]:
    """The numbers of a cell, in their order: ``-151 / -146``, ``86.0 ± 0.4``, ``4.3 (3.3 to 4.7)``."""
    return [float(number) for number in NUMBER.findall(cell)]
