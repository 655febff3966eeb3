"""The section of densities: measures by kind, and what learning a density gains over fitting one afterwards."""

from gmje_bench.report import leaderboard as boards
from gmje_bench.report.blocks import Block, Content, Table, Words
from gmje_bench.report.embed import Drawer
from gmje_bench.report.leaderboard import Board, Cell, Column, Line
from gmje_bench.report.significance import LEVEL, corrected, paired_differences
from gmje_bench.report.tables import Estimate, Row, heading, seed_values, summarise
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
            "seeds. Below zero the own density is better, except in precision and coverage. * told apart from zero "
            "(paired t-tests over seeds, 5 %, Holm's correction over a column). A method with a failed or unfinished "
            "seed has no row."
        )
        blocks += [Words(words), Table(gains)]
    return blocks


def gain_board(results: Results) -> Board | None:
    """Differences of ``learned`` and ``critic`` to ``best``, mean and 95 % interval over seeds; ``None`` without any.

    A star follows a difference that a paired t-test over the seeds tells apart from zero, after Holm's correction over
    the column. A method with a failed or unfinished seed has no row.
    """
    rows = summarise(results)
    columns = {measure: _differences(results, rows, measure) for measure in _MEASURES}
    lines = [
        Line((row.method, KINDS[kind]), tuple(found.get((row.method, kind), Cell("–")) for found in columns.values()))
        for row in rows
        for kind in ("learned", "critic")
        if any((row.method, kind) in found for found in columns.values())
    ]
    if not lines:
        return None
    heads = []
    for measure in _MEASURES:
        metric = results.metrics[f"{measure}.best"]
        title = heading(metric).replace(metric.title, metric.title.split(",")[0])
        heads.append(Column(title, "↑" if metric.higher_is_better else "↓"))
    return Board(
        "Own density minus the best of the usual families", ("method", "density"), tuple(heads), tuple(lines), ()
    )


def _differences(results: Results, rows: list[Row], measure: str) -> dict[tuple[str, str], Cell]:
    """The cells of a column by method and kind, of the methods that have both values for all of their seeds."""
    best = seed_values(results, rows, f"{measure}.best")
    pairs = {
        (method, kind): (own, best[method])
        for kind in ("learned", "critic")
        for method, own in seed_values(results, rows, f"{measure}.{kind}").items()
        if method in best
    }
    p, places, cells = corrected(pairs), 1 if measure.endswith("nll") else 3, {}
    for key, (own, other) in pairs.items():
        star = " *" if p.get(key, 1.0) < LEVEL else ""
        cells[key] = Cell(Estimate.of(paired_differences(own, other)).text(places) + star)
    return cells
