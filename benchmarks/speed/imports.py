"""Seconds that ``import gmje_core`` takes beyond ``import torch``, each in a fresh interpreter."""

import os
import statistics
import subprocess
import sys

import torch
from _measure import Peaks, Record, Result, options_of, report, setting

GOAL = 0.3


def main() -> int:
    """Alternate both imports; the first pair only fills the caches of the file system."""
    options = options_of(__doc__)
    torch.set_num_threads(options.threads)
    results = []
    for what in ("import gmje_core", "from gmje_core import GMJE", "from gmje_core import JointEmbeddingModel"):
        pairs = [(imported("import torch"), imported(f"import torch; {what}")) for _ in range(options.repeats + 1)][1:]
        beyond = sorted(ours - peer for peer, ours in pairs)
        results.append(
            Result(
                f"{what}, beyond torch",
                "import torch",
                "s",
                GOAL if what == "import gmje_core" else None,
                beyond[0],
                statistics.median(beyond),
                beyond[-1],
                ours_seconds=statistics.median(ours for _, ours in pairs),
                peer_seconds=statistics.median(peer for peer, _ in pairs),
            )
        )
    return report(Record(setting(options.threads, options.repeats, Peaks.measured()), results), options.json)


def imported(statement: str) -> float:
    """CPU seconds of a statement in a fresh interpreter: the files it reads are cached, so it waits for nothing."""
    before = os.times()
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    sys.exit(main())
