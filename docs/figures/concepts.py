"""The four parts, and the way of a batch through them: model, criterion, and in it density and objective."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from themes import GREEN, RED, Theme, write

LEFT, RIGHT, MIDDLE = 1.0, 43.0, 20.0


def box(
    axes: Axes, theme: Theme, bottom: float, height: float, color: str, title: str, text: str, inset: float = 0
) -> None:
    """A box over the width of the figure, less an inset, with a title and lines below it."""
    start, width = LEFT + inset, RIGHT - LEFT - 2 * inset
    style = {"boxstyle": "round,pad=0,rounding_size=1", "facecolor": "none", "edgecolor": color, "linewidth": 1.8}
    axes.add_patch(FancyBboxPatch((start, bottom), width, height, **style))
    axes.text(start + 1.5, bottom + height - 1.5, title, color=color, weight="bold", va="top", fontsize=12)
    axes.text(start + 1.5, bottom + height - 4.9, text, color=theme.ink, va="top", fontsize=10.5, linespacing=1.5)


def arrow(axes: Axes, theme: Theme, top: float, bottom: float, label: str = "") -> None:
    """An arrow downwards, with a label to its right."""
    style = {
        "arrowstyle": "-|>",
        "mutation_scale": 13,
        "color": theme.ink,
        "linewidth": 1.6,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.add_patch(FancyArrowPatch((MIDDLE, top), (MIDDLE, bottom), **style))
    axes.text(MIDDLE + 1.5, (top + bottom) / 2, label, va="center", fontsize=10.5)


def draw(theme: Theme) -> Figure:
    """From top to bottom, in the order of a step."""
    figure = Figure(figsize=(5.0, 6.9))
    axes = figure.subplots()
    axes.set(xlim=(0, 50), ylim=(0, 69))
    axes.axis("off")
    axes.text(MIDDLE, 68, "two views of every item", ha="center", va="center")
    arrow(axes, theme, 66.8, 63.5)
    box(axes, theme, 53, 10.5, theme.ink, "Model", "encoder and head: embeds both views")
    arrow(axes, theme, 53, 48.5, "$z_c$, $z_t$ of the whole batch")
    box(axes, theme, 16.5, 32, theme.ink, "Criterion", "owns the order of a step")
    box(
        axes,
        theme,
        29.5,
        11,
        theme.accent,
        "Density",
        "1. scores by what it knew before\n3. learns from the batch, after",
        inset=2,
    )
    arrow(axes, theme, 29.5, 27.5)
    box(axes, theme, 18.5, 9, GREEN, "Objective", "2. makes a loss of the scores", inset=2)
    arrow(axes, theme, 16.5, 12, "after training: consolidate")
    box(
        axes,
        theme,
        1,
        11,
        theme.accent,
        "Density that answers",
        "$q(z_t\\mid z_c)$, how sure it is, samples,\nhow likely a pair is",
    )
    line = {"color": RED, "linewidth": 1.8, "linestyle": (0, (4, 2))}
    axes.plot([RIGHT - 2, 46.5, 46.5], [23, 23, 58], **line)
    end = FancyArrowPatch((46.5, 58), (RIGHT, 58), arrowstyle="-|>", mutation_scale=13, color=RED, shrinkA=0, shrinkB=0)
    axes.add_patch(end)
    axes.text(47.4, 40, "gradient", color=RED, rotation=90, va="center", fontsize=10.5)
    return figure


write("concepts", draw)
