"""Peak memory of the estimator on rows that are generated as they are read, for two numbers of them.

``fit(batch_size=...)`` holds a batch and the statistics of the components, so that its peak does not follow the number
of rows. Each fit has a process of its own, whose largest resident set is read before and after it; the rows come from a
memory-mapped file of random numbers, whose pages count for the system and not for the fit.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from _measure import Peaks, Record, Result, options_of, report, setting

ROWS, DIM, COMPONENTS, BATCH = (500_000, 5_000_000), 8, 8, 8192
#: At most this many bytes more for ten times as many rows, besides the order that a pass draws: 8 bytes a row.
GOAL_BYTES = 64e6

CHILD = """
import json, sys, time, warnings
import numpy as np, torch
from gmje_core.estimator import JointEmbeddingMixture
torch.set_num_threads(1)
def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
import threading
peak, over = [0], threading.Event()
def watch():
    while not over.wait(0.005):
        peak[0] = max(peak[0], anonymous())
z = np.load(sys.argv[1], mmap_mode="r")
half, components, batch = z.shape[1] // 2, int(sys.argv[2]), int(sys.argv[3])
warnings.simplefilter("ignore")
def fit(rows):
    options = dict(covariance_type="full", batch_size=batch, max_iter=1, random_state=0)
    return JointEmbeddingMixture(components, **options).fit(rows[:, :half], rows[:, half:])
fit(z[:20_000])
before, start = anonymous(), time.process_time()
thread = threading.Thread(target=watch); thread.start()
fitted = fit(z)
over.set(); thread.join()
print(json.dumps({"bytes": max(peak[0] - before, 0), "seconds": time.process_time() - start,
                  "finite": bool(np.isfinite(fitted.means_).all())}))
"""


def main() -> int:
    """One fit for each number of rows; the figure is what the larger one takes beyond the smaller one."""
    options = options_of(__doc__)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        small, large = (measured(Path(folder) / "rows.npy", count) for count in ROWS)
    rows = f"N = {ROWS[0]:.0e} and {ROWS[1]:.0e}"
    grown = (large["bytes"] - small["bytes"]) / 1e6
    return report(
        Record(
            setting(options.threads, 1, Peaks.measured()),
            [
                Result(
                    f"fit, batch_size = {BATCH}, D = {DIM}, K = {COMPONENTS}: growth of the peak, {rows}",
                    "",
                    "MB",
                    GOAL_BYTES / 1e6,
                    grown,
                    grown,
                    grown,
                    ours_seconds=large["seconds"],
                    ours_bytes=int(large["bytes"]),
                    peer_bytes=int(small["bytes"]),
                    wrong=not (small["finite"] and large["finite"]),
                )
            ],
        ),
        options.json,
    )


def measured(file: Path, count: int) -> dict[str, float]:
    """Bytes and seconds of a fit to so many rows."""
    generator = np.random.default_rng(0)
    centres = 3 * generator.normal(size=(COMPONENTS, DIM))
    z = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(count, DIM))
    for start in range(0, count, 100_000):
        part = z[start : start + 100_000]
        part[:] = centres[generator.integers(COMPONENTS, size=len(part))] + generator.normal(size=part.shape)
    del z
    command = [sys.executable, "-c", CHILD, str(file), str(COMPONENTS), str(BATCH)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
