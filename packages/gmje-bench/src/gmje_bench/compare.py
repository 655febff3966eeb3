"""Paired differences between methods or runs, with bootstrap intervals over the seeds they share.

Seeds are paired because a seed fixes views and starting weights; runs are only compared where a number of one means
what it means in the other.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from scipy import stats

from gmje_bench.errors import OptionError, RunFolderError, did_you_mean
from gmje_bench.runs import Results, describe_difference

__all__ = ["Difference", "compare_methods", "compare_runs", "difference_table"]

_LEVEL, _RESAMPLES = 0.95, 9999


class Difference(NamedTuple):
    """One metric of one method.

    Attributes:
        method: The name of the method.
        metric: The name of the metric, a key of ``metrics`` in the results.
        unit: The unit of the metric.
        mean: Mean over the common seeds of second less first.
        low: Lower end of the 95 % percentile bootstrap interval over seeds; ``None`` for a single seed.
        high: Upper end of the same interval.
        seeds: Number of common seeds.
        better: Whether the second is better by the mean; ``None`` where they are equal.
    """

    method: str
    metric: str
    unit: str
    mean: float
    low: float | None
    high: float | None
    seeds: int
    better: bool | None


def compare_runs(first: Results, second: Results) -> list[Difference]:
    """Subtract the first run from the second, for every method and metric of both, paired over their common seeds.

    Raises:
        RunFolderError: runs of different data, protocols or options, or with nothing in common.
    """
    _check_comparable(first, second)
    found = [
        difference
        for method in _methods(first)
        if method in _methods(second)
        for difference in _differences(first, _values(first, method), _values(second, method), method)
    ]
    if not found:
        raise RunFolderError("the runs have no method, metric and seed in common")
    return found


def compare_methods(results: Results, reference: str) -> list[Difference]:
    """Subtract the reference from every other method of a run, paired over the seeds.

    Raises:
        OptionError: the run has no such method.
    """
    methods = _methods(results)
    if reference not in methods:
        raise OptionError(f"the run has no method {reference!r}{did_you_mean(reference, methods)}")
    base = _values(results, reference)
    return [
        difference
        for method in methods
        if method != reference
        for difference in _differences(results, base, _values(results, method), method)
    ]


def difference_table(differences: list[Difference], title: str) -> Table:
    """A table of the differences for a terminal; a mark shows those whose interval excludes zero."""
    table = Table(
        title=title,
        caption=(
            "mean over common seeds and 95 % percentile bootstrap interval, paired; * better, ! worse, where the "
            "interval leaves zero out; with fewer than 3 seeds intervals say little, with one there is none"
        ),
        caption_justify="left",
    )
    for heading, justify in (("method", "left"), ("metric", "left"), ("difference", "right"), ("interval", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("seeds", justify="right")
    last = None
    for d in differences:
        if last is not None and d.method != last:
            table.add_section()
        interval, mark = "-", ""
        if d.low is not None and d.high is not None:
            interval = f"[{d.low:+.3g}, {d.high:+.3g}]"
            if d.low > 0 or d.high < 0:
                mark = " *" if d.better else " !"
        unit = f" {d.unit}" if d.unit else ""
        shown = d.method if d.method != last else ""
        table.add_row(shown, d.metric, f"{d.mean:+.3g}{unit}{mark}", interval, str(d.seeds))
        last = d.method
    return table


def _check_comparable(first: Results, second: Results) -> None:
    pairs: dict[str, tuple[Any, Any]] = {
        "protocol": (first.protocol, second.protocol),
        "dataset": (
            first.dataset.fingerprint if first.dataset else None,
            second.dataset.fingerprint if second.dataset else None,
        ),
    }
    names = first.options.keys() | second.options.keys()
    pairs |= {
        f"option {key}": (first.options.get(key), second.options.get(key))
        for key in sorted(names - {"methods", "seeds", "method", "tasks", "summary"})
    }
    for what, (one, two) in pairs.items():
        if one != two:
            raise RunFolderError(
                f"the runs are not comparable: their {what} differs ({describe_difference(one, two, ' and ')})"
            )


def _methods(results: Results) -> list[str]:
    return list(dict.fromkeys(record.method for record in results.records))


def _values(results: Results, method: str) -> dict[str, dict[int, float]]:
    """The values of a method by metric and seed; failed records have none."""
    values: dict[str, dict[int, float]] = {}
    for record in results.records:
        if record.method == method and record.status == "ok":
            for name, value in record.metrics.items():
                values.setdefault(name, {})[record.seed] = value
    return values


def _differences(
    results: Results, first: dict[str, dict[int, float]], second: dict[str, dict[int, float]], method: str
) -> Iterator[Difference]:
    for name, metric in results.metrics.items():
        seeds = sorted(first.get(name, {}).keys() & second.get(name, {}).keys())
        if not seeds:
            continue
        values = np.array([second[name][seed] - first[name][seed] for seed in seeds])
        mean = float(values.mean())
        low, high = _interval(values)
        better = None if mean == 0 else (mean > 0) == metric.higher_is_better
        yield Difference(method, name, metric.unit, mean, low, high, len(seeds), better)


def _interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """The bootstrap interval of the mean; the interval of equal numbers is a point."""
    if len(values) < 2:
        return None, None
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=_LEVEL, n_resamples=_RESAMPLES, method="percentile", random_state=0
    ).confidence_interval
    return float(found.low), float(found.high)
