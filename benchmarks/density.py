"""Tables of a run's densities, as Markdown: every kind by method, and each method's own minus the best fitted ones.

    python -m gmje_bench run --suite density --output runs/density
    python benchmarks/density.py runs/density

The run measures them (the task ``density``); means and 95 % intervals are over its seeds.
"""

import argparse
from pathlib import Path

from gmje_bench.errors import RunFolderError
from gmje_bench.report.leaderboard import kind_board
from gmje_bench.report.sections.density import gain_board
from gmje_bench.runs import KINDS, read_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run with the task density")
    try:
        results = read_results(parser.parse_args().run)
    except RunFolderError as error:
        parser.exit(2, f"error: {error}\n")
    for board in (kind_board(results, "density", KINDS.__getitem__), gain_board(results)):
        if board is not None:
            print(f"## {board.title}\n\n{board.markdown()}\n")


if __name__ == "__main__":
    main()
