"""Each section of the page is a function from a run to what its part of the template shows.

A function gives nothing where the run lacks its inputs. Where several seeds have artifacts, the first is shown.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from gmje_bench.report import charts
from gmje_bench.report import leaderboard as boards
from gmje_bench.report.embed import Drawer, data_uri, png_uri, tile
from gmje_bench.report.palette import COLORS, Style, method_styles
from gmje_bench.report.tables import FINE, alignment_rows, heading, headline_metrics, summarise
from gmje_bench.runs import Record
from gmje_bench.runs.reading import Artifacts, Run

__all__ = [
    "Figure",
    "Group",
    "curves",
    "latent",
    "leaderboard",
    "neighbours",
    "sampling",
    "synthetic",
    "uncertainty",
    "verdicts",
    "what",
]

_KINDS = {"learned": "learned density", "fitted": "fitted mixture", "softmax": "probe's softmax"}
_SHOWN_COMPONENTS = 6
_CURVE_POINTS = 120
# These gauges mean the same for every method, so each has one panel: title, unit, and a level to compare with.
_GAUGES: dict[str, tuple[str, str, float | None]] = {
    "effective_rank": ("effective rank", "dimensions", None),
    "relative_spread": ("relative spread", "share of energy", None),
    "log_det_per_dim": ("log-volume per dimension", "nats", None),
    "alignment": ("alignment of pairs", "cosine", None),
    "trace_ratio": ("trace ratio", "1 if calibrated", 1.0),
    "component_usage": ("component usage", "share", None),
}


class Figure(NamedTuple):
    """A picture with its words: ``svg`` for drawings, else ``uri`` for images."""

    caption: str
    alt: str
    svg: Markup | None = None
    uri: str = ""
    wide: bool = False


class Group(NamedTuple):
    """Figures that belong together, with a heading."""

    title: str
    figures: tuple[Figure, ...]
    note: str = ""


class Key(NamedTuple):
    """An entry of a legend: a line as it is drawn."""

    label: str
    color: str
    dash: str
    mark: str


def what(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """Lists of names and values that say what was run, with their headings."""
    results = run.results
    made = [("Run", [("suite", results.suite), ("started", results.started), ("processes", str(results.world_size))])]
    if results.dataset is not None:
        made.append(("Dataset", [(key, _plain(value)) for key, value in results.dataset.model_dump().items()]))
    for title, values in (
        ("Options", results.options),
        ("Protocol", results.protocol),
        ("Versions", results.versions),
        ("Hardware", results.environment),
    ):
        made.append((title, list(_flat(values))))
    return [(title, rows) for title, rows in made if rows]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", _plain(value)


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def verdicts(run: Run, drawer: Drawer) -> dict[str, Any] | None:
    """Every record with what became of it, those that need care first; then methods that have not finished."""
    lines = []
    for record in run.results.records:
        bad = record.status == "failed"
        verdict = "failed" if bad else record.verdict or "untrained"
        words = record.error if bad else record.advice
        lines.append((record.method, str(record.seed), verdict, words or "", bad or verdict not in FINE))
    lines += [
        (row.method, "", f"failed on {boards.task_title(row.task, row.dim)}", row.error, True)
        for row in alignment_rows(run.results)
        if row.error
    ]
    lines += [
        (row.method, "", "not finished", f"{row.verdict}: no mean is shown of a part", True)
        for row in summarise(run.results)
        if not row.estimates and row.verdict.startswith("not finished")
    ]
    return {"lines": sorted(lines, key=lambda line: not line[-1])} if lines else None


def leaderboard(run: Run, drawer: Drawer, reference: str | None = None) -> dict[str, Any] | None:
    """Tables by task, and the headline metrics as dots with their intervals."""
    tables = boards.boards(run.results, reference)
    if not any(row.estimates for row in summarise(run.results)):
        return None
    styles = method_styles(record.method for record in run.results.records)
    rows = [row for row in summarise(run.results) if row.estimates]
    figures = []
    for name, metric in headline_metrics(run.results).items():
        values = {
            row.method: (row.estimates[name], [r.metrics[name] for r in run.results.records if r.method == row.method])
            for row in rows
            if name in row.estimates
        }
        if values:
            ranked = sorted(values.items(), key=lambda item: (1, -1)[metric.higher_is_better] * item[1][0].mean)
            figure = charts.draw_dots(dict(ranked), metric.title, metric.unit, styles)
            words = f"{heading(metric)}, {'higher' if metric.higher_is_better else 'lower'} is better"
            alt = f"{words}. " + "; ".join(f"{method} {estimate[0].text(3)}" for method, estimate in ranked)
            figures.append(Figure(words, alt, drawer.svg(figure, alt)))
    return {"boards": tables, "figures": figures, "seeds": max(row.seeds for row in rows), "reference": reference}


def curves(run: Run, drawer: Drawer) -> dict[str, Any] | None:
    """Gauges of all methods in a panel each, and every method's own loss."""
    records = [record for record in run.results.records if record.history]
    if not records:
        return None
    styles = method_styles(record.method for record in run.results.records)
    figures = []
    for key, (title, unit, level) in _GAUGES.items():
        lines = [charts.Curve(*points, styles[record.method]) for record in records if (points := _points(record, key))]
        if lines:
            alt = f"{title} [{unit}] over epochs; last values: {_last(records, key)}"
            figure = charts.draw_curves(lines, "epoch", f"{title} [{unit}]", level=level)
            figures.append(Figure(f"{title} [{unit}]", alt, drawer.svg(figure, alt)))
    losses = []
    for method in dict.fromkeys(record.method for record in records):
        mine = [record for record in records if record.method == method]
        lines = [charts.Curve(*points, styles[method]) for record in mine if (points := _points(record, "loss"))]
        if lines:
            verdict = ", ".join(dict.fromkeys(r.verdict or "untrained" if r.status == "ok" else "failed" for r in mine))
            alt = f"Training loss of {method} over epochs, {len(lines)} seed(s); verdict: {verdict}"
            figure = charts.draw_curves(lines, "epoch", "loss [own units]", title=f"{method}: {verdict}", small=True)
            losses.append(Figure("", alt, drawer.svg(figure, alt)))
    trained = {record.method: styles[record.method] for record in records}
    return {"figures": figures, "losses": losses, "legend": _legend(trained)}


