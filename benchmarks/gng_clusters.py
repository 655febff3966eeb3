"""What Growing Neural Gas finds: the number of separated clusters, and a mixture that changes under it.

    python benchmarks/gng_clusters.py [--seeds 10] [--json FILE]

*Count*: 3, 8 and 20 unit-variance Gaussian clusters in 8 dimensions (4 context, 4 target), at least 8 standard
deviations apart; found is the number of connected components of the graph. *Follow*: 8 clusters of which all move,
two vanish and two appear; after the changes the density's held-out NLL is compared with a full-covariance mixture
fitted by scikit-learn's EM, with the true number of components, to 8192 fresh pairs of the final source, and with
the truth.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from scipy import stats
from sklearn.mixture import GaussianMixture as SklearnMixture
from torch import Tensor

from gmje_core import GMJEGNG

DIM, APART, BATCH = 8, 8.0, 256


def centres(count: int, generator: torch.Generator) -> Tensor:
    """Cluster centres ``(count, 8)`` at least :data:`APART` from each other."""
    while True:
        points = 6 * torch.randn(count, DIM, generator=generator)
        if torch.pdist(points).min() > APART:
            return points


def draw(points: Tensor, weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Samples ``(count, 8)`` of the clusters."""
    chosen = torch.multinomial(weights, count, replacement=True, generator=generator)
    return points[chosen] + torch.randn(count, DIM, generator=generator)


def split(z: Tensor) -> tuple[Tensor, Tensor]:
    """Context and target."""
    return z[:, : DIM // 2], z[:, DIM // 2 :]


def count_clusters(clusters: int, seed: int, steps: int = 300) -> int:
    """Number of clusters that the gas reports after a stream of batches."""
    generator = torch.Generator().manual_seed(seed)
    points = centres(clusters, generator)
    criterion = GMJEGNG(DIM // 2, capacity=128)
    for _ in range(steps):
        criterion(*split(draw(points, torch.ones(clusters), BATCH, generator)))
    return criterion.clusters


def follow(seed: int, steps: int = 300) -> dict[str, float]:
    """Held-out NLL in nats of the gas, of a refit and of the truth after the source has changed."""
    generator = torch.Generator().manual_seed(1000 + seed)
    points = centres(10, generator)
    drift = torch.randn(10, DIM, generator=generator)
    drift = 3 * drift / drift.norm(dim=1, keepdim=True)
    criterion = GMJEGNG(DIM // 2, capacity=32, covariance_type="full", step=0.02)
    before = torch.tensor([1.0] * 8 + [0.0] * 2)
    after = torch.tensor([0.0] * 2 + [1.0] * 8)
    for step in range(3 * steps):
        moved = points + drift * min(1.0, step / (2 * steps))
        weights = before if step < steps else after
        criterion(*split(draw(moved, weights, BATCH, generator)))
    final = points + drift
    fresh, held_out = draw(final, after, 8192, generator), draw(final, after, 8192, generator)
    refit = SklearnMixture(8, means_init=final[2:].double().numpy(), random_state=0).fit(fresh.double().numpy())
    distances = torch.cdist(held_out.double(), final[2:].double()).square()
    truth = (-0.5 * distances).logsumexp(dim=1) - math.log(8) - 0.5 * DIM * math.log(2 * math.pi)
    return {
        "gng": float(-criterion.density().log_prob(*split(held_out)).mean()),
        "refit": -float(refit.score(held_out.double().numpy())),
        "truth": -float(truth.mean()),
        "clusters": criterion.clusters,
        "components": criterion.components,
    }


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    results: dict[str, object] = {}
    print("| clusters | found, by seed | within one |\n|--:|---|--:|")
    for clusters in (3, 8, 20):
        found = [count_clusters(clusters, seed) for seed in range(arguments.seeds)]
        results[f"count {clusters}"] = found
        right = sum(abs(value - clusters) <= 1 for value in found)
        print(f"| {clusters} | {' '.join(map(str, found))} | {right} of {len(found)} |", flush=True)
    print("\n| seed | GNG | refit | truth | GNG - refit | clusters (8) | components |\n|--:|--:|--:|--:|--:|--:|--:|")
    rows = [follow(seed) for seed in range(arguments.seeds)]
    results["follow"] = rows
    for seed, row in enumerate(rows):
        print(
            f"| {seed} | {row['gng']:.3f} | {row['refit']:.3f} | {row['truth']:.3f} "
            f"| {row['gng'] - row['refit']:+.3f} | {row['clusters']} | {row['components']} |"
        )
    gap = torch.tensor([row["gng"] - row["refit"] for row in rows])
    half = float(stats.t.ppf(0.975, len(gap) - 1) * gap.std() / math.sqrt(len(gap))) if len(gap) > 1 else math.nan
    print(f"\nGNG - refit: mean {float(gap.mean()):+.3f} ± {half:.3f} nats (95 %), largest {float(gap.max()):+.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
