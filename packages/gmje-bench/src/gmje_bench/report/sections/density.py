"""The section of densities: measures by kind, and what learning a density gains over fitting one afterwards."""

from gmje_bench.report import leaderboard as boards
from gmje_bench.report.blocks import Block, Content, Table, Words
from gmje_bench.report.embed import Drawer
from gmje_bench.report.leaderboard import Board, Cell, Column, Line
from gmje_bench.report.significance import paired_tests
from gmje_bench.report.tables import Estimate, heading
from gmje_bench.runs import KINDS, Results
from gmje_bench.runs.reading import Run

__all__ = ["density", "gain_board"]

_MEASURES = ("joint_nll", "conditional_nll", "calibration", "frechet_over_floor", "sample_precision", "sample_coverage")


def density(run: Run, drawer: Drawer) -> Content:
    """Measures of densities by method and kind, and the paired differences of each method's own to the best fitted."""
    board = boards.kind_board(run.results, "density", KINDS.__getitem__, run.reference)
    if board is None:
        return None
    words = (
        "Pairs of views of test images, at unit mean variance. Every size is chosen on validation images, and so is "
        "the best kind. The difference to one Gaussian on the same embeddings depends on no unit and compares methods."
    )
    blocks: list[Block] = [Words(words), Table(board)]
    gains = gain_board(run.results)
    if gains is not None:
        words = (
            "Each method's own densities minus the best of the usual families on the same embeddings, paired over "
            "seeds. Below zero the own density is better, except in precision and coverage."
        )
        blocks += [Words(words), Table(gains)]
    return blocks


def gain_board(results: Results) -> Board | None:
    """Differences of ``learned`` and ``critic`` to ``best``, mean and 95 % interval over seeds; ``None`` without any.

    A star follows a difference that a paired t-test over the seeds tells apart from zero, each test on its own.
    """
    lines = []
    for method in dict.fromkeys(record.method for record in results.records):
        by_seed = {r.seed: r.metrics for r in results.records if r.method == method}
        for kind in ("learned", "critic"):
            cells = [_difference(by_seed, measure, kind) for measure in _MEASURES]
            if any(cell is not None for cell in cells):
                lines.append(Line((method, KINDS[kind]), tuple(cell or Cell("–") for cell in cells)))
    if not lines:
        return None
    columns = []
    for measure in _MEASURES:
        metric = results.metrics[f"{measure}.best"]
        title = heading(metric).replace(metric.title, metric.title.split(",")[0])
        columns.append(Column(title, "↑" if metric.higher_is_better else "↓"))
    return Board(
        "Own density minus the best of the usual families", ("method", "density"), tuple(columns), tuple(lines), ()
    )


def _difference(by_seed: dict[int, dict[str, float]], measure: str, kind: str) -> Cell | None:
    """One difference over the seeds that have both values."""
    own, best = f"{measure}.{kind}", f"{measure}.best"
    seeds = [seed for seed, metrics in by_seed.items() if own in metrics and best in metrics]
    if not seeds:
        return None
    values = {key: {seed: by_seed[seed][key] for seed in seeds} for key in (own, best)}
    estimate = Estimate.of([values[own][seed] - values[best][seed] for seed in seeds])
    tests = paired_tests(values, higher_is_better=False, reference=best)
    star = " *" if tests is not None and tests.differs(own) else ""
    return Cell(estimate.text(1 if measure.endswith("nll") else 3) + star)
