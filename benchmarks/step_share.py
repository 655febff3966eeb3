"""Where a training step of the default suite spends its time: views, encoder, criterion, optimiser.

    python benchmarks/step_share.py --methods gje,gmje,gmje-gng,gmje-smc,gmje-mdn,simclr

CPU time of one thread, medians over steps in milliseconds, after as many steps as a gas takes to grow and a bank to
fill. The criterion is timed once more on the same embeddings, detached: its value, the gradient of them, and what its
density learns. The encoder's forward and backward pass is the rest of the step without views and optimiser; a momentum
encoder is part of it.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator

import torch

from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.base import ImageData
from gmje_bench.datasets.order import EpochOrder
from gmje_bench.errors import BenchError
from gmje_bench.suites import Suite, load_suite
from gmje_bench.training.module import build_module
from gmje_bench.training.optimizers import build_optimizer
from gmje_bench.views import TwoViews

PARTS = ("views", "encoder", "criterion", "optimiser")


def main() -> int:
    """Print a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="vision", help="a suite by name, or its file; default: vision")
    parser.add_argument("--methods", default="gje,gmje,gmje-gng,gmje-smc,gmje-mdn,simclr", help="separated by commas")
    parser.add_argument("--warm", type=int, default=40, help="steps before the first that counts; default: 40")
    parser.add_argument("--steps", type=int, default=15, help="steps that count; default: 15")
    options = parser.parse_args()
    if options.steps < 1 or options.warm < 0:
        parser.error("--steps must be at least 1 and --warm at least 0")
    torch.set_num_threads(1)
    print(
        f"| method | {' | '.join(f'{part}, ms' for part in PARTS)} | encoder's share |\n|{' --- |' * (len(PARTS) + 2)}"
    )
    try:
        suite = load_suite(options.suite)
        data = load_dataset(suite.dataset)
        for method in options.methods.split(","):
            steps = list(timed(method, suite, data, options.warm + options.steps))[options.warm :]
            medians = [1e3 * statistics.median(part) for part in zip(*steps, strict=True)]
            share = medians[PARTS.index("encoder")] / sum(medians)
            print(f"| {method} | {' | '.join(f'{part:.0f}' for part in medians)} | {100 * share:.0f} % |", flush=True)
    except BenchError as error:
        parser.exit(2, f"error: {error}\n")
    return 0


def timed(method: str, suite: Suite, data: ImageData, count: int) -> Iterator[tuple[float, ...]]:
    """Seconds of the parts of so many steps."""
    module = build_module(
        method, suite, data.channels, 0, classes=len(data.classes), image_size=data.image_size
    ).train()
    optimizer, views = build_optimizer(module, suite.training), TwoViews(module.views(data), 0)
    held: list[tuple[torch.Tensor, ...]] = []
    module.criterion.register_forward_pre_hook(lambda _, given: held.append(given))
    size = suite.training.batch_size
    order = EpochOrder(seed=0, epoch=0, steps=count, batch_size=size)
    for step in range(count):
        rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(step))[:size]
        start = time.process_time()
        context, target = views(data.train.batch(rows), **order.place(step))
        seen = time.process_time()
        loss = module(context, target, data.train.labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        passed = time.process_time()
        optimizer.step()
        stepped = time.process_time()
        for embeddings in tuple(held):
            leaves = [z.detach().requires_grad_(z.requires_grad) for z in embeddings]
            module.criterion(*leaves).backward()
        held.clear()
        criterion = time.process_time() - stepped
        yield seen - start, passed - seen - criterion, criterion, stepped - passed


if __name__ == "__main__":
    sys.exit(main())
