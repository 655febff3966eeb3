"""Held-out log-likelihood and time of JointEmbeddingMixture beside scikit-learn's GaussianMixture.

    python benchmarks/estimator.py [--seeds 5] [--rows 4000] [--iterations 100] [--json FILE]

*Same start*: both get the weights, means and precisions of one k-means clustering, the same tolerance, ridge and
number of rounds. *Own start*: each begins as it does by default, with one start of the same seed. The embeddings are
drawn from random mixtures of K full-covariance components in D dimensions, context and target halves of them; as many
again are held out. Differences are ours less scikit-learn's, in nats per pair, with a 95 % Student interval over the
seeds; times are ratios, ours over scikit-learn's, on the threads that both are given.
"""

import argparse
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture as SklearnMixture
from threadpoolctl import threadpool_limits

from gmje_core.estimator import JointEmbeddingMixture

Array = npt.NDArray[np.float64]
SIZES = [(4, 8), (16, 32), (32, 64)]
# By scikit-learn's names: covariance_type and tied of ours.
FORMS: dict[str, tuple[Any, bool]] = {
    "full": ("full", False),
    "tied": ("full", True),
    "diag": ("diag", False),
    "spherical": ("spherical", False),
}


def draw(components: int, dim: int, rows: int, seed: int) -> tuple[Array, Array]:
    """Joint rows to fit and to hold out, from one random mixture."""
    rng = np.random.default_rng(seed)
    means = 1.5 * rng.normal(size=(components, dim))
    factors = rng.normal(size=(components, dim, dim)) / math.sqrt(dim)
    weights = rng.dirichlet(np.full(components, 5.0))
    chosen = rng.choice(components, p=weights, size=2 * rows)
    z = rng.normal(size=(2 * rows, dim))
    for k in range(components):
        z[chosen == k] = z[chosen == k] @ factors[k].T + means[k]
    return z[:rows], z[rows:]


def k_means_start(z: Array, form: str, components: int, seed: int, reg_covar: float) -> dict[str, Array]:
    """Weights, means and precisions of a k-means clustering."""
    labels = KMeans(components, n_init=1, random_state=seed).fit(z).labels_
    parts = [z[labels == k] for k in range(components)]
    weights = np.array([len(part) / len(z) for part in parts])
    scatter = np.stack([np.cov(part.T, bias=True) for part in parts])
    ridge = reg_covar * np.eye(z.shape[1])
    variance = scatter.diagonal(axis1=1, axis2=2) + reg_covar
    precisions = {
        "full": lambda: np.linalg.inv(scatter + ridge),
        "tied": lambda: np.linalg.inv(np.tensordot(weights, scatter, axes=1) + ridge),
        "diag": lambda: 1 / variance,
        "spherical": lambda: 1 / variance.mean(axis=1),
    }[form]()
    return {"weights_init": weights, "means_init": np.stack([part.mean(axis=0) for part in parts])} | {
        "precisions_init": precisions
    }


def timed(fit: Any) -> tuple[Any, float]:
    """What a call gives and the seconds that it takes."""
    start = time.perf_counter()
    return fit(), time.perf_counter() - start


def compare(form: str, components: int, dim: int, seed: int, rows: int, iterations: int) -> dict[str, float]:
    """One fit of each from the same start, and one from their own."""
    train, test = draw(components, dim, rows, seed)
    kind, tied = FORMS[form]
    common: dict[str, Any] = {"reg_covar": 1e-6, "max_iter": iterations, "tol": 1e-3, "random_state": seed}
    views, held_out = (train[:, : dim // 2], train[:, dim // 2 :]), (test[:, : dim // 2], test[:, dim // 2 :])
    result: dict[str, float] = {}
    starts: dict[str, dict[str, Any]] = {"same": k_means_start(train, form, components, seed, 1e-6), "own": {}}
    for name, start in starts.items():
        peer = SklearnMixture(components, covariance_type=form, **common, **start)
        ours = JointEmbeddingMixture(components, kind, tied=tied, **common, **start)
        peer, peer_seconds = timed(lambda peer=peer: peer.fit(train))
        ours, our_seconds = timed(lambda ours=ours: ours.fit(*views))
        result[f"{name} ours"], result[f"{name} peer"] = ours.score(*held_out), float(peer.score(test))
        result[f"{name} time"] = our_seconds / ours.n_iter_ / (peer_seconds / peer.n_iter_)
        result[f"{name} rounds"] = ours.n_iter_ - peer.n_iter_
    return result


def interval(values: Array) -> str:
    """Mean and half width of the 95 % interval."""
    if len(values) < 2:
        return f"{values.mean():+.2e}"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():+.2e} ± {half:.0e}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")  # rounds that do not converge: both have the same number of them
    results: list[dict[str, Any]] = []
    print(f"{arguments.rows} rows, seeds 0 to {arguments.seeds - 1}, {arguments.threads} thread(s)\n")
    print(
        "| form | K | D | sklearn, nats | same start: difference | largest | time of a round | own start: difference |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    worst = 0.0
    with threadpool_limits(arguments.threads):
        for components, dim in SIZES:
            for form in FORMS:
                rows = [
                    compare(form, components, dim, seed, arguments.rows, arguments.iterations)
                    for seed in range(arguments.seeds)
                ]
                results += [
                    {"form": form, "components": components, "dim": dim, "seed": seed} | row
                    for seed, row in enumerate(rows)
                ]
                column = {key: np.array([row[key] for row in rows]) for key in rows[0]}
                same, own = (column[f"{name} ours"] - column[f"{name} peer"] for name in ("same", "own"))
                worst = max(worst, float(np.abs(same).max()))
                print(
                    f"| {form} | {components} | {dim} | {column['same peer'].mean():.3f} | {interval(same)} "
                    f"| {np.abs(same).max():.0e} | {np.median(column['same time']):.2f}x | {interval(own)} |",
                    flush=True,
                )
    print(f"\nLargest difference from the same start: {worst:.1e} nats (wanted: at most 0.01)")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
