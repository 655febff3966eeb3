"""What the figures share: a light and a dark version of each, in the harness's palette, the same bytes on every run.

A figure is a script that does its work and hands a function ``draw(theme)`` to :func:`write`;
``python docs/figures/NAME.py [FOLDER]`` writes ``NAME.svg`` and ``NAME-dark.svg`` into ``docs/images`` or the folder.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from gmje_bench.report.palette import COLORS

BLUE, ORANGE, GREEN, PURPLE, SKY, RED = COLORS
IMAGES = Path(__file__).parents[1] / "images"


class Theme(NamedTuple):
    """Colours of text and page.

    Attributes:
        suffix: What is added to the name of the file.
        ink: Of text and lines.
        paper: Of the background.
        quiet: Of what stands back: grids, points behind curves.
        accent: The blue that is read well on this paper.
    """

    suffix: str
    ink: str
    paper: str
    quiet: str
    accent: str

    def shades(self) -> LinearSegmentedColormap:
        """From paper to blue, for densities."""
        return LinearSegmentedColormap.from_list(
            "density", [self.paper, SKY, BLUE] if not self.suffix else [self.paper, "#0b4a70", SKY]
        )


LIGHT = Theme("", "#1f2328", "#ffffff", "#8c8c8c", BLUE)
DARK = Theme("-dark", "#e6e8eb", "#131416", "#7d8187", SKY)


def write(name: str, draw: Callable[[Theme], Figure], sources: Sequence[str] = ()) -> None:
    """Draw a figure in both themes and write it where the command line says; ``sources`` are kept in the file."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    for theme in (LIGHT, DARK):
        style = {
            "font.family": "DejaVu Sans", "font.size": 11, "axes.titlesize": 11, "axes.titlelocation": "left",
            "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 2.2, "legend.frameon": False,
            "legend.fontsize": 10, "svg.hashsalt": name, "figure.constrained_layout.use": True,
            "figure.facecolor": theme.paper, "axes.facecolor": theme.paper,
            "path.simplify_threshold": 0.5,
        }  # fmt: skip
        style |= dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "axes.titlecolor"),
            theme.ink,
        )
        with mpl.rc_context(style):
            figure = draw(theme)
            metadata = {"Date": None, "Creator": None} | ({"Source": "; ".join(sources)} if sources else {})
            figure.savefig(folder / f"{name}{theme.suffix}.svg", metadata=metadata)
