"""The section of samples: measures by source, and a grid of decoded samples of each."""

import math

from gmje_bench.report import leaderboard as boards
from gmje_bench.report.blocks import Block, Content, Figure, Group, Groups, Heading, Table, Words
from gmje_bench.report.embed import Drawer, data_uri, tile
from gmje_bench.report.sections.common import first_seeds, seed_note
from gmje_bench.runs.reading import Run

__all__ = ["sampling"]


def sampling(run: Run, drawer: Drawer) -> Content:
    """Measures by source of samples, and a grid of decoded samples of each."""
    board = boards.sampling_board(run.results)
    groups = []
    order = ("original", "real", "learned", "gaussian", "kde", "mixture")
    prefix = "sampling.pictures."
    for method, seed, tensors in first_seeds(run):
        present = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
        figures = []
        for source in sorted(present, key=lambda s: (order.index(s) if s in order else len(order), s)):
            pictures = tensors[prefix + source]
            title = boards.source_title(source)
            alt = f"{method}: {len(pictures)} pictures decoded from {title}"
            if source == "original":
                alt = f"{len(pictures)} test images as they are"
            figures.append(Figure(title, alt, uri=data_uri(tile(pictures, max(round(math.sqrt(len(pictures))), 1)))))
        if figures:
            groups.append(Group(method, tuple(figures), seed_note(run, method, seed)))
    blocks: list[Block] = []
    if board:
        words = (
            "Samples of each density against held-out embeddings. The floor is real embeddings against real embeddings."
        )
        blocks += [Words(words), Table(board)]
    if groups:
        blocks += [Heading("Decoded samples"), Groups(tuple(groups), "tiny")]
    return blocks or None
