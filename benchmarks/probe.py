"""Time the linear probe beside scikit-learn's, and compare what they find.

    OMP_NUM_THREADS=1 python benchmarks/probe.py [--sizes 9000x256 50000x512]

The rows are features of Fashion-MNIST by an untrained small network; more rows are copies with noise, and more columns
are rectified random mixtures. Both sides fit the path of strengths to nine tenths of the rows, choose on the rest, and
fit the chosen strength to all. Times are CPU seconds of one thread.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits
from torch import Tensor

from gmje_bench.datasets import load_dataset
from gmje_bench.evaluation.features import extract_features
from gmje_bench.protocol import PROTOCOL
from gmje_bench.suites import load_suite
from gmje_bench.tasks.probe import fit_probe
from gmje_bench.tasks.rows import Rows
from gmje_bench.training.module import build_module

CPU = torch.device("cpu")


def main() -> None:
    """Print a table of times and accuracies."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["9000x256", "50000x512"])
    sizes = [tuple(map(int, size.split("x"))) for size in parser.parse_args().sizes]
    torch.set_num_threads(1)
    data = load_dataset("fashion_mnist_12k")
    module = build_module("gje", load_suite("vision").replace(backbone="smallconv"), data.channels, seed=0)
    parts = [(extract_features(module, s, data, device=CPU), s.labels) for s in (data.train, data.test)]
    print(
        f"{'rows x features':>16} {'ours [s]':>9} {'sklearn [s]':>12} {'ratio':>6} {'ours [%]':>9} {'sklearn [%]':>12}"
    )
    for rows, columns in sizes:
        (x, y), (z, truth) = (grown(*part, rows if part is parts[0] else 0, columns) for part in parts)
        start = time.process_time()
        ours = fit_probe(Rows.of(x), y, Rows.of(z), truth, CPU)
        middle = time.process_time()
        c, accuracy = reference(x, y, z, truth)
        end = time.process_time()
        print(
            f"{f'{len(x)} x {columns}':>16} {middle - start:>9.2f} {end - middle:>12.2f} "
            f"{(end - middle) / (middle - start):>6.1f} {ours.accuracy:>9.2f} {accuracy:>12.2f}   C {ours.c:g}, {c:g}",
            flush=True,
        )


def grown(features: Tensor, labels: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Features at another size; the mixtures of columns are the same for all rows."""
    generator = torch.Generator().manual_seed(0)
    mixtures = torch.randn(features.shape[1], columns, generator=generator) / features.shape[1] ** 0.5
    if rows > len(features):
        copies = -(-rows // len(features))
        spread = 0.05 * features.std(dim=0)
        noisy = [features + spread * torch.randn(features.shape, generator=generator) for _ in range(copies)]
        features, labels = torch.cat(noisy)[:rows], labels.repeat(copies)[:rows]
    elif rows:
        features, labels = features[:rows], labels[:rows]
    if columns != features.shape[1]:
        features = ((features - features.mean(dim=0)) / features.std(dim=0).clamp_min(1e-6) @ mixtures).relu()
    return features.contiguous(), labels


def reference(x: Tensor, y: Tensor, z: Tensor, truth: Tensor) -> tuple[float, float]:
    """The strength that scikit-learn's probe chooses, and its test accuracy."""
    mean, deviation = x.double().mean(dim=0), x.double().std(dim=0, correction=0).clamp_min(1e-12)
    rows, test = (((part.double() - mean) / deviation).numpy() for part in (x, z))
    labels = y.numpy()
    fitted, chosen = train_test_split(
        np.arange(len(labels)), test_size=PROTOCOL.validation_fraction, stratify=labels, random_state=0
    )
    probe = LogisticRegression(max_iter=PROTOCOL.probe_max_iter, warm_start=True)
    scores = []
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings(action="ignore"):
        for c in PROTOCOL.probe_c:
            probe.set_params(C=c).fit(rows[fitted], labels[fitted])
            scores.append(probe.score(rows[chosen], labels[chosen]))
        best = PROTOCOL.probe_c[int(np.argmax(scores))]
        final = LogisticRegression(C=best, max_iter=PROTOCOL.probe_max_iter).fit(rows, labels)
    return best, 100 * float(final.score(test, truth.numpy()))


if __name__ == "__main__":
    main()
