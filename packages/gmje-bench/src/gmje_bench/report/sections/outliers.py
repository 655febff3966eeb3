"""The section of outliers: measures of detection by kind and score, and histograms of the densities' scores."""

import numpy as np

from gmje_bench.report import charts
from gmje_bench.report import leaderboard as boards
from gmje_bench.report.blocks import Block, Content, Figure, Group, Groups, Heading, Table, Words
from gmje_bench.report.embed import Drawer
from gmje_bench.report.sections.common import first_seeds, seed_note
from gmje_bench.report.sections.uncertainty import SCORES
from gmje_bench.runs import OUTLIER_KINDS
from gmje_bench.runs.reading import Artifacts, Run

__all__ = ["outliers"]


def outliers(run: Run, drawer: Drawer) -> Content:
    """Tables of AUROC and false positive rate, and the learned density's scores of every kind of outliers."""
    tables = boards.outlier_boards(run.results, run.reference)
    blocks: list[Block] = []
    if tables:
        left_out = run.results.options.get("held_out_classes") or []
        classes = f" Classes held out of training: {', '.join(left_out)}." if left_out else ""
        blocks.append(
            Words(
                "AUROC: how often a test image is more typical than an outlier (chance: 0.5). False positive rate: the "
                "share of outliers that pass where 95 % of the test images do (chance: 0.95). All scores see the same "
                f"images. Marks compare a score with the same score of other methods.{classes}"
            )
        )
    for table in tables:
        blocks += [Heading(table.title), Table(table)]
    groups = [group for first in first_seeds(run) if (group := score_group(run, drawer, *first)) is not None]
    if groups:
        words = "What is beyond the 1st and 99th percentile counts in the outermost bins."
        blocks += [Heading("Scores by the learned density"), SCORES, Words(words), Groups(tuple(groups), "small")]
    return blocks or None


def score_group(run: Run, drawer: Drawer, method: str, seed: int, tensors: Artifacts) -> Group | None:
    figures = []
    inside = tensors.get("outliers.density.test")
    for kind, words in OUTLIER_KINDS.items():
        outside = tensors.get(f"outliers.density.{kind}")
        if inside is None or outside is None:
            continue
        seen, unseen = (values[np.isfinite(values)] for values in (inside, outside))
        if not (len(seen) and len(unseen)):
            continue
        alt = (
            f"{method}: log-density in nats of {len(seen)} test images, median {np.median(seen):.3g}, and of "
            f"{len(unseen)} outliers ({words}), median {np.median(unseen):.3g}"
        )
        figures.append(Figure("", alt, drawer.svg(charts.draw_scores(seen, unseen, words), alt)))
    return Group(method, tuple(figures), seed_note(run, method, seed)) if figures else None
