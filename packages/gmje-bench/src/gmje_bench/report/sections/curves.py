"""The section of learning curves: gauges of all methods in a panel each, and every method's own loss."""

from collections.abc import Iterable

from gmje_bench.report import charts
from gmje_bench.report.blocks import Content, Figure, Figures, Heading, Words
from gmje_bench.report.embed import Drawer
from gmje_bench.report.palette import method_styles
from gmje_bench.report.sections.common import method_legend
from gmje_bench.runs import Record
from gmje_bench.runs.reading import Run

__all__ = ["curves"]

# These gauges mean the same for every method, so each has one panel: title, unit, and a level to compare with.
GAUGES: dict[str, tuple[str, str, float | None]] = {
    "online_probe": ("online probe, views of training images", "%", None),
    "effective_rank": ("effective rank", "dimensions", None),
    "relative_spread": ("relative spread", "share of energy", None),
    "log_det_per_dim": ("log-volume per dimension", "nats", None),
    "alignment": ("alignment of pairs", "cosine", None),
    "trace_ratio": ("trace ratio", "1 if calibrated", 1.0),
    "component_usage": ("component usage", "share", None),
}


def curves(run: Run, drawer: Drawer) -> Content:
    """Gauges of all methods in a panel each, and every method's own loss."""
    records = [record for record in run.results.records if record.history]
    if not records:
        return None
    styles = method_styles(record.method for record in run.results.records)
    figures = []
    for key, (title, unit, level) in GAUGES.items():
        lines = [
            charts.Curve(*points, styles[record.method]) for record in records if (points := points_of(record, key))
        ]
        if lines:
            alt = f"{title} [{unit}] over epochs; last values: {last_values(records, key)}"
            figure = charts.draw_curves(lines, "epoch", f"{title} [{unit}]", level=level)
            figures.append(Figure(f"{title} [{unit}]", alt, drawer.svg(figure, alt)))
    losses = []
    for method in dict.fromkeys(record.method for record in records):
        mine = [record for record in records if record.method == method]
        lines = [charts.Curve(*points, styles[method]) for record in mine if (points := points_of(record, "loss"))]
        if lines:
            verdict = ", ".join(dict.fromkeys(r.verdict or "untrained" if r.status == "ok" else "failed" for r in mine))
            alt = f"Training loss of {method} over epochs, {len(lines)} seed(s); verdict: {verdict}"
            figure = charts.draw_curves(lines, "epoch", "loss [own units]", title=f"{method}: {verdict}", small=True)
            losses.append(Figure("", alt, drawer.svg(figure, alt)))
    trained = {record.method: styles[record.method] for record in records}
    return [
        Words("Gauges at the end of every epoch, a line a seed, the last epoch marked."),
        method_legend(trained),
        Figures(tuple(figures)),
        Heading("Loss", "each in its own units: not comparable between methods"),
        Figures(tuple(losses), "small"),
    ]


def points_of(record: Record, key: str) -> tuple[list[float], list[float]] | None:
    """Epochs and values of a gauge; epochs in which it was not finite are left out."""
    points = [(float(h["epoch"]), float(h[key])) for h in record.history if key in h and "epoch" in h]
    return tuple(map(list, zip(*points, strict=True))) if points else None  # type: ignore[return-value]


def last_values(records: Iterable[Record], key: str) -> str:
    ends = {r.method: points[1][-1] for r in records if (points := points_of(r, key))}
    return ", ".join(f"{method} {value:.3g}" for method, value in ends.items())
