"""Tables of several runs with other held-out classes, as Markdown: AUROC of every score, and differences over the runs.

    python -m gmje_bench run --suite outliers --methods gmje,simclr --held-out-classes Bag,Sneaker --output runs/one
    python -m gmje_bench run --suite outliers --methods gmje,simclr --held-out-classes Sandal,Coat --output runs/two
    python benchmarks/outliers.py runs/one runs/two

The runs measure them (the task ``outliers``). Means and 95 % t-intervals are over the runs: encoders, held-out classes
and with them the inliers differ. A difference is paired: both sides saw the same images.
"""

import argparse
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from gmje_bench.errors import RunFolderError
from gmje_bench.report.leaderboard import Board, Cell, Column, Line
from gmje_bench.report.tables import Estimate
from gmje_bench.runs import OUTLIER_KINDS, OUTLIER_SCORES, Results, read_results

# Scores of features that are usual, and that a density is compared with.
_USUAL = ("mahalanobis", "knn")
_NEAR = "held_out"
_PLACES = 3
_HEADS = tuple(Column(title, "") for title in (*OUTLIER_KINDS.values(), "mean"))


class Side(NamedTuple):
    """A score on an encoder."""

    method: str
    score: str


def auroc(results: Results, side: Side, kind: str) -> float:
    """Mean AUROC over the seeds of a run."""
    return mean(r.metrics[f"auroc.{kind}.{side.score}"] for r in results.records if r.method == side.method)


def cells(runs: list[Results], side: Side, less: Side | None = None) -> tuple[Cell, ...]:
    """AUROC, or its difference to another's, for every kind of outliers and for their mean."""
    by_run = [
        [auroc(run, side, kind) - (auroc(run, less, kind) if less else 0) for kind in OUTLIER_KINDS] for run in runs
    ]
    values = [*zip(*by_run, strict=True), [mean(kinds) for kinds in by_run]]
    return tuple(Cell(Estimate.of(list(column)).text(_PLACES)) for column in values)


def scores_board(runs: list[Results], methods: list[str]) -> Board:
    """AUROC by method and score."""
    first = {record.method: record.metrics for record in runs[0].records}
    sides = [Side(m, s) for m in methods for s in OUTLIER_SCORES if f"auroc.{_NEAR}.{s}" in first[m]]
    lines = tuple(Line((side.method, OUTLIER_SCORES[side.score]), cells(runs, side)) for side in sides)
    return Board("AUROC", ("encoder", "score"), _HEADS, lines, ())


def difference_board(runs: list[Results], methods: list[str]) -> Board:
    """AUROC of the score ``joint`` on every encoder, less that of the usual scores on the last encoder's features."""
    peers = [Side(methods[-1], score) for score in _USUAL]
    lines = tuple(
        Line((method, f"{OUTLIER_SCORES[peer.score]} of {peer.method}"), cells(runs, Side(method, "joint"), peer))
        for method in methods
        for peer in peers
    )
    title = f"AUROC of {OUTLIER_SCORES['joint']}, less that of a usual score"
    return Board(title, ("encoder", "less"), _HEADS, lines, ())


def near_board(runs: list[Results], methods: list[str]) -> Board:
    """AUROC of held-out classes, run by run."""
    sides = [Side(method, score) for method in methods for score in ("joint", *_USUAL)]
    heads = tuple(Column(f"{side.method}: {OUTLIER_SCORES[side.score]}", "") for side in sides)
    lines = tuple(
        Line(
            (", ".join(run.options["held_out_classes"]),),
            tuple(Cell(f"{auroc(run, side, _NEAR):.{_PLACES}f}") for side in sides),
        )
        for run in runs
    )
    return Board("AUROC of held-out classes", ("classes",), heads, lines, ())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs with the task outliers")
    try:
        runs = [read_results(path) for path in parser.parse_args().runs]
    except RunFolderError as error:
        parser.exit(2, f"error: {error}\n")
    measured = [[r.method for r in run.records if f"auroc.{_NEAR}.joint" in r.metrics] for run in runs]
    methods = list(dict.fromkeys(measured[0]))
    if not methods or any(set(found) != set(methods) for found in measured):
        raise SystemExit("every run needs the task outliers, held-out classes, and the same methods, all finished")
    for board in (scores_board(runs, methods), difference_board(runs, methods), near_board(runs, methods)):
        print(f"## {board.title}\n\n{board.markdown()}\n")


if __name__ == "__main__":
    main()
