"""Figures of a run: accuracies, and the diagnostics over training."""

import io
from pathlib import Path

import matplotlib as mpl
import matplotlib.lines
import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gmje_bench.report.tables import summarise
from gmje_bench.runs import METRICS, Results

__all__ = ["draw_accuracy", "draw_diagnostics", "save_png"]

_ACCURACIES = ("linear_probe", "knn")
_PANELS = {
    "loss": ("loss", "own units"),
    "effective_rank": ("effective rank of embeddings", ""),
    "log_det_per_dim": ("log-volume per dimension", "nats"),
    "trace_ratio": ("trace ratio (scored before update)", ""),
}
# Between this and its negative the axis of the losses is linear.
_LINEAR = 10.0
# These are colours of Okabe and Ito, which colour-blind readers can tell apart.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")


def save_png(figure: Figure, path: Path, *, dpi: int = 150) -> None:
    """Write a figure as a PNG file, whole or not at all.

    Args:
        figure: What to write.
        path: Where the file goes; its folder must exist.
        dpi: Pixels per inch.

    Raises:
        OSError: the file cannot be written.
    """
    from gmje_core.files import write_atomic

    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    write_atomic(path, stream.getvalue())


def draw_accuracy(results: Results, path: Path) -> None:
    """Draw the accuracies that the run measured as bars by method, with 95 % intervals and every seed as a point.

    Nothing is written where the tasks of the run measure no accuracy.
    """
    rows = [row for row in summarise(results) if row.estimates]
    names = [name for name in _ACCURACIES if any(name in row.estimates for row in rows)]
    if not names:
        return
    figure = Figure(figsize=(max(6.0, 1.3 * len(rows) + 1.5), 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        measured = [(i, row) for i, row in enumerate(rows) if name in row.estimates]
        places = [i + (index - (len(names) - 1) / 2) * width for i, _ in measured]
        means = [row.estimates[name].mean for _, row in measured]
        errors = [row.estimates[name].half_width or 0.0 for _, row in measured]
        color = _COLORS[_ACCURACIES.index(name)]
        axes.bar(places, means, width, yerr=errors, capsize=3, color=color, label=METRICS[name].title)
        for place, mean, error in zip(places, means, errors, strict=True):
            axes.annotate(
                f"{mean:.1f}", (place, mean + error), xytext=(0, 3), textcoords="offset points", ha="center", size=8
            )
        for place, (_, row) in zip(places, measured, strict=True):
            values = [r.metrics[name] for r in results.records if r.method == row.method]
            if len(values) > 1:
                axes.plot([place] * len(values), values, "k.", markersize=4)
    axes.set_xticks(range(len(rows)), [row.method for row in rows])
    axes.set_ylabel("test accuracy [%]")
    axes.set_ylim(0, 108)
    dataset = results.dataset.name if results.dataset else "no images"
    axes.set_title(f"{results.suite}: {dataset}, {results.options['training']['epochs']} epochs")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=len(names), frameon=False)
    save_png(figure, path)


def draw_diagnostics(results: Results, path: Path) -> None:
    """Draw loss, effective rank, log-volume and trace ratio over the epochs, one line for each method and seed."""
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    methods = [m for m in dict.fromkeys(r.method for r in results.records) if _histories(results, m)]
    colors = {method: _COLORS[index % len(_COLORS)] for index, method in enumerate(methods)}
    for axes, (key, (title, unit)) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
        for method in methods:
            for history in _histories(results, method):
                points = [(float(h["epoch"]), float(h[key])) for h in history if key in h]
                if points:
                    axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colors[method])
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"[{unit}]" if unit else "")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        if key == "trace_ratio":
            axes.axhline(1.0, color="0.6", linewidth=0.8, zorder=0)
        if key == "loss":
            _scale_of_losses(axes)
    handles = [mpl.lines.Line2D([], [], color=colors[method], marker="o", label=method) for method in methods]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    save_png(figure, path)


def _histories(results: Results, method: str) -> list[list[dict[str, float | str]]]:
    return [record.history for record in results.records if record.method == method and record.history]


def _scale_of_losses(axes: Axes) -> None:
    """Scale the axis by a symmetric logarithm, because losses in different units share the panel; ticks are numbers."""
    low, high = axes.get_ylim()
    axes.set_yscale("symlog", linthresh=_LINEAR)
    least, most = sorted((abs(low), abs(high)))
    if most <= 3 * _LINEAR or (low * high > 0 and most <= 10 * least):  # There are too few powers of ten in between.
        axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(6))
    axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())
