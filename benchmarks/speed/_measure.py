"""What all programs in this folder share: how two sides are timed, what bounds them, and how a table is printed.

A program gives a list of :class:`Case` to :func:`main`. Both sides of a case run in one process, alternately, so that
whatever else the machine does falls on both; only their ratio is a result.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from _memory import peak_bytes

__all__ = ["Call", "Case", "Growth", "Peaks", "Result", "main", "options_of", "report", "seconds", "setting", "table"]

#: A side of a case, without arguments; what it returns is compared once and then dropped.
Call = Callable[[], object]
# One call of a few milliseconds is mostly noise: a measurement repeats it until it lasts this long.
MEASUREMENT_SECONDS = 0.1
# A row whose calls take seconds gets fewer pairs, as many as fit this time, but never fewer than three.
ROW_SECONDS, LEAST_PAIRS = 40.0, 3


@dataclass(frozen=True)
class Case:
    """Two sides of one row, built by the time it is measured.

    Attributes:
        what: What is timed, with its sizes.
        peer: What a user would otherwise take.
        goal: Ratio of times, peer over ours, that we aim at; ``None`` for a row without a goal.
        build: It gives ours and the peer's call.
        flops: Floating-point operations that any way to the result must do.
        bytes: Bytes that any way to the result must read or write.
        difference: It gives how far both results differ, from what both calls returned; ``None`` where the two sides
            compute different things.
        tolerance: The largest such difference that is not an error.
        memory: Whether to measure the peak memory of both sides.
    """

    what: str
    peer: str
    goal: float | None
    build: Callable[[], tuple[Call, Call]]
    flops: float = 0.0
    bytes: float = 0.0
    difference: Callable[[Any, Any], float] | None = None
    tolerance: float = 1e-3
    memory: bool = False


@dataclass(frozen=True)
class Growth:
    """Time against a size: the slope of its logarithm over the sizes, 1 where time is proportional to the size.

    Attributes:
        what: What is timed, and against what.
        sizes: The sizes, over a decade.
        build: It gives the call for a size.
        expected: Slope that theory gives, the goal: at most this.
    """

    what: str
    sizes: tuple[int, ...]
    build: Callable[[int], Call]
    expected: float


@dataclass
class Result:
    """A row of the table.

    Attributes:
        what: What was measured.
        peer: Beside what.
        unit: ``x`` for a ratio of times, peer over ours; ``s`` for seconds; ``slope`` for growth.
        goal: The figure that we aim at: at least this for ``x``, at most this for the others.
        low: Least figure.
        median: Median figure.
        high: Largest figure.
        ours_seconds: Median time of ours.
        peer_seconds: Median time of the peer.
        limit_seconds: Time that the machine's peaks allow; ``None`` where no work was stated.
        limit: The work behind it.
        ours_bytes: Peak memory of ours; ``None`` where it was not measured.
        peer_bytes: That of the peer.
        difference: How far both results differ; ``None`` where they are not comparable.
        wrong: Whether they differ by more than they may.
    """

    what: str
    peer: str
    unit: str
    goal: float | None
    low: float
    median: float
    high: float
    ours_seconds: float | None = None
    peer_seconds: float | None = None
    limit_seconds: float | None = None
    limit: str = ""
    ours_bytes: int | None = None
    peer_bytes: int | None = None
    difference: float | None = None
    wrong: bool = False

    @property
    def reached(self) -> bool:
        """Whether the goal is reached, or there is none."""
        return self.goal is None or (self.median >= self.goal if self.unit == "x" else self.median <= self.goal)


@dataclass(frozen=True)
class Peaks:
    """What this machine can do in this process: float32 operations and bytes moved in a second."""

    flops: float
    bytes: float

    @classmethod
    def measured(cls) -> "Peaks":
        """The best of several products of large matrices, and of several copies that no cache holds."""
        a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
        source = torch.zeros(2**24)
        target = torch.ones_like(source)
        product = min(seconds(lambda: a @ b) for _ in range(15))
        copy = min(seconds(lambda: target.copy_(source)) for _ in range(8))
        return cls(flops=2 * 1024**3 / product, bytes=2 * source.nbytes / copy)


@dataclass
class Record:
    """What a program writes as JSON."""

    setting: dict[str, Any]
    results: list[Result] = field(default_factory=list)


def seconds(call: Call, times: int = 1) -> float:
    """Mean time of a call: CPU time with one thread, which other processes do not change much, else wall-clock time."""
    start = _now()
    for _ in range(times):
        call()
    return (_now() - start) / times


def _now() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def main(title: str | None, cases: Iterable[Case | Growth]) -> int:
    """Measure the cases of one program, print their table; status 1 where two sides disagree."""
    options = options_of(title)
    torch.set_num_threads(options.threads)
    peaks = Peaks.measured()
    results = []
    for case in cases:
        results.append(
            _growth(case, options.repeats) if isinstance(case, Growth) else _compare(case, options.repeats, peaks)
        )
        print(f"{results[-1].what}: {_figure(results[-1])}", file=sys.stderr)
    return report(Record(setting(options.threads, options.repeats, peaks), results), options.json)


def options_of(title: str | None) -> argparse.Namespace:
    """Options that every program has."""
    parser = argparse.ArgumentParser(description=(title or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="pairs of measurements of each case")
    parser.add_argument("--threads", type=int, default=1, help="threads of both sides")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    return parser.parse_args()


def report(record: Record, file: str | None) -> int:
    """Print the table and write the figures; status 1 where two sides disagree."""
    print(table(record))
    if file:
        Path(file).write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    return 1 if any(result.wrong for result in record.results) else 0


def setting(threads: int, repeats: int, peaks: Peaks) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "repeats": repeats,
        "threads": threads,
        "peak_gflops": round(peaks.flops / 1e9, 1),
        "peak_gbytes": round(peaks.bytes / 1e9, 1),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
    }


def table(record: Record) -> str:
    """The figures as Markdown."""
    about = record.setting
    clock = "CPU time" if about["threads"] == 1 else "wall-clock time"
    lines = [
        f"float32 unless a row says otherwise; {clock} of {about['threads']} thread(s), {about['repeats']} alternate "
        f"pairs, load {about['load']}; measured peak {about['peak_gflops']} GFLOP/s and {about['peak_gbytes']} GB/s; "
        f"torch {about['torch']}, {about['machine']}",
        "",
        "| what | beside | goal | min | median | max | ours ms | peer ms | limit ms | limit | peak MB, ours / peer |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|---|--:|",
    ]
    return "\n".join([*lines, *[_line(result) for result in record.results]])


def _line(r: Result) -> str:
    memory = (
        "" if r.ours_bytes is None or r.peer_bytes is None else f"{r.ours_bytes / 1e6:.1f} / {r.peer_bytes / 1e6:.1f}"
    )
    goal = "" if r.goal is None else f"{r.goal:g}"
    mark = " WRONG" if r.wrong else ""
    return (
        f"| {r.what}{mark} | {r.peer} | {goal} | {r.low:.3g} | {r.median:.3g} | {r.high:.3g} | {_ms(r.ours_seconds)} "
        f"| {_ms(r.peer_seconds)} | {_ms(r.limit_seconds)} | {r.limit} | {memory} |"
    )


def _ms(value: float | None) -> str:
    return "" if value is None else f"{1e3 * value:.3g}"


def _figure(r: Result) -> str:
    return f"{r.median:.3g} {r.unit} ({r.low:.3g} to {r.high:.3g}), goal {r.goal}"


def _compare(case: Case, repeats: int, peaks: Peaks) -> Result:
    ours, theirs = case.build()
    (mine, own), (other, peer) = _timed(ours), _timed(theirs)
    difference = None if case.difference is None else case.difference(mine, other)
    del mine, other
    times = [_repeats_of(theirs, peer), _repeats_of(ours, own)]
    repeats = max(LEAST_PAIRS, min(repeats, int(ROW_SECONDS / (own * times[1] + peer * times[0]))))
    pairs = [(seconds(theirs, times[0]), seconds(ours, times[1])) for _ in range(repeats)]
    ratios = sorted(peer / own for peer, own in pairs)
    bounds = {
        f"{case.flops / 1e9:.3g} GFLOP": case.flops / peaks.flops,
        f"{case.bytes / 1e6:.3g} MB": case.bytes / peaks.bytes,
    }
    limit = max(bounds, key=lambda name: bounds[name])
    return Result(
        case.what,
        case.peer,
        "x",
        case.goal,
        ratios[0],
        statistics.median(ratios),
        ratios[-1],
        ours_seconds=statistics.median(own for _, own in pairs),
        peer_seconds=statistics.median(peer for peer, _ in pairs),
        limit_seconds=bounds[limit] or None,
        limit=limit if bounds[limit] else "",
        ours_bytes=peak_bytes(ours) if case.memory else None,
        peer_bytes=peak_bytes(theirs) if case.memory else None,
        difference=difference,
        wrong=difference is not None and not difference <= case.tolerance,
    )


def _growth(case: Growth, repeats: int) -> Result:
    calls = [case.build(size) for size in case.sizes]
    times = [_repeats_of(call, _timed(call)[1]) for call in calls]
    rounds = [[seconds(call, count) for call, count in zip(calls, times, strict=True)] for _ in range(repeats)]
    logs = torch.tensor(case.sizes, dtype=torch.float64).log()
    centred = logs - logs.mean()
    slopes = sorted(float(centred @ torch.tensor(row).double().log() / centred.square().sum()) for row in rounds)
    return Result(
        f"{case.what}, {case.sizes[0]} to {case.sizes[-1]}",
        "",
        "slope",
        case.expected,
        slopes[0],
        statistics.median(slopes),
        slopes[-1],
        ours_seconds=statistics.median(row[-1] for row in rounds),
    )


def _timed(call: Call) -> tuple[Any, float]:
    """What a first call returns, and its seconds; it also warms the caches."""
    start = _now()
    result = call()
    return result, _now() - start


def _repeats_of(call: Call, first: float) -> int:
    """Calls that fill a measurement; a short first call was mostly warming up and is not the measure."""
    return max(1, round(MEASUREMENT_SECONDS / (seconds(call) if first < 1 else first)))