def _points(record: Record, key: str) -> tuple[list[float], list[float]] | None:
    """Epochs and values of a gauge; epochs in which it was not finite are left out."""
    points = [(float(h["epoch"]), float(h[key])) for h in record.history if key in h and "epoch" in h]
    return tuple(map(list, zip(*points, strict=True))) if points else None  # type: ignore[return-value]


def _last(records: Iterable[Record], key: str) -> str:
    ends = {r.method: points[1][-1] for r in records if (points := _points(r, key))}
    return ", ".join(f"{method} {value:.3g}" for method, value in ends.items())


def latent(run: Run, drawer: Drawer) -> list[Group] | None:
    """PCA and t-SNE of test embeddings, by class and by component."""
    groups = []
    for method, seed, tensors in _first_seeds(run):
        figures = []
        for kind, words, axis in (("pca", "PCA", "principal axis"), ("tsne", "t-SNE", "t-SNE axis")):
            for by, label, largest in (("label", "class", None), ("component", "component", _SHOWN_COMPONENTS)):
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
            groups.append(Group(method, tuple(figures), _seed_note(run, method, seed)))
    return groups or None


def neighbours(run: Run, drawer: Drawer) -> list[Group] | None:
    """Test images with their nearest train images, those of another class framed."""
    groups = []
    for method, seed, tensors in _first_seeds(run):
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
        groups.append(Group(method, (Figure(words, alt, uri=data_uri(picture)),), _seed_note(run, method, seed)))
    return groups or None


def synthetic(run: Run, drawer: Drawer) -> dict[str, Any] | None:
    """Tables of the alignment tasks, and their picture."""
    tables = boards.alignment_boards(run.results)
    if not tables and run.picture is None:
        return None
    figure = None
    if run.picture is not None:
        tasks = ", ".join(dict.fromkeys(record.task for record in run.results.alignment)) or "the synthetic tasks"
        alt = f"Samples of the target given the context, the truth beside every method, a row a task: {tasks}"
        figure = Figure("Samples of the target given the context", alt, uri=png_uri(run.picture), wide=True)
    return {"boards": tables, "figure": figure}


