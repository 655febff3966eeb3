"""Linear probe and kNN of the suite ``vision``: means with their intervals, and every seed."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tables import Table, numbers
from themes import ORANGE, Theme, write

MEASURES = ("linear probe", "kNN")
means = Table("vision", "method", *MEASURES)
seeds = Table("vision", "method", "seed", *MEASURES)
methods = [row["method"] for row in means]
FAR = 8.0  # percentage points below the best: what lies there is written instead of drawn, or the rest would be a line


def panel(axes: Axes, measure: str, theme: Theme) -> None:
    """One measure: a row for each method."""
    best = max(numbers(row[measure])[0] for row in means)
    for place, row in enumerate(means):
        mean, *interval = numbers(row[measure])
        ours = row["method"].startswith("gmje") or row["method"] == "gje"
        color = theme.accent if ours else ORANGE
        if mean < best - FAR:
            axes.text(0.02, place, f"← {row[measure]}", transform=axes.get_yaxis_transform(), va="center", color=color)
            continue
        drawn = [numbers(seed[measure])[0] for seed in seeds if seed["method"] == row["method"]]
        axes.scatter(drawn, [place] * len(drawn), s=12, color=theme.quiet, linewidths=0, zorder=3)
        axes.errorbar(mean, place, xerr=interval or None, color=color, marker="o", markersize=7, capsize=3)
    axes.set_xlim(best - FAR, best + 4)
    axes.grid(axis="x", color=theme.quiet, alpha=0.3, linewidth=0.8)
    axes.set_title(f"{measure} [%]")


def draw(theme: Theme) -> Figure:
    """Both measures over the same rows."""
    figure = Figure(figsize=(6.4, 0.8 + 0.3 * len(methods)))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, measure in ((left, "linear probe"), (right, "kNN")):
        panel(axes, measure, theme)
        axes.tick_params(axis="y", length=0)
    left.set_yticks(range(len(methods)), methods)
    left.set_ylim(len(methods) - 0.5, -0.5)
    return figure


write("recorded_vision", draw, sources=[means.source, seeds.source])
