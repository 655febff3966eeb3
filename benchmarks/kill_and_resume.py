"""Kill a run with SIGKILL at random moments, resume it every time, and compare it with one that was left alone.

    python benchmarks/kill_and_resume.py [--kills 10] [--seed 0] [--methods gmje,gmje-smc,moco,byol]
        [--dataset shards:PATH]

Prints where each kill struck, and whether records and weights are the same to the last bit; exit status 1 where not.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gmje_bench.runs import Results, read_results


def command(arguments: argparse.Namespace, output: Path) -> list[str]:
    """A run of a minute or less, with a checkpoint about every second."""
    options = ["--suite", "smoke", "--methods", arguments.methods, "--epochs", "3", "--limit", "2000"]
    options += ["--dataset", arguments.dataset, "--set", "training.checkpoint_minutes=0.01", "--output", str(output)]
    return [sys.executable, "-m", "gmje_bench", "run", *options]


def run(arguments: list[str], seconds: float | None) -> tuple[bool, str]:
    """Whether the run ended within the seconds, before it was killed, and its last line."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        _, text = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        _, text = process.communicate()
        return False, (text.strip().splitlines() or ["starting"])[-1]
    if process.returncode:
        sys.exit(f"the run failed: {text}")
    return True, "finished"


def numbers(results: Results) -> list[dict[str, Any]]:
    """All of the records but what a clock says."""
    records = [*results.records, *results.alignment]
    return [record.model_dump(exclude={"seconds", "peak_memory_mib"}) for record in records]


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--methods", default="gmje,gmje-smc,moco,byol")
    parser.add_argument("--dataset", default="fashion_mnist_12k")
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        start = time.perf_counter()
        run(command(arguments, whole), None)
        print(f"left alone: {time.perf_counter() - start:.0f} s")
        for number in range(1, arguments.kills + 1):
            resume = ["--resume"] if cut.exists() else []
            ended, where = run([*command(arguments, cut), *resume], moments.uniform(5, 15))
            print(f"kill {number}: {where}", flush=True)
            if ended:
                break
        run([*command(arguments, cut), "--resume"], None)
        same = numbers(read_results(whole)) == numbers(read_results(cut))
        print(f"records: {'the same' if same else 'DIFFERENT'}")
        for path in sorted(whole.glob("models/*/model.safetensors")):
            equal = path.read_bytes() == (cut / path.relative_to(whole)).read_bytes()
            print(f"weights of {path.parent.name}: {'the same' if equal else 'DIFFERENT'}")
            same &= equal
    sys.exit(not same)


if __name__ == "__main__":
    main()
