"""Tables of a run's densities, as Markdown: every kind by method, and each method's own minus the best fitted ones.

    python -m gmje_bench run --suite density --output runs/density
    python benchmarks/density.py runs/density

The run measures them (the task ``density``); means and 95 % intervals are over its seeds.
"""

import argparse
from pathlib import Path

from gmje_bench.report.leaderboard import Board, kind_board
from gmje_bench.report.sections.density import gain_board
from gmje_bench.runs import KINDS, read_results


def markdown(board: Board) -> str:
    """The board as a table of Markdown."""
    head = [*board.labels, *(f"{column.title} {column.arrow}" for column in board.columns)]
    lines = [head, ["---"] * len(head)]
    for line in board.lines:
        numbers = [cell.text for cell in line.cells] or [line.problem] + ["–"] * (len(board.columns) - 1)
        lines.append([*line.labels, *numbers])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run with the task density")
    results = read_results(parser.parse_args().run)
    for board in (kind_board(results, "density", KINDS.__getitem__), gain_board(results)):
        if board is not None:
            print(f"## {board.title}\n\n{markdown(board)}\n")


if __name__ == "__main__":
    main()
