"""The section of latent maps: PCA and t-SNE of test embeddings, by class and by component."""

import numpy as np

from gmje_bench.report import charts
from gmje_bench.report.blocks import Block, Content, Figure, Group, Groups, Words
from gmje_bench.report.embed import Drawer
from gmje_bench.report.sections.common import first_seeds, seed_note
from gmje_bench.runs.reading import Run

__all__ = ["latent"]

SHOWN_COMPONENTS = 6
# Names of more classes than these would fill the page.
MOST_NAMES = 20


def latent(run: Run, drawer: Drawer) -> Content:
    """PCA and t-SNE of test embeddings, by class and by component."""
    groups = []
    for method, seed, tensors in first_seeds(run):
        figures = []
        for kind, words, axis in (("pca", "PCA", "principal axis"), ("tsne", "t-SNE", "t-SNE axis")):
            for by, label, largest in (("label", "class", None), ("component", "component", SHOWN_COMPONENTS)):
                if f"latent.{kind}" in tensors and f"latent.{by}" in tensors:
                    points, owners = tensors[f"latent.{kind}"], tensors[f"latent.{by}"]
                    fine = np.isfinite(points).all(axis=1)
                    if not fine.any():
                        continue
                    points, owners = points[fine], owners[fine]
                    used = len(np.unique(owners))
                    title = f"{words} by {label}"
                    alt = f"{method}: {words} of {len(points)} test embeddings, coloured by {label} ({used} of them)"
                    figure = charts.draw_map(points, owners, title, axis, largest=largest)
                    shown = f"the {largest} largest of {used}" if largest and used > largest else f"{used}"
                    lost = f"; {int((~fine).sum())} not finite, left out" if not fine.all() else ""
                    plural = "classes" if by == "label" else "components"
                    figures.append(Figure(f"{shown} {plural}{lost}", alt, drawer.svg(figure, alt)))
        if figures:
            groups.append(Group(method, tuple(figures), seed_note(run, method, seed)))
    if not groups:
        return None
    blocks: list[Block] = [
        Words(
            "Test embeddings in the plane. Numbers stand at the median of their class or component; components are the "
            "most responsible ones of the learned density, or of a fitted one where none is learned, and grey points "
            "belong to smaller components. PCA is in units of the embeddings; t-SNE's axes have no unit."
        )
    ]
    names = run.results.dataset.class_names if run.results.dataset else None
    if names and len(names) <= MOST_NAMES:
        blocks.append(Words(f"Classes: {', '.join(f'{index} {name}' for index, name in enumerate(names))}."))
    return [*blocks, Groups(tuple(groups), "small")]
