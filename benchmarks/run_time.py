"""Whether a run became slower: the same command with the sources of two checkouts, one after the other and again.

    git worktree add /tmp/before COMMIT
    python benchmarks/run_time.py /tmp/before . [--rounds 3] [-- OPTIONS OF RUN, of one method and seed]

Each run is a process of its own, with one thread. The table shows the CPU seconds of the whole process, which other
work on the machine hardly changes, and the wall-clock seconds of every stage that both versions record; each the median
of the rounds, and the median of the ratios within a round.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = ["--suite", "vision", "--methods", "gmje", "--tasks", "linear_probe,knn,uncertainty", "--epochs", "2"]


def measured(checkout: Path, options: list[str]) -> dict[str, float]:
    """Seconds of one run by stage."""
    sources = [str(path / "src") for path in sorted((checkout / "packages").iterdir()) if (path / "src").is_dir()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sources), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gmje_bench", "run", *options, "--output", f"{folder}/run"]
        subprocess.run(command, env=environment, check=True, capture_output=True, cwd=folder)
        (record,) = json.loads(Path(folder, "run", "results.json").read_text())["records"]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"CPU of the process": whole, **record["seconds"]}


def _parted(arguments: list[str]) -> tuple[list[str], list[str], list[str]]:
    """The arguments before and after the first ``--``."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place : place + 1], arguments[place + 1 :]


def main() -> None:
    """Run both checkouts in turn and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    own, separator, rest = _parted(sys.argv[1:])
    given = parser.parse_args(own)
    options = rest if separator else COMMAND
    rounds: list[tuple[dict[str, float], dict[str, float]]] = []
    for number in range(given.rounds):
        # Which of the two goes first changes from round to round.
        pair = [given.before.resolve(), given.after.resolve()]
        found = [measured(path, options) for path in (pair if number % 2 == 0 else pair[::-1])]
        first, second = found if number % 2 == 0 else found[::-1]
        rounds.append((first, second))
        print(json.dumps({"round": number, "before": first, "after": second}), file=sys.stderr, flush=True)
    print("| stage | before [s] | after [s] | after / before |\n| --- | --- | --- | --- |")
    for stage in [stage for stage in rounds[0][0] if stage in rounds[0][1]]:
        before, after = ([part[stage] for part in side] for side in zip(*rounds, strict=True))
        ratio = statistics.median(b / a for a, b in zip(before, after, strict=True) if a > 0)
        print(f"| {stage} | {statistics.median(before):.2f} | {statistics.median(after):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
