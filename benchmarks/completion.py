"""Completing pictures: tables of a run as Markdown, and the picture of one method as a PNG file.

    python -m gmje_bench run --suite completion --seeds 0,1 --output runs/completion
    python benchmarks/completion.py runs/completion --picture docs/images/completion.png

The run measures them (the task ``completion``); means and 95 % intervals are over its seeds. The picture is that of the
first seed: contexts in rows, chosen by the task's fixed seed.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from gmje_bench.errors import RunFolderError
from gmje_bench.report.leaderboard import kind_board
from gmje_bench.report.sections.common import first_seeds
from gmje_bench.report.sections.completion import picture_columns
from gmje_bench.runs import ANSWERS
from gmje_bench.runs.reading import Run, read_run


def draw(run: Run, method: str, path: Path) -> None:
    """Contexts in rows; context, truth, a predictor's answer, one Gaussian's samples and eight answers in columns."""
    found = {name: tensors for name, _, tensors in first_seeds(run)}
    if method not in found:
        raise SystemExit(f"the run has no completions of {method!r} (choose from {', '.join(found)})")
    columns = list(picture_columns(found[method], found.get("jepa")))
    if not columns:
        raise SystemExit(f"the run has no pictures of {method!r}: it needs the task completion")
    rows, counts = len(columns[0][1]), [pictures.shape[1] for _, pictures in columns]
    figure = Figure(figsize=(0.62 * sum(counts) + 0.3, 0.62 * rows + 0.45), dpi=110, layout="constrained")
    grid = figure.add_gridspec(1, len(columns), width_ratios=[count + 0.1 for count in counts], wspace=0.02)
    for place, (words, pictures) in zip(grid, columns, strict=True):
        axes = figure.add_subplot(place)
        axes.imshow(tiled(pictures), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(words.replace(" one answer", "\none answer"), fontsize=8)
        axes.set_axis_off()
    figure.savefig(path)


def tiled(pictures: np.ndarray, gap: int = 2) -> np.ndarray:
    """Pictures ``(rows, columns, C, s, s)`` on white, ``(H, W)`` or ``(H, W, 3)``."""
    rows, columns, channels, height, width = pictures.shape
    page = np.full((rows, height + gap, columns, width + gap, channels), 255, np.uint8)
    page[:, :height, :, :width] = pictures.transpose(0, 3, 1, 4, 2)
    page = page.reshape(rows * (height + gap), columns * (width + gap), channels)
    return page[:, :, 0] if channels == 1 else page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run with the task completion")
    parser.add_argument("--picture", type=Path, help="PNG file to write")
    parser.add_argument("--method", default="gmje", help="whose answers the picture shows (default: gmje)")
    options = parser.parse_args()
    try:
        run = read_run(options.run)
    except RunFolderError as error:
        parser.exit(2, f"error: {error}\n")
    board = kind_board(run.results, "completion", ANSWERS.__getitem__)
    if board is None:
        raise SystemExit(f"{options.run} has nothing of the task completion")
    print(board.markdown())
    if options.picture:
        draw(run, options.method, options.picture)


if __name__ == "__main__":
    main()
