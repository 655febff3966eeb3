"""The linear probe beside scikit-learn's: the whole path of strengths, the choice and the final fit.

The rows are features of Fashion-MNIST by an untrained small network; more rows are copies with noise, and more columns
are rectified random mixtures. Both sides fit the path of strengths to nine tenths of the rows, choose on the rest, and
fit the chosen strength to all. What is compared is the accuracy on test images, in per cent.
"""

import sys
import warnings
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from _measure import Call, Case, main
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

SIZES = ((9_000, 256), (50_000, 512))
GOAL, CLASSES = 5.0, 10
CPU = torch.device("cpu")


def cases() -> Iterator[Case]:
    """The features of the embedded data as they are, and at the size of an evaluation."""
    for rows, columns in SIZES:
        yield Case(
            f"linear probe with its path, {rows} x {columns}",
            "scikit-learn LogisticRegression",
            GOAL,
            partial(build, rows, columns),
            # One product with the rows and one with their transpose for each strength and the final fit, at the least.
            flops=4.0 * rows * columns * CLASSES * (0.9 * len(PROTOCOL.probe_c) + 1),
            difference=lambda ours, theirs: abs(ours - theirs),
            tolerance=0.1,
        )


def build(rows: int, columns: int) -> tuple[Call, Call]:
    """Both probes of the same features."""
    (x, y), (z, truth) = features(rows, columns)
    device_rows, device_test = Rows.of(x), Rows.of(z)
    return (
        lambda: fit_probe(device_rows, y, device_test, truth, CPU).accuracy,
        lambda: reference(x, y, z, truth),
    )


def features(rows: int, columns: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Features and labels to fit and to test."""
    data = load_dataset("fashion_mnist_12k")
    module = build_module("gje", load_suite("vision").replace(backbone="smallconv"), data.channels, seed=0)
    train, test = ((extract_features(module, part, data, device=CPU), part.labels) for part in (data.train, data.test))
    return grown(*train, rows, columns), grown(*test, 0, columns)


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


def reference(x: Tensor, y: Tensor, z: Tensor, truth: Tensor) -> float:
    """Test accuracy of scikit-learn's probe at the strength that it chooses."""
    mean, deviation = x.double().mean(dim=0), x.double().std(dim=0, correction=0).clamp_min(1e-12)
    rows, test = (((part.double() - mean) / deviation).numpy() for part in (x, z))
    labels = y.numpy()
    fitted, chosen = train_test_split(
        np.arange(len(labels)), test_size=PROTOCOL.validation_fraction, stratify=labels, random_state=0
    )
    probe = LogisticRegression(max_iter=PROTOCOL.probe_max_iter, warm_start=True)
    scores = []
    with threadpool_limits(torch.get_num_threads(), user_api="blas"), warnings.catch_warnings(action="ignore"):
        for c in PROTOCOL.probe_c:
            probe.set_params(C=c).fit(rows[fitted], labels[fitted])
            scores.append(probe.score(rows[chosen], labels[chosen]))
        best = PROTOCOL.probe_c[int(np.argmax(scores))]
        final = LogisticRegression(C=best, max_iter=PROTOCOL.probe_max_iter).fit(rows, labels)
    return 100 * float(final.score(test, truth.numpy()))


if __name__ == "__main__":
    sys.exit(main(__doc__, cases()))
