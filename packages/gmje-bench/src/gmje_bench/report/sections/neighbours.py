"""The section of nearest neighbours: test images with their nearest train images."""

import numpy as np

from gmje_bench.report.blocks import Content, Figure, Group, Groups, Words
from gmje_bench.report.embed import Drawer, data_uri, tile
from gmje_bench.report.sections.common import first_seeds, seed_note
from gmje_bench.runs.reading import Run

__all__ = ["neighbours"]


def neighbours(run: Run, drawer: Drawer) -> Content:
    """Test images with their nearest train images, those of another class framed."""
    groups = []
    for method, seed, tensors in first_seeds(run):
        if not {"neighbours.query", "neighbours.images"} <= tensors.keys():
            continue
        query, images = tensors["neighbours.query"], tensors["neighbours.images"]
        count, k = images.shape[:2]
        wrong, words = None, ""
        if {"neighbours.query_label", "neighbours.label"} <= tensors.keys():
            other = tensors["neighbours.label"] != tensors["neighbours.query_label"][:, None]
            wrong = np.concatenate([np.zeros((count, 1), bool), other], axis=1).reshape(-1)
            words = f"{int((~other).sum())} of {count * k} neighbours have the class of their query"
        every = np.concatenate([query[:, None], images], axis=1)
        picture = tile(every.reshape(-1, *every.shape[2:]), k + 1, wrong)
        alt = f"{method}: {count} test images, each with its {k} nearest train images in a row; {words}"
        groups.append(Group(method, (Figure(words, alt, uri=data_uri(picture)),), seed_note(run, method, seed)))
    if not groups:
        return None
    words = (
        "First column: test images. To their right, the nearest train images by cosine of features, nearest first; a "
        "frame with a cut corner marks those of another class."
    )
    return [Words(words), Groups(tuple(groups), "one", beside=True)]
