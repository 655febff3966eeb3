"""Held-out likelihood of the SMC memory bank on a drifting source, beside the same bank with uniform weights and FIFO.

    python benchmarks/smc_drift.py [--seeds 10] [--json FILE]

The source is a mixture of Gaussian clusters on pairs of 2-dimensional embeddings whose centres move and whose
weights change from batch to batch. After every batch, the bank's density is scored on fresh pairs of the *next*
batch's source. A difference below zero is in favour of SMC.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from scipy import stats
from torch import Tensor

from gmje_core import GMJESMC

BATCH, CLUSTERS, DIM, STEPS, WARMUP, HELD_OUT = 64, 6, 2, 150, 40, 512


def source(seed: int, speed: float) -> "Source":
    """A drifting source; the same seed gives the same one."""
    return Source(torch.Generator().manual_seed(seed), speed)


class Source:
    """Clusters that circle around their own centres, with weights that rise and fall."""

    def __init__(self, generator: torch.Generator, speed: float) -> None:
        self.generator, self.speed = generator, speed
        self.centres = 4 * torch.randn(CLUSTERS, 2 * DIM, generator=generator)
        self.plane = torch.randn(2, CLUSTERS, 2 * DIM, generator=generator)
        self.phase = 2 * math.pi * torch.rand(CLUSTERS, generator=generator)

    def sample(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """Pairs of the source at a step, each ``(count, DIM)``."""
        angle = self.phase + self.speed * step
        centres = self.centres + angle.cos()[:, None] * self.plane[0] + angle.sin()[:, None] * self.plane[1]
        weights = (2 * (self.phase + 2 * self.speed * step).sin()).softmax(dim=0)
        chosen = torch.multinomial(weights, count, replacement=True, generator=self.generator)
        z = centres[chosen] + 0.3 * torch.randn(count, 2 * DIM, generator=self.generator)
        return z[:, :DIM], z[:, DIM:]


def held_out_nll(criterion: GMJESMC, seed: int, speed: float) -> tuple[float, float]:
    """Mean negative log-density of the next batch's source in nats per pair, and the least ESS after a step."""
    stream, fresh = source(seed, speed), source(seed, speed)
    fresh.generator.manual_seed(seed + 10_000)
    values, least = [], 1.0
    for step in range(STEPS):
        criterion(*stream.sample(step, BATCH))
        weights = criterion.density().log_weights.double()
        least = min(least, float(1 / weights.exp().square().sum()) / len(weights))
        if step >= WARMUP:
            values.append(float(-criterion.density().log_prob(*fresh.sample(step + 1, HELD_OUT)).mean()))
    return sum(values) / len(values), least


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--particles", type=int, default=1024)
    parser.add_argument("--speeds", type=float, nargs="+", default=[0.0, 0.02, 0.05, 0.1])
    parser.add_argument("--weighting", type=float, default=None)
    parser.add_argument("--age-decay", type=float, default=None)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    chosen = {"weighting": arguments.weighting, "age_decay": arguments.age_decay}
    options = {key: value for key, value in chosen.items() if value is not None}
    rows = []
    print(f"bank of {arguments.particles}, batch {BATCH}, {STEPS} steps of which {WARMUP} warm-up; nats per pair")
    print("| speed [rad/step] | SMC | FIFO | difference | 95 % interval | least ESS share |")
    print("|--:|--:|--:|--:|--:|--:|")
    for speed in arguments.speeds:
        smc, fifo, share = [], [], 1.0
        for seed in range(arguments.seeds):
            nll, least = held_out_nll(GMJESMC(DIM, arguments.particles, seed=seed, **options), seed, speed)
            smc.append(nll)
            share = min(share, least)
            uniform = GMJESMC(DIM, arguments.particles, seed=seed, weighting=0.0, age_decay=0.0)
            fifo.append(held_out_nll(uniform, seed, speed)[0])
        difference = torch.tensor(smc) - torch.tensor(fifo)
        error = float(difference.std() / math.sqrt(len(smc)))
        half = float(stats.t.ppf(0.975, len(smc) - 1)) * error if len(smc) > 1 else math.nan
        row = {
            "speed": speed,
            "smc": sum(smc) / len(smc),
            "fifo": sum(fifo) / len(fifo),
            "difference": float(difference.mean()),
            "half_width": half,
            "least_ess_share": share,
        }
        rows.append(row)
        print(
            f"| {speed} | {row['smc']:.3f} | {row['fifo']:.3f} | {row['difference']:+.3f} "
            f"| ± {half:.3f} | {share:.2f} |",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
