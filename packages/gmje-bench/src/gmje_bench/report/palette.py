"""Colours, lines and marks that colour-blind readers can tell apart, the same for a method in every figure.

Okabe and Ito's palette comes first; where it runs out, dashes and marks tell the rounds apart.
"""

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["COLORS", "GREY", "INK", "PAPER", "Style", "group_style", "method_styles"]

#: Colours of Okabe and Ito, without the yellow, which is hardly seen on a white page.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
GREY = "#8c8c8c"
#: Stand for the page's text and background, which depend on the reader's theme; no other colour is allowed these.
INK, PAPER = "#0a0b0c", "#fdfcfb"

_DASHES: tuple[tuple[float, ...], ...] = ((), (4.0, 1.6), (1.2, 1.4), (6.0, 1.4, 1.2, 1.4))
_MARKS = ("o", "s", "^", "D")


class Style(NamedTuple):
    """How a method, a class or a component is drawn.

    Attributes:
        color: A colour in hexadecimal.
        dash: Lengths of dashes and gaps in points; empty for a solid line.
        mark: A marker of matplotlib.
    """

    color: str
    dash: tuple[float, ...]
    mark: str


def group_style(index: int, colors: tuple[str, ...] = COLORS) -> Style:
    """The style of the n-th of several groups.

    Args:
        index: The number of the group, from 0; styles repeat after all combinations.
        colors: The colours, which change first; then dashes and marks change.

    Examples:
        >>> group_style(0)
        Style(color='#0072B2', dash=(), mark='o')
        >>> group_style(7).color, group_style(7).mark
        ('#E69F00', 's')
    """
    turn = index // len(colors) % len(_MARKS)
    return Style(colors[index % len(colors)], _DASHES[turn], _MARKS[turn])


def method_styles(methods: Iterable[str]) -> dict[str, Style]:
    """A style for every method, by name, in their order; the page's text colour is one of the colours."""
    return {method: group_style(index, (*COLORS, INK)) for index, method in enumerate(dict.fromkeys(methods))}
