"""The picture shows the truth and every method side by side, with one row for each task."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gmje_bench.alignment.engine import TRUTH, Picture
from gmje_bench.alignment.rivals import RIVALS
from gmje_bench.alignment.tasks import TASKS
from gmje_bench.report.figures import save_png
from gmje_bench.runs import AlignmentRecord

__all__ = ["draw_alignment"]

# These are colours of Okabe and Ito, which colour-blind readers can tell apart.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
_LINE = "#D55E00"


def draw_alignment(pictures: list[Picture], records: list[AlignmentRecord], path: Path) -> None:
    """Draw samples of the target given the context, with every method's KL to the truth.

    One-dimensional tasks show context and target; where the target has two dimensions the panels show it at a few
    contexts, a colour each. What MSE regression predicts is the line, or the crosses.

    Args:
        pictures: The rows of the figure.
        records: Records of the same tasks and seed, for the KL above each panel.
        path: The PNG file to write.
    """
    # A file keeps the panels by name, so that their order is not that of the methods.
    drawn = {name for picture in pictures for name in picture.samples}
    columns = [name for name in (TRUTH, *RIVALS) if name in drawn]
    figure = Figure(figsize=(2.5 * len(columns) + 0.6, 2.35 * len(pictures) + 0.9), layout="constrained")
    grid = figure.subplots(len(pictures), len(columns), squeeze=False)
    for row, picture in enumerate(pictures):
        limits = _limits(picture)
        for column, name in enumerate(columns):
            axes = grid[row, column]
            if name not in picture.samples:
                axes.set_axis_off()
                axes.text(0.5, 0.5, "failed", transform=axes.transAxes, ha="center", color="0.4")
                continue
            _panel(axes, picture, name)
            axes.set_xlim(limits[0])
            axes.set_ylim(limits[1])
            axes.tick_params(labelsize=7, labelleft=column == 0)
            axes.set_title(_heading(picture.task, name, records, first=row == 0), fontsize=9)
            axes.set_xlabel(TASKS[picture.task].axes[0], fontsize=8)
        task = TASKS[picture.task]
        grid[row, 0].set_ylabel(f"{task.title}\n{task.axes[1]}", fontsize=9)
    figure.suptitle(
        "Samples of the target given the context: the truth, and what each method learned of it\n"
        "line and crosses: what MSE regression predicts; with two target dimensions, a colour is a context",
        size=11,
    )
    save_png(figure, path, dpi=130)


def _panel(axes: Axes, picture: Picture, name: str) -> None:
    samples, means = picture.samples[name], picture.means[name]
    if samples.shape[1] == 1:
        axes.plot(picture.context[:, 0], samples[:, 0], ".", color=_COLORS[0], markersize=2.5, alpha=0.4, mew=0)
        if name == "mse":
            axes.plot(picture.curve[:, 0], means[:, 0], color=_LINE, linewidth=1.8)
        return
    blocks = samples.split(len(samples) // len(picture.curve))
    for block, color in zip(blocks, _COLORS, strict=False):
        axes.plot(block[:, 0], block[:, 1], ".", color=color, markersize=2.5, alpha=0.35, mew=0)
    if name == "mse":
        axes.plot(means[:, 0], means[:, 1], "x", color=_LINE, markersize=9, markeredgewidth=2.5)


def _limits(picture: Picture) -> list[tuple[float, float]]:
    """The limits of all panels of a row; they come from the truth, so samples of a wide density may lie outside."""
    samples = picture.samples[TRUTH]
    points = [picture.context[:, 0], samples[:, 0]] if samples.shape[1] == 1 else [samples[:, 0], samples[:, 1]]
    return [_padded(values) for values in points]


def _padded(values: Tensor) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = 0.12 * (high - low)
    return low - margin, high + margin


def _heading(task: str, name: str, records: list[AlignmentRecord], *, first: bool) -> str:
    title = "truth" if name == TRUTH else RIVALS[name].title
    kl = [r.metrics["kl"] for r in records if (r.task, r.dim, r.method) == (task, None, name) and r.metrics]
    measured = f"KL {kl[0]:.3f} nats" if kl and name != TRUTH else ""
    return "\n".join(part for part in (title if first else "", measured) if part)
