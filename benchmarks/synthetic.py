"""KL of every method to the known truth of the synthetic tasks, lifted to 16 dimensions, over seeds.

    python benchmarks/synthetic.py synthetic.jsonl --methods gmje,mdn,flow --seeds 0,1,2

It measures what ``gmje_bench run --suite synthetic-flow`` does, but the KL and the seconds of the processor alone: a
flow samples too slowly for the other measures over several seeds. A line is appended for each fit; a fit that is there
is not done again. ``--table`` prints the table of a file.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from scipy import stats

from gmje_bench.alignment.metrics import conditional_kl
from gmje_bench.alignment.rivals import RIVALS, get_rival
from gmje_bench.alignment.tasks import TASKS, make_truth
from gmje_bench.protocol import PROTOCOL

PAIRS, EPOCHS = 50_000, 20


def measure(task: str, method: str, seed: int, dim: int | None) -> dict[str, object]:
    """KL to the truth with its standard error over held-out pairs, and the seconds of the fit."""
    truth = make_truth(task, seed, dim)
    # The streams are those of the suite, so that the numbers are too.
    pairs, held_out = PAIRS if dim else PAIRS * 2 // 5, PROTOCOL.held_out_pairs
    context, target = (z.float() for z in truth.sample(pairs, torch.Generator().manual_seed(1000 * seed + 1)))
    start = time.process_time()
    conditional = get_rival(method).fit(context, target, EPOCHS, seed)
    seconds = time.process_time() - start
    context, target = (z.float() for z in truth.sample(held_out, torch.Generator().manual_seed(1000 * seed + 2)))
    kl, error = conditional_kl(truth.log_prob(target, context), conditional.log_prob(target, context))
    return {"task": task, "dim": dim, "method": method, "seed": seed, "kl": kl, "error": error, "seconds": seconds}


def table(rows: list[dict]) -> str:
    """Means over seeds, their 95 % intervals where there are several, and mean seconds."""
    methods = [method for method in RIVALS if any(row["method"] == method for row in rows)]
    lines = ["| task | " + " | ".join(f"{RIVALS[m].title} | s" for m in methods) + " |"]
    lines.append("|---|" + "--:|--:|" * len(methods))
    for name, task in TASKS.items():
        cells = []
        for method in methods:
            found = [row for row in rows if (row["task"], row["method"]) == (name, method)]
            if not found:
                cells.append("| ")
                continue
            kls = [row["kl"] for row in found]
            seconds = statistics.mean(row["seconds"] for row in found)
            interval = f" ± {half_width(kls):.3f}" if len(kls) > 1 else ""
            cells.append(f"{statistics.mean(kls):.3f}{interval} ({len(kls)}) | {seconds:.0f}")
        lines.append(f"| {task.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def half_width(values: list[float]) -> float:
    """Half of Student's 95 % interval of the mean."""
    return float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--methods", default="gmje,mdn,flow")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--dim", type=int, default=16, help="0 for the tasks' own dimensions")
    parser.add_argument("--table", action="store_true", help="fit nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in options.file.read_text().splitlines()] if options.file.exists() else []
    finished = {(row["task"], row["dim"], row["method"], row["seed"]) for row in rows}
    dim = options.dim or None
    for seed in map(int, options.seeds.split(",")) if not options.table else ():
        for method in options.methods.split(","):
            for task in options.tasks.split(","):
                if (task, dim, method, seed) in finished:
                    continue
                rows.append(measure(task, method, seed, dim))
                with options.file.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
                print(rows[-1], flush=True)
    print(table([row for row in rows if row["dim"] == dim]))


if __name__ == "__main__":
    main()
