"""The figures of the page have one panel each, small enough for a telephone and for several side by side on a desk.

They are made and drawn under :meth:`gmje_bench.report.embed.Drawer.style`; colours of methods come from the caller.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import stats

from gmje_bench.report.palette import COLORS, GREY, INK, PAPER, Style, group_style
from gmje_bench.report.tables import Estimate

__all__ = [
    "Curve",
    "draw_curves",
    "draw_dots",
    "draw_hpd",
    "draw_map",
    "draw_reliability",
    "draw_scores",
]

Floats = NDArray[Any]
# Most letters in a line below an axis of a panel.
_LABEL = 44


class Curve(NamedTuple):
    """A line of a panel.

    Attributes:
        x: Horizontal coordinates.
        y: Vertical coordinates, as many as there are horizontal ones.
        style: The style of its method.
        width: Width of the line in points.
    """

    x: Sequence[float]
    y: Sequence[float]
    style: Style
    width: float = 1.4


def draw_dots(rows: Mapping[str, tuple[Estimate, Sequence[float]]], label: str, styles: Mapping[str, Style]) -> Figure:
    """Draw means with 95 % intervals, one row for each method, the first on top, and seeds as small rings.

    Args:
        rows: Estimate and the seeds' values, by method.
        label: Title of the metric with its unit, below the axis; a long one takes several lines.
        styles: Styles by method.
    """
    lines = textwrap.wrap(label, _LABEL)
    figure, axes = _panel(4.0, 0.6 + 0.21 * len(rows) + 0.15 * len(lines))
    for place, (method, (estimate, values)) in enumerate(rows.items()):
        style = styles[method]
        if estimate.half_width is not None:
            axes.errorbar(estimate.mean, place, xerr=estimate.half_width, color=style.color, capsize=2.5, linewidth=1.2)
            axes.plot(values, [place] * len(values), "o", color=style.color, markersize=3, mfc="none", mew=0.7)
        axes.plot(estimate.mean, place, style.mark, color=style.color, markersize=5)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("\n".join(lines))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    _plain(axes)
    _grid(axes)
    return figure


def draw_curves(
    curves: Sequence[Curve],
    xlabel: str,
    ylabel: str,
    *,
    title: str = "",
    level: float | None = None,
    small: bool = False,
) -> Figure:
    """Draw lines over a common axis, with a mark on the last point of each.

    Args:
        curves: One or more lines.
        xlabel: Label of the horizontal axis with its unit.
        ylabel: Label of the vertical axis with its unit.
        title: The title above the panel.
        level: A horizontal line to compare with.
        small: Whether the panel is the smaller kind, for a single method.
    """
    figure, axes = _panel(*((2.9, 2.1) if small else (4.0, 2.9)))
    if level is not None:
        axes.axhline(level, color=INK, alpha=0.5, linewidth=0.8, linestyle=(0, (2, 2)))
    for curve in curves:
        linestyle = (0, curve.style.dash) if curve.style.dash else "-"
        axes.plot(curve.x, curve.y, color=curve.style.color, linestyle=linestyle, linewidth=curve.width)
        axes.plot(curve.x[-1:], curve.y[-1:], curve.style.mark, color=curve.style.color, markersize=4)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    if xlabel == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    _plain(axes)
    _grid(axes)
    return figure


def draw_map(
    points: Floats, groups: NDArray[np.integer[Any]], title: str, axis: str, *, largest: int | None = None
) -> Figure:
    """Draw points in the plane, coloured by group, with the number of each group at its median.

    Args:
        points: ``(n, 2)``.
        groups: ``(n,)``.
        title: The title above the panel.
        axis: Words for the axes, before their number.
        largest: Colour only so many groups, those with the most points; the rest are grey.
    """
    figure, axes = _panel(2.9, 2.75)
    numbers, counts = np.unique(groups, return_counts=True)
    if largest is not None:
        shown = numbers[np.argsort(-counts, kind="stable")[:largest]]
        rest = ~np.isin(groups, shown)
        axes.plot(*points[rest].T, ".", color=GREY, markersize=2.5, alpha=0.5, mew=0, rasterized=True)
        numbers = shown
    for index, number in enumerate(numbers):
        style, inside = group_style(index), points[groups == number]
        axes.plot(*inside.T, style.mark, color=style.color, markersize=2.4, alpha=0.75, mew=0, rasterized=True)
    for number in numbers:
        x, y = np.median(points[groups == number], axis=0)
        box = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
        axes.text(x, y, str(number), ha="center", va="center", fontsize=8.5, fontweight="bold", bbox=box)
    axes.set_title(title)
    axes.set_xlabel(f"{axis} 1")
    axes.set_ylabel(f"{axis} 2")
    axes.tick_params(labelsize=7)
    axes.locator_params(nbins=5)
    _plain(axes)
    return figure


def draw_scores(inside: Floats, outside: Floats, title: str) -> Figure:
    """Draw histograms of the log-densities of test images and of outliers, in shares of each.

    Args:
        inside: ``(n,)``, log-densities of test images, in nats.
        outside: ``(m,)``, log-densities of images of no class of the data, in nats.
        title: The title above the panel.
    """
    figure, axes = _panel(2.9, 2.1)
    both = np.concatenate([inside, outside])
    low, high = np.percentile(both, [1, 99])
    edges = np.linspace(low, high if high > low else low + 1, 31)
    for values, color, hatch in ((inside, COLORS[0], None), (outside, COLORS[5], "////")):
        # Values beyond the edges count in the outermost bins, so that nothing is left out.
        heights, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        axes.stairs(100 * heights / len(values), edges, color=color, linewidth=1.3)
        axes.stairs(100 * heights / len(values), edges, color=color, alpha=0.25, fill=True, hatch=hatch)
    axes.set_xlabel("log-density [nats]")
    axes.set_ylabel("share of images [%]")
    axes.set_title(title)
    axes.locator_params(axis="x", nbins=5)
    _plain(axes)
    return figure


def draw_hpd(counts: Floats, title: str) -> Figure:
    """Draw a histogram of HPD ranks in equal bins, with the count of a calibrated density and its 95 % band.

    Args:
        counts: ``(bins,)``, number of pairs in each bin of ranks from 0 to 1.
        title: The title above the panel.
    """
    figure, axes = _panel(2.9, 2.1)
    bins, total = len(counts), float(counts.sum())
    low, high = stats.binom.interval(0.95, round(total), 1 / bins)
    axes.axhspan(float(low), float(high), color=GREY, alpha=0.35, linewidth=0)
    axes.axhline(total / bins, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
    axes.stairs(counts, np.linspace(0, 1, bins + 1), color=COLORS[0], alpha=0.35, fill=True)
    axes.stairs(counts, np.linspace(0, 1, bins + 1), color=COLORS[0], linewidth=1.3)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("HPD rank")
    axes.set_ylabel("pairs")
    axes.set_title(title)
    _plain(axes)
    return figure


def draw_reliability(curves: Sequence[tuple[Style, Floats]], title: str) -> Figure:
    """Draw actual against nominal coverage of a density's regions, with the 95 % band of a calibrated one.

    Args:
        curves: Styles with ``(levels, 4)``: nominal coverage, actual coverage, and the ends of the band, all between 0
            and 1. The band of the first is drawn.
        title: The title above the panel.
    """
    figure, axes = _panel(2.9, 2.75)
    nominal, _, low, high = 100 * curves[0][1].T
    axes.fill_between(nominal, low, high, color=GREY, alpha=0.35, linewidth=0)
    axes.plot([0, 100], [0, 100], color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
    for style, curve in curves:
        axes.plot(100 * curve[:, 0], 100 * curve[:, 1], style.mark, color=style.color, markersize=3.2, linestyle="-")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_xlabel("nominal coverage [%]")
    axes.set_ylabel("actual coverage [%]")
    axes.set_title(title)
    _plain(axes)
    _grid(axes)
    return figure


def _panel(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _grid(axes: Axes) -> None:
    axes.grid(visible=True, color=INK, alpha=0.15, linewidth=0.5)
    axes.set_axisbelow(True)


def _plain(axes: Axes) -> None:
    """Label the axes with the numbers themselves, without an offset that the reader would have to add."""
    for axis in (axes.xaxis, axes.yaxis):
        formatter = axis.get_major_formatter()
        if hasattr(formatter, "set_useOffset"):
            formatter.set_useOffset(False)
