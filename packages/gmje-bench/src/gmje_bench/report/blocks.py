"""What sections of the page are made of: words, tables, figures; one template lays out all of them."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from markupsafe import Markup

from gmje_bench.report.leaderboard import Board

__all__ = [
    "Block",
    "Content",
    "Details",
    "Figure",
    "Figures",
    "Group",
    "Groups",
    "Heading",
    "Key",
    "Legend",
    "Table",
    "Verdicts",
    "Words",
]


class Figure(NamedTuple):
    """A picture with its words: ``svg`` for drawings, else ``uri`` for images."""

    caption: str
    alt: str
    svg: Markup | None = None
    uri: str = ""


class Group(NamedTuple):
    """Figures that belong together, with a heading."""

    title: str
    figures: tuple[Figure, ...]
    note: str = ""


class Key(NamedTuple):
    """An entry of a legend: a line as it is drawn, or a picture of its own."""

    label: str
    color: str = ""
    dash: str = ""
    mark: str = ""
    picture: Markup | None = None


@dataclass(frozen=True)
class Block:
    """A part of a section; ``kind`` names the macro of the template that lays it out."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Words(Block):
    """A paragraph; ``problem`` marks one that says what went wrong."""

    kind: ClassVar[str] = "words"
    text: str
    problem: bool = False


@dataclass(frozen=True)
class Heading(Block):
    """A heading below that of the section, with a note in small letters."""

    kind: ClassVar[str] = "heading"
    text: str
    note: str = ""


@dataclass(frozen=True)
class Legend(Block):
    """What lines and areas of the figures below stand for."""

    kind: ClassVar[str] = "legend"
    keys: tuple[Key, ...]


@dataclass(frozen=True)
class Figures(Block):
    """Figures beside each other; ``size`` is empty, ``small``, ``tiny`` or ``wide``."""

    kind: ClassVar[str] = "figures"
    items: tuple[Figure, ...]
    size: str = ""


@dataclass(frozen=True)
class Groups(Block):
    """Groups below each other or, where they are narrow, beside each other."""

    kind: ClassVar[str] = "groups"
    items: tuple[Group, ...]
    size: str = ""
    beside: bool = False


@dataclass(frozen=True)
class Table(Block):
    """A table with its tests below it."""

    kind: ClassVar[str] = "table"
    board: Board


@dataclass(frozen=True)
class Details(Block):
    """Blocks that unfold."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Verdicts(Block):
    """Records with what became of each: method, seed, verdict, words, and whether it needs care."""

    kind: ClassVar[str] = "verdicts"
    lines: tuple[tuple[str, str, str, str, bool], ...]


#: What a section's function gives: its blocks, or nothing where the run lacks its inputs.
Content = list[Block] | None
