"""The synthetic tasks of a run, recorded one by one."""

import os

from gmje_bench.alignment.engine import describe, units
from gmje_bench.alignment.engine import run as run_units
from gmje_bench.engine.output import picture_path, save_tensors
from gmje_bench.engine.progress import Reporter
from gmje_bench.engine.state import RunState

__all__ = ["run_synthetic"]


def run_synthetic(state: RunState, reporter: Reporter) -> None:
    """Run the synthetic tasks that are not finished; only the main process may call this function.

    Args:
        state: The run, whose suite has synthetic tasks; its results get the records.
        reporter: Tells the user how it goes.
    """
    options, results = state.suite.synthetic, state.results
    assert options is not None
    finished = {(r.task, r.dim, r.seed) for r in results.alignment}
    work = [unit for unit in units(options, state.suite.seeds) if tuple(unit) not in finished]
    reporter.stage(f"synthetic tasks: {len(work)} to do, {len(finished)} finished before")
    for found in run_units(options, work, state.launch.jobs or usable_cores()):
        if found.picture is not None and found.records[0].seed == state.suite.seeds[0]:
            save_tensors(found.picture.tensors(), picture_path(state.output, found.picture.task))
        results.alignment += found.records
        state.write_here()
        for record in found.records:
            reporter.line(describe(record))


def usable_cores() -> int:
    """The number of cores that this process may use, where the system tells; else the number that there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
