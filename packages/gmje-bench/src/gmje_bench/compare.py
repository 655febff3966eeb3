"""Paired differences between methods or runs over the seeds they share, with the intervals and tests of the report.

Seeds are paired because a seed fixes views and starting weights; runs are only compared where a number of one means
what it means in the other.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.table import Table

from gmje_bench.errors import OptionError, RunFolderError, did_you_mean
from gmje_bench.report.significance import LEVEL, corrected, paired_differences
from gmje_bench.report.tables import Estimate
from gmje_bench.runs import Results, describe_difference

__all__ = ["Difference", "compare_methods", "compare_runs", "difference_table"]

# A method's values by metric and seed.
Values = Mapping[str, Mapping[int, float]]


class Difference(NamedTuple):
    """One metric of one method.

    Attributes:
        method: The name of the method.
        metric: The name of the metric, a key of ``metrics`` in the results.
        unit: The unit of the metric.
        mean: Mean over the common seeds of second less first.
        low: Lower end of the 95 % Student t interval over seeds; ``None`` for a single seed, and where all differences
            are equal.
        high: Upper end of the same interval.
        seeds: Number of common seeds.
        better: Whether the second is better by the mean; ``None`` where they are equal.
        p: Two-sided p-value of :func:`gmje_bench.report.significance.paired_p`, after Holm's correction over the
            methods that this metric compares; ``None`` for a single seed.
    """

    method: str
    metric: str
    unit: str
    mean: float
    low: float | None
    high: float | None
    seeds: int
    better: bool | None
    p: float | None

    @property
    def told_apart(self) -> bool:
        """Whether the test finds a difference, at the level of 5 %."""
        return self.p is not None and self.p < LEVEL


def compare_runs(first: Results, second: Results) -> list[Difference]:
    """Subtract the first run from the second, for every method and metric of both, paired over their common seeds.

    Raises:
        RunFolderError: runs of different data, protocols or options, or with nothing in common.
    """
    _check_comparable(first, second)
    shared = [method for method in _methods(first) if method in _methods(second)]
    found = _differences(first, {method: (_values(first, method), _values(second, method)) for method in shared})
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
    return _differences(results, {m: (base, _values(results, m)) for m in methods if m != reference})


def difference_table(differences: list[Difference], title: str) -> Table:
    """A table of the differences for a terminal; a mark shows those that the tests tell apart from zero."""
    table = Table(
        title=title,
        caption=(
            "mean of paired differences over common seeds and 95 % t-interval of each; * better, ! worse: told apart "
            "by paired t-tests at 5 %, with Holm's correction over the methods of a metric; one seed has no interval "
            "and no test"
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
        if d.told_apart:
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


def _values(results: Results, method: str) -> Values:
    """The values of a method by metric and seed; failed records have none."""
    values: dict[str, dict[int, float]] = {}
    for record in results.records:
        if record.method == method and record.status == "ok":
            for name, value in record.metrics.items():
                values.setdefault(name, {})[record.seed] = value
    return values


def _differences(results: Results, pairs: Mapping[str, tuple[Values, Values]]) -> list[Difference]:
    """Second less first of every method and metric, method by method; each metric's tests are corrected together."""
    p = {
        name: corrected({method: (one.get(name, {}), two.get(name, {})) for method, (one, two) in pairs.items()})
        for name in results.metrics
    }
    return [
        _difference(method, name, results, one[name], two[name], p[name].get(method))
        for method, (one, two) in pairs.items()
        for name in results.metrics
        if one.get(name, {}).keys() & two.get(name, {}).keys()
    ]


def _difference(
    method: str, name: str, results: Results, one: Mapping[int, float], two: Mapping[int, float], p: float | None
) -> Difference:
    metric, values = results.metrics[name], paired_differences(two, one)
    mean, half = Estimate.of(values)
    low, high = (None, None) if half is None or len(set(values)) == 1 else (mean - half, mean + half)
    better = None if mean == 0 else (mean > 0) == metric.higher_is_better
    return Difference(method, name, metric.unit, mean, low, high, len(values), better, p)