def sampling(run: Run, drawer: Drawer) -> dict[str, Any] | None:
    """Measures by source of samples, and a grid of decoded samples of each."""
    board = boards.sampling_board(run.results)
    groups = []
    order = ("original", "real", "learned", "gaussian", "kde", "mixture")
    prefix = "sampling.pictures."
    for method, seed, tensors in _first_seeds(run):
        present = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
        figures = []
        for source in sorted(present, key=lambda s: (order.index(s) if s in order else len(order), s)):
            pictures = tensors[prefix + source]
            title = boards.source_title(source)
            alt = f"{method}: {len(pictures)} pictures decoded from {title}"
            if source == "original":
                alt = f"{len(pictures)} test images as they are"
            figures.append(Figure(title, alt, uri=data_uri(tile(pictures, _side(len(pictures))))))
        if figures:
            groups.append(Group(method, tuple(figures), _seed_note(run, method, seed)))
    return {"board": board, "groups": groups} if board or groups else None


def _side(count: int) -> int:
    return max(round(math.sqrt(count)), 1)


def uncertainty(run: Run, drawer: Drawer) -> dict[str, Any] | None:
    """Risk against coverage of all methods, and each method's scores and ranks."""
    styles = method_styles(record.method for record in run.results.records)
    firsts = list(_first_seeds(run))
    risks: list[Figure] = []
    drawn: dict[str, Style] = {}
    for kind, words in _KINDS.items():
        name = f"uncertainty.risk_coverage.{kind}"
        lines = {m: charts.Curve(*_thinned(t[name]), styles[m]) for m, _, t in firsts if name in t}
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
    scores = [group for first in firsts if (group := _score_group(run, drawer, *first)) is not None]
    ranks = [group for first in firsts if (group := _rank_group(run, drawer, *first)) is not None]
    if not (risks or scores or ranks):
        return None
    return {"risks": risks, "legend": _legend(drawn), "scores": scores, "ranks": ranks}


def _thinned(curve: NDArray[Any]) -> tuple[list[float], list[float]]:
    """Percentages at evenly spaced places of the curve, its ends among them."""
    curve = curve[np.isfinite(curve).all(axis=1)]
    if not len(curve):
        return [], []
    places = np.unique(np.linspace(0, len(curve) - 1, _CURVE_POINTS).round().astype(int))
    return (100 * curve[places, 0]).tolist(), (100 * curve[places, 1]).tolist()


def _score_group(run: Run, drawer: Drawer, method: str, seed: int, tensors: Artifacts) -> Group | None:
    figures = []
    for kind, words in _KINDS.items():
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
    return Group(method, tuple(figures), _seed_note(run, method, seed)) if figures else None


def _rank_group(run: Run, drawer: Drawer, method: str, seed: int, tensors: Artifacts) -> Group | None:
    figures = []
    for kind, words in _KINDS.items():
        counts = tensors.get(f"uncertainty.hpd_histogram.{kind}")
        if counts is None or not np.isfinite(counts).all() or counts.sum() <= 0:
            continue
        alt = (
            f"{method}, {words}: histogram of HPD ranks of {counts.sum():.0f} pairs in {len(counts)} bins, counts from "
            f"{counts.min():.0f} to {counts.max():.0f} where {counts.sum() / len(counts):.0f} are expected"
        )
        figures.append(Figure("", alt, drawer.svg(charts.draw_hpd(counts, words), alt)))
    return Group(method, tuple(figures), _seed_note(run, method, seed)) if figures else None


def _first_seeds(run: Run) -> Iterator[tuple[str, int, Artifacts]]:
    """Methods in the order of running, each with its first seed that has artifacts."""
    seen = set()
    for record in run.results.records:
        tensors = run.artifacts.get((record.method, record.seed))
        if record.method not in seen and tensors is not None and record.status == "ok":
            seen.add(record.method)
            yield record.method, record.seed, tensors


def _seed_note(run: Run, method: str, seed: int) -> str:
    seeds = sum(record.method == method for record in run.results.records)
    return f"seed {seed}, one of {seeds}" if seeds > 1 else f"seed {seed}"


def _legend(styles: Mapping[str, Style]) -> list[Key]:
    return [
        Key(
            method, style.color if style.color in COLORS else "currentColor", " ".join(map(str, style.dash)), style.mark
        )
        for method, style in styles.items()
    ]
