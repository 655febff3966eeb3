"""Speed rows beside their peers: ratio of times with its range, and the goal of each row."""

import re
import textwrap

from matplotlib.figure import Figure
from tables import Table, numbers
from themes import ORANGE, RED, Theme, write

rows = Table("speed", "row", "goal", "ratio")
#: A cell may hold two cases: ``log_prob, full, K = 128 / 512``.
EITHER = re.compile(r"((?:[^,]|,(?=\d))*?) / ((?:[^,]|,(?=\d))*)")
#: Remarks on a row, which the table has room for.
REMARK = re.compile(r" \(.*?\)|;.*")


def cases(name: str) -> list[str]:
    """The names of the cases of a row."""
    name = REMARK.sub("", name)
    found = EITHER.search(name)
    if found is None:
        return [name]
    first, second = found.groups()
    begin = first.rpartition("=")[0]
    seconds = f"{begin}= {second}" if begin else f" {second}"
    return [name[: found.start()] + case + name[found.end() :] for case in (first, seconds)]


points = [
    (case, float(row["goal"]), *numbers(figures))
    for row in rows
    for case, figures in zip(cases(row["row"]), row["ratio"].split(" / "), strict=True)
]


def draw(theme: Theme) -> Figure:
    """A line for each case, on a logarithmic axis."""
    figure = Figure(figsize=(6.4, 1.4 + 0.38 * len(points)))
    axes = figure.subplots()
    axes.axvline(1, color=RED, linestyle="--", linewidth=1.6, label="as fast as the peer")
    for place, (_, goal, ratio, *span) in enumerate(points):
        color = theme.accent if ratio >= goal else ORANGE
        axes.plot(span or [ratio, ratio], [place, place], color=color)  # a row that was run once has no range
        axes.plot(ratio, place, "o", color=color, markersize=7)
        axes.plot(goal, place, "|", color=theme.ink, markersize=12, markeredgewidth=1.6)
    for label, color in (("reaches its goal", theme.accent), ("falls short of it", ORANGE)):
        axes.plot([], [], "o-", color=color, markersize=7, label=label)
    axes.plot([], [], "|", color=theme.ink, markersize=12, markeredgewidth=1.6, label="goal")
    axes.set(xscale="log", xlabel="times faster than the peer")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(points)), [textwrap.fill(name, 48) for name, *_ in points])
    axes.set_ylim(len(points) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=theme.quiet, alpha=0.3, linewidth=0.8)
    figure.legend(loc="outside lower center", ncols=4)
    return figure


write("recorded_speed", draw, sources=[rows.source])
