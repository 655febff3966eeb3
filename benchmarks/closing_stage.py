"""The closing stage anew on saved encoders: what its density costs and gives, with the numbers of factors you name.

    python -m gmje_bench run --suite density --methods gmje,gje --output runs/own
    python benchmarks/closing_stage.py runs/own/models/gmje-seed0 runs/own/models/gje-seed0 --components 30 60 120

Each encoder embeds its views once, and each number of factors is a row. The validation pairs are those of training that
the stage sets aside: numbers of factors are chosen by their column. All other figures are of test pairs, as the task
``density`` has them; joint and conditional NLL are differences to one Gaussian fitted to the same pairs. Seconds are
CPU time of one thread. Any encoder with a projection head can be named, one without a density too.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.base import ImageData
from gmje_bench.errors import BenchError
from gmje_bench.evaluation.features import embed_split
from gmje_bench.evaluation.models import open_model
from gmje_bench.evaluation.pairs import PairsOf
from gmje_bench.evaluation.splits import viewed
from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.calibration import calibration_error, marginal_ranks
from gmje_bench.tasks.densities import Scale
from gmje_bench.tasks.density.figures import PlacedDensity, figures
from gmje_bench.tasks.density.fits import fit_gaussian
from gmje_bench.tasks.subject import Embedded, Subject
from gmje_core.estimation.consolidation import DENSITY_COMPONENTS, fit_density

COLUMNS = (
    "model",
    "factors",
    "shrinkage",
    "CPU seconds, embedding",
    "CPU seconds, fit",
    "validation pairs, nats",
    "joint NLL",
    "conditional NLL",
    "calibration error",
    "Fréchet / floor",
    "precision",
    "coverage",
    "context: error",
    "target: error, mean rank",
)
CPU = torch.device("cpu")


def main() -> int:
    """Print a row for each model and number of factors, as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folder of a saved model, RUN/models/METHOD-seedN")
    parser.add_argument("--components", nargs="+", type=int, metavar="K", default=[DENSITY_COMPONENTS])
    parser.add_argument("--dataset", default="fashion_mnist_12k", help="a dataset by name; default: that of the suite")
    parser.add_argument("--fit-seed", type=int, default=0, help="seed of the fit's start and of all draws; default: 0")
    options = parser.parse_args()
    if min(options.components) < 1:
        parser.error(f"--components must be at least 1, got {min(options.components)}")
    torch.set_num_threads(1)
    head = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}\n"
    try:
        data = load_dataset(options.dataset)
        for model in options.models:
            for row in rows(model, data, options.components, options.fit_seed):
                print(f"{head}| {' | '.join(row)} |", flush=True)
                head = ""
    except BenchError as error:
        parser.exit(2, f"error: {error}\n")
    return 0


def rows(model: str, data: ImageData, components: list[int], seed: int) -> Iterator[list[str]]:
    """The rows of one model."""
    subject, embedding = seen_by(model, data, seed)
    pairs = subject.pairs
    assert pairs is not None
    scale = Scale.of(subject.train.context)
    at_unit_variance = pairs.map(lambda z: scale.apply(z).float())
    gaussian = figures(PlacedDensity(fit_gaussian(at_unit_variance, seed).density, scale), subject)
    for count in components:
        start = time.process_time()
        fit = fit_density(
            pairs.context,
            pairs.target,
            pairs.validation,
            components=count,
            passes=pairs.passes,
            exchangeable=pairs.exchangeable,
            seed=seed,
        )
        seconds = time.process_time() - start
        found = figures(PlacedDensity(fit.density, scale, raw=True), subject)
        part = slice(0, PROTOCOL.calibration_pairs)
        ranks = marginal_ranks(fit.density, subject.test.context[part], subject.test.target[part], seed)
        errors = {view: calibration_error(of_view) for view, of_view in ranks.items()}
        yield [
            subject.method,
            str(len(fit.density.log_weights)),
            f"{fit.shrinkage:g}",
            f"{embedding:.1f}",
            f"{seconds:.1f}",
            f"{fit.validation_log_prob:.2f}",
            *(f"{found[name] - gaussian[name]:.1f}" for name in ("joint_nll", "conditional_nll")),
            f"{found['calibration']:.3f}",
            *(f"{found[name]:.2f}" for name in ("frechet_over_floor", "sample_precision", "sample_coverage")),
            f"{errors['context']:.3f}",
            f"{errors['target']:.3f}, {float(ranks['target'].mean()):.2f}",
        ]


def seen_by(model: str, data: ImageData, seed: int) -> tuple[Subject, float]:
    """The pairs and splits of an encoder, and the CPU seconds that the pairs took."""
    module = open_model(model, data).module
    trained = Path(model).name.rpartition("-seed")[2]
    views = PairsOf(module, data, int(trained) if trained.isdecimal() else seed, CPU)
    start = time.process_time()
    pairs = views.pairs
    seconds = time.process_time() - start
    train, test = (embed_split(module, viewed(data, part).split, data, device=CPU) for part in ("train", "test"))
    assert isinstance(train, Embedded)
    assert isinstance(test, Embedded)
    return Subject(Path(model).name, seed, data.classes, train, test, {}, None, pairs=pairs), seconds


if __name__ == "__main__":
    sys.exit(main())
