"""Densities of embeddings: likelihood over one Gaussian and calibration, by method, kind of density and seed."""

from matplotlib.figure import Figure
from tables import Table, numbers
from themes import ORANGE, Theme, write

METHOD, KIND, LIKELIHOOD, CALIBRATION = (
    "embeddings of", "density", "joint NLL over one Gaussian", "calibration error",
)  # fmt: skip
CRITIC = "own, critic"  # hundreds of nats on the other side, as the table says: it would squeeze all others
rows = Table("density", METHOD, KIND, LIKELIHOOD, CALIBRATION)
methods = list(dict.fromkeys(row[METHOD] for row in rows))
kinds = [kind for kind in dict.fromkeys(row[KIND] for row in rows) if kind != CRITIC]
STYLES = {"own, consolidated": "o", "the recipe, fitted afterwards": "D", "best usual family": "s", "one Gaussian": "|"}


def draw(theme: Theme) -> Figure:
    """A row for each method, a mark for each seed."""
    figure = Figure(figsize=(6.4, 1.5 + 0.4 * len(methods)))
    left, right = figure.subplots(1, 2, sharey=True)
    colors = {"best usual family": ORANGE, "one Gaussian": theme.quiet}
    for kind in kinds:
        shown = [row for row in rows if row[KIND] == kind]
        style = {
            "linestyle": "", "marker": STYLES[kind], "markersize": 9 if kind == "one Gaussian" else 6,
            "color": colors.get(kind, theme.accent), "markeredgewidth": 1.6,
            "markerfacecolor": theme.paper if kind.startswith("the recipe") else colors.get(kind, theme.accent),
        }  # fmt: skip
        for axes, column in ((left, LIKELIHOOD), (right, CALIBRATION)):
            points = [(value, methods.index(row[METHOD])) for row in shown for value in numbers(row[column])]
            axes.plot(*zip(*points, strict=True), label=kind, **style)
    left.set_title("Joint NLL over one Gaussian [nats]")
    right.set_title("Calibration error")
    right.set_xlim(left=0)
    for axes in (left, right):
        axes.grid(axis="x", color=theme.quiet, alpha=0.3, linewidth=0.8)
        axes.tick_params(axis="y", length=0)
    left.set_yticks(range(len(methods)), methods)
    left.set_ylim(len(methods) - 0.5, -0.5)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


write("recorded_density", draw, sources=[rows.source])
