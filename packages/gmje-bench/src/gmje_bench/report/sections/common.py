"""What several sections need: which artifacts to show, and legends of methods."""

from collections.abc import Iterator, Mapping

from gmje_bench.report.blocks import Key, Legend
from gmje_bench.report.palette import COLORS, Style
from gmje_bench.runs.reading import Artifacts, Run

__all__ = ["first_seeds", "method_legend", "seed_note"]


def first_seeds(run: Run) -> Iterator[tuple[str, int, Artifacts]]:
    """Methods in the order of running, each with its first seed that has artifacts."""
    seen = set()
    for record in run.results.records:
        tensors = run.artifacts.get((record.method, record.seed))
        if record.method not in seen and tensors is not None and record.status == "ok":
            seen.add(record.method)
            yield record.method, record.seed, tensors


def seed_note(run: Run, method: str, seed: int) -> str:
    """Which seed is shown, and of how many."""
    seeds = sum(record.method == method for record in run.results.records)
    return f"seed {seed}, one of {seeds}" if seeds > 1 else f"seed {seed}"


def method_legend(styles: Mapping[str, Style]) -> Legend:
    """The lines of methods, as they are drawn."""
    return Legend(
        tuple(
            Key(
                method,
                style.color if style.color in COLORS else "currentColor",
                " ".join(map(str, style.dash)),
                style.mark,
            )
            for method, style in styles.items()
        )
    )
