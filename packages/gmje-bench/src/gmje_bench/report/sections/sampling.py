"""The section of samples: measures by source, and decoded samples of all methods side by side."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from gmje_bench.report import leaderboard as boards
from gmje_bench.report.blocks import Block, Content, Details, Figure, Figures, Group, Groups, Heading, Table, Words
from gmje_bench.report.embed import Drawer, data_uri, tile
from gmje_bench.report.sections.common import first_seeds, seed_note
from gmje_bench.runs.reading import Artifacts, Run

__all__ = ["sampling"]

_ORDER = ("original", "real", "learned", "gaussian", "kde", "mixture")
# The density of a method that stands for it beside others: the first of these that there is.
_CHOSEN = ("learned", "mixture", "kde", "gaussian")
_PREFIX, _CONDITIONAL = "sampling.pictures.", "sampling.conditional."
_VIEWS = {
    "context": "context",
    "target": "other view",
    "real": "the same, decoded",
    "mean": "mean, decoded",
    "samples": "eight samples of the other view, decoded",
}
_MEASURES = (
    "Samples of each density against held-out embeddings. “Fréchet to images” compares decoded samples with the test "
    "images, “Fréchet to decoded” with decoded embeddings of the test images, which leaves out what the decoder lacks. "
    "“Fréchet of nearest images” compares the training images nearest to the samples with the test images. Real "
    "embeddings are the floor: no density can be expected below it."
)
_BESIDE = (
    "Each block is one method, drawn by a decoder of its own. Above the line: embeddings of real images, decoded. "
    "Below it: samples of the density that the caption names, decoded."
)
_EXPECTED = (
    "A row is one test image. The density sees the embedding of the context alone and draws embeddings of the other "
    "view. The decoder draws whole images, not views, and with the same noise along a row: what differs in a row is "
    "what the density leaves open."
)


def sampling(run: Run, drawer: Drawer) -> Content:
    """Measures by source; pictures of all methods side by side, of the other view, and of every source."""
    board = boards.kind_board(run.results, "sampling", boards.source_title, run.reference)
    firsts = list(first_seeds(run))
    blocks: list[Block] = [Words(_MEASURES), Table(board)] if board else []
    beside = tuple(_beside(firsts))
    if beside:
        blocks += [Heading("Samples of every method"), Words(_BESIDE), Figures(beside, "tiny")]
    expected = _groups(run, firsts, _expected)
    if expected:
        blocks += [Heading("The other view, given one"), Words(_EXPECTED), Groups(expected, "views")]
    every = _groups(run, firsts, _by_source)
    if every:
        blocks.append(Details("Samples of every density of every method", (Groups(every, "tiny"),)))
    return blocks or None


def _groups(
    run: Run, firsts: list[tuple[str, int, Artifacts]], figures_of: Callable[[str, Artifacts], Iterator[Figure]]
) -> tuple[Group, ...]:
    """A group of figures for each method that has any."""
    return tuple(
        Group(method, figures, seed_note(run, method, seed))
        for method, seed, tensors in firsts
        if (figures := tuple(figures_of(method, tensors)))
    )


def _beside(firsts: list[tuple[str, int, Artifacts]]) -> Iterator[Figure]:
    """The test images, and a block of each method: real embeddings above a line, samples of a density below it."""
    for _, _, tensors in firsts:
        if _PREFIX + "original" in tensors:
            pictures = tensors[_PREFIX + "original"]
            yield Figure("test images", f"{len(pictures)} test images", uri=data_uri(tile(pictures, _side(pictures))))
            break
    for method, _, tensors in firsts:
        source = next((name for name in _CHOSEN if _PREFIX + name in tensors), None)
        if source is None:
            continue
        samples, words = tensors[_PREFIX + source], boards.source_title(source)
        columns = _side(samples)
        page, alt = tile(samples, columns), f"{method}: {len(samples)} decoded samples of {words}"
        real = tensors.get(_PREFIX + "real")
        if real is not None and real.shape[1:] == samples.shape[1:]:
            real = real[: 2 * columns]
            line = np.full((3, *page.shape[1:]), 255, np.uint8)
            page = np.concatenate([tile(real, columns), line, page])
            alt = f"{alt}, below {len(real)} decoded embeddings of real images"
        yield Figure(f"{method}: {words}", alt, uri=data_uri(page))


def _expected(method: str, tensors: Artifacts) -> Iterator[Figure]:
    """Columns of the conditional's pictures, those of one test image in a row."""
    for name, words in _VIEWS.items():
        pictures = tensors.get(_CONDITIONAL + name)
        if pictures is not None:
            columns = pictures.shape[1] if pictures.ndim == 5 else 1
            page = tile(pictures.reshape(-1, *pictures.shape[-3:]), columns)
            yield Figure(words, f"{method}: {words}, of {len(pictures)} test images", uri=data_uri(page))


def _by_source(method: str, tensors: Artifacts) -> Iterator[Figure]:
    """A grid of pictures of each source, those that are known first."""
    present = [name.removeprefix(_PREFIX) for name in tensors if name.startswith(_PREFIX)]
    for source in sorted(present, key=lambda s: (_ORDER.index(s) if s in _ORDER else len(_ORDER), s)):
        pictures = tensors[_PREFIX + source]
        title = boards.source_title(source)
        alt = f"{method}: {len(pictures)} pictures decoded from {title}"
        if source == "original":
            alt = f"{len(pictures)} test images as they are"
        yield Figure(title, alt, uri=data_uri(tile(pictures, _side(pictures))))


def _side(pictures: NDArray[np.uint8]) -> int:
    """Columns of a grid that is about as wide as it is high."""
    return max(round(math.sqrt(len(pictures))), 1)
