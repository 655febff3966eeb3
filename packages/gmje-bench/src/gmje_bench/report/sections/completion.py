"""The section of completions: measures by kind of answer, what eight answers gain, and the pictures."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from gmje_bench.report import leaderboard as boards
from gmje_bench.report.blocks import Block, Content, Figure, Group, Groups, Heading, Table, Words
from gmje_bench.report.embed import Drawer, data_uri, tile
from gmje_bench.report.sections.common import first_seeds, seed_note
from gmje_bench.runs import ANSWERS
from gmje_bench.runs.reading import Artifacts, Run

__all__ = ["completion", "picture_columns"]

Pictures = NDArray[np.uint8]

_PREFIX = "completion."
# The method whose single answer is shown beside those of the others, where the run has it.
_PREDICTOR = "jepa"
_GAUSSIANS = 3
_MEASURES = (
    "Eight answers for what the context does not show, on test images, decoded from samples of the conditional; errors "
    "are root mean squares of pixels in [0, 1]. “Nearer than the predictor” is the share of contexts where the best of "
    "eight has a smaller error than the least-squares answer from the same embeddings. A sharpness of one is that of "
    "the true pictures. The true embedding, decoded, is the floor of the decoder; “pixels of the nearest contexts” are "
    "those of eight training images. Likelihoods are nats of embeddings at unit mean variance: compare kinds of one "
    "method, not methods."
)
_PICTURES = (
    "A row is one test image, chosen by a fixed seed. An answer is what the decoder expects of the pixels, given the "
    "context and one sample of the conditional: answers of a row differ by what the density leaves open."
)


def completion(run: Run, drawer: Drawer) -> Content:
    """Measures by kind of answer, and for each method contexts with their answers side by side."""
    board = boards.kind_board(run.results, "completion", ANSWERS.__getitem__, run.reference)
    if board is None:
        return None
    blocks: list[Block] = [Words(_MEASURES), Table(board)]
    firsts = list(first_seeds(run))
    predictor = next((tensors for method, _, tensors in firsts if method == _PREDICTOR), None)
    groups = tuple(
        Group(method, figures, seed_note(run, method, seed))
        for method, seed, tensors in firsts
        if (figures := tuple(_figures(method, tensors, predictor)))
    )
    if groups:
        blocks += [Heading("Completed pictures"), Words(_PICTURES), Groups(groups, "answers")]
    return blocks


def _figures(method: str, tensors: Artifacts, predictor: Artifacts | None) -> Iterator[Figure]:
    for words, pictures in picture_columns(tensors, predictor):
        rows, columns = pictures.shape[:2]
        alt = f"{method}: {words}, of {rows} test images in rows"
        yield Figure(words, alt, uri=data_uri(tile(pictures.reshape(-1, *pictures.shape[2:]), columns)))


def picture_columns(tensors: Artifacts, predictor: Artifacts | None) -> Iterator[tuple[str, Pictures]]:
    """What stands side by side: words, and pictures uint8 ``(rows, columns, C, s, s)``.

    Args:
        tensors: The artifacts of a method.
        predictor: Those of a deterministic predictor, whose answer is shown; the method's own least-squares answer,
            where missing.
    """
    own = _answers(tensors)
    if not own:
        return
    yield "context", tensors[f"{_PREFIX}context"][:, None]
    yield "truth", tensors[f"{_PREFIX}truth"][:, None]
    theirs = _answers(predictor) if predictor is not None else {}
    if "predictor" in theirs:
        yield f"{_PREDICTOR}’s one answer", theirs["predictor"]
    else:
        yield "one answer, least squares", own["predictor"]
    if "gaussian" in own:
        yield "one Gaussian’s samples", own["gaussian"][:, :_GAUSSIANS]
    kind = "learned" if "learned" in own else "scaled"
    if kind in own:
        yield f"{own[kind].shape[1]} samples of {ANSWERS[kind]}", own[kind]


def _answers(tensors: Artifacts) -> Mapping[str, Pictures]:
    """Pictures by kind of answer."""
    prefix = f"{_PREFIX}answers."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
