"""The section of uncertainty: risk against coverage of all methods, and each method's scores and ranks."""

from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from gmje_bench.report import charts
from gmje_bench.report.blocks import Block, Content, Figure, Figures, Group, Groups, Heading, Key, Legend, Words
from gmje_bench.report.embed import Drawer
from gmje_bench.report.palette import Style, group_style, method_styles
from gmje_bench.report.sections.common import first_seeds, method_legend, seed_note
from gmje_bench.runs.reading import Artifacts, Run

__all__ = ["uncertainty"]

KINDS = {"learned": "learned density", "fitted": "fitted mixture", "softmax": "probe's softmax"}
CURVE_POINTS = 120
SCORES = Legend(
    (
        Key(
            "test images",
            picture=Markup(
                '<rect y="1" width="34" height="10" fill="#0072B2" fill-opacity="0.3" stroke="#0072B2" '
                'stroke-width="1.5"/>'
            ),
        ),
        Key(
            "outliers (hatched)",
            picture=Markup(
                '<rect y="1" width="34" height="10" fill="#D55E00" fill-opacity="0.3" stroke="#D55E00" '
                'stroke-width="1.5"/><path d="M4 11 12 1M13 11 21 1M22 11 30 1" stroke="#D55E00"/>'
            ),
        ),
    )
)


RELIABLE = {"conditional": "the other view, given one", "context": "contexts", "target": "targets"}
RELIABILITY = Legend(
    tuple(
        Key(words, group_style(index).color, mark=group_style(index).mark)
        for index, words in enumerate(RELIABLE.values())
    )
)


def uncertainty(run: Run, drawer: Drawer) -> Content:
    """Risk against coverage of all methods, and each method's scores and ranks."""
    styles = method_styles(record.method for record in run.results.records)
    firsts = list(first_seeds(run))
    risks: list[Figure] = []
    drawn: dict[str, Style] = {}
    for kind, words in KINDS.items():
        name = f"uncertainty.risk_coverage.{kind}"
        lines = {m: charts.Curve(*thinned(t[name]), styles[m]) for m, _, t in firsts if name in t}
        lines = {method: line for method, line in lines.items() if line.x}
        if lines:
            alt = f"Risk against coverage by the {words}; risk when all images are answered: " + ", ".join(
                f"{method} {line.y[-1]:.1f} %" for method, line in lines.items()
            )
            figure = charts.draw_curves(
                list(lines.values()),
                "coverage: answered images [%]",
                "risk: wrong answers [%]",
                title=f"by the {words}",
            )
            risks.append(Figure("", alt, drawer.svg(figure, alt)))
            drawn |= {method: styles[method] for method in lines}
    scores = [group for first in firsts if (group := score_group(run, drawer, *first)) is not None]
    ranks = [group for first in firsts if (group := rank_group(run, drawer, *first)) is not None]
    blocks: list[Block] = []
    if risks:
        words = "The surest answers first: the share that is wrong among the answered images. Lower is better."
        blocks += [Heading("Risk against coverage"), Words(words), method_legend(drawn), Figures(tuple(risks))]
    if scores:
        words = (
            "The further apart, the better. What is beyond the 1st and 99th percentile counts in the outermost bins."
        )
        blocks += [Heading("Scores of outliers"), SCORES, Words(words), Groups(tuple(scores), "small")]
    if ranks:
        words = (
            "HPD ranks of targets given their contexts: even for a calibrated density (dashed; grey: 95 % of "
            "calibrated counts). Too many low ranks: too wide. Too many high ranks: too narrow."
        )
        blocks += [Heading("Calibration of the conditional"), Words(words), Groups(tuple(ranks), "small")]
    diagrams = [group for first in firsts if (group := reliability_group(run, drawer, *first)) is not None]
    if diagrams:
        words = (
            "Regions of highest density that should hold the nominal share of the data, and the share that they hold "
            "(dashed: a calibrated density; grey: where it lies with probability 95 % for the conditional's pairs). "
            "Above the line: too wide. Below: too narrow."
        )
        blocks += [Heading("Reliability"), RELIABILITY, Words(words), Groups(tuple(diagrams), "small")]
    return blocks or None


def thinned(curve: NDArray[Any]) -> tuple[list[float], list[float]]:
    """Percentages at evenly spaced places of the curve, its ends among them."""
    curve = curve[np.isfinite(curve).all(axis=1)]
    if not len(curve):
        return [], []
    places = np.unique(np.linspace(0, len(curve) - 1, CURVE_POINTS).round().astype(int))
    return (100 * curve[places, 0]).tolist(), (100 * curve[places, 1]).tolist()


def score_group(run: Run, drawer: Drawer, method: str, seed: int, tensors: Artifacts) -> Group | None:
    figures = []
    for kind, words in KINDS.items():
        pair = [tensors.get(f"uncertainty.ood_scores.{kind}.{side}") for side in ("inside", "outside")]
        if pair[0] is None or pair[1] is None:
            continue
        inside, outside = (values[np.isfinite(values)] for values in pair if values is not None)
        if not (len(inside) and len(outside)):
            continue
        lost = len(pair[0]) + len(pair[1]) - len(inside) - len(outside)
        alt = (
            f"{method}, {words}: log-density in nats of {len(inside)} test images, median {np.median(inside):.3g}, and "
            f"of {len(outside)} outliers, median {np.median(outside):.3g}"
        )
        figure = charts.draw_scores(inside, outside, words)
        caption = f"{lost} not finite, left out" if lost else ""
        figures.append(Figure(caption, alt, drawer.svg(figure, alt)))
    return Group(method, tuple(figures), seed_note(run, method, seed)) if figures else None


def rank_group(run: Run, drawer: Drawer, method: str, seed: int, tensors: Artifacts) -> Group | None:
    figures = []
    for kind, words in KINDS.items():
        counts = tensors.get(f"uncertainty.hpd_histogram.{kind}")
        if counts is None or not np.isfinite(counts).all() or counts.sum() <= 0:
            continue
        alt = (
            f"{method}, {words}: histogram of HPD ranks of {counts.sum():.0f} pairs in {len(counts)} bins, counts from "
            f"{counts.min():.0f} to {counts.max():.0f} where {counts.sum() / len(counts):.0f} are expected"
        )
        figures.append(Figure("", alt, drawer.svg(charts.draw_hpd(counts, words), alt)))
    return Group(method, tuple(figures), seed_note(run, method, seed)) if figures else None


def reliability_group(run: Run, drawer: Drawer, method: str, seed: int, tensors: Artifacts) -> Group | None:
    figures = []
    for kind, words in KINDS.items():
        found = {of: tensors.get(f"uncertainty.reliability.{of}.{kind}") for of in RELIABLE}
        curves = {of: curve for of, curve in found.items() if curve is not None and np.isfinite(curve).all()}
        if "conditional" not in curves:
            continue
        alt = f"{method}, {words}: share of the data in regions of 90 %: " + ", ".join(
            f"{RELIABLE[of]} {100 * curve[np.abs(curve[:, 0] - 0.9).argmin(), 1]:.1f} %" for of, curve in curves.items()
        )
        styled = [(group_style(list(RELIABLE).index(of)), curve) for of, curve in curves.items()]
        figures.append(Figure("", alt, drawer.svg(charts.draw_reliability(styled, words), alt)))
    return Group(method, tuple(figures), seed_note(run, method, seed)) if figures else None
