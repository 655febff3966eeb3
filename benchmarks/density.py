"""Densities of a run's embeddings on test pairs: the critic's, one full Gaussian, and the consolidated one.

    python -m gmje_bench run --suite vision --methods gje,gmje,gmje-mdn,gmje-gng,gmje-smc --output runs/density
    python benchmarks/density.py runs/density [--json FILE]

For each model of the run: joint and conditional negative log-likelihood in nats, the calibration error of the
conditional's highest-density regions, and samples of the context beside the test embeddings: Fréchet distance (mean of
three draws) over that of as many real training embeddings, precision and coverage. The Gaussian has the moments of the
pairs that the consolidated density was fitted to. No density is fitted to test images.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from gmje_bench.alignment.metrics import hpd_ranks
from gmje_bench.datasets import load_dataset
from gmje_bench.features import embed_split, embed_views
from gmje_bench.module import build_module
from gmje_bench.protocol import PROTOCOL
from gmje_bench.runs import read_results
from gmje_bench.suite import Suite
from gmje_bench.tasks.calibration import calibration_error
from gmje_bench.tasks.densities import Scale, conditional_log_prob
from gmje_bench.tasks.sampling.measures import frechet_distance, manifold_measures
from gmje_core import Criterion, JointGaussianMixture
from gmje_core.densities.joint import JointDensity

CPU = torch.device("cpu")
DRAWS = 3


def one_gaussian(context: Tensor, target: Tensor) -> JointGaussianMixture:
    """The joint Gaussian with the moments of the pairs."""
    z = torch.cat([context, target], dim=1).double()
    covariance = torch.cov(z.T, correction=0) + 1e-9 * torch.eye(z.shape[1], dtype=z.dtype)
    return JointGaussianMixture.from_moments(torch.ones(1), z.mean(dim=0)[None], covariance[None], context.shape[1])


def measure(density: JointDensity, context: Tensor, target: Tensor, train: Tensor, seed: int) -> dict[str, float]:
    """The figures of one density; pairs are test pairs, ``train`` real embeddings for the floor."""
    joint = -float(torch.cat([density.log_prob(c, t) for c, t in blocks(context, target)]).mean())
    marginal = -float(torch.cat([density.context.log_prob(c) for c in context.split(500)]).mean())
    rows = slice(0, PROTOCOL.conditional_pairs)
    scores = conditional_log_prob(density, context[rows], target[rows], PROTOCOL.conditional_samples, seed)
    scale = Scale.of(train)
    real, floors, distances = scale.apply(context), [], []
    for draw in range(DRAWS):
        torch.manual_seed(draw)
        cloud = scale.apply(density.sample((len(real),))[0])
        distances.append(frechet_distance(real, cloud))
        floors.append(frechet_distance(real, scale.apply(train[torch.randperm(len(train))[: len(real)]])))
    near = manifold_measures(real, cloud, PROTOCOL.neighbours)
    return {
        "joint_nll": joint,
        "conditional_nll": joint - marginal,
        "calibration_error": calibration_error(hpd_ranks(*scores, torch.Generator().manual_seed(seed))),
        "frechet_over_floor": sum(distances) / sum(floors),
        "precision": near.precision,
        "coverage": near.coverage,
    }


def blocks(context: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(context.split(500), target.split(500), strict=True)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run of the vision suite")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    arguments = parser.parse_args()
    results = read_results(arguments.run)
    suite = Suite.model_validate(results.options)
    data = load_dataset(suite.dataset, limit=suite.limit, image_size=suite.image_size)
    found = []
    for record in results.records:
        module = build_module(record.method, suite, data.channels, record.seed, classes=len(data.classes))
        if record.status != "ok" or not isinstance(module.criterion, Criterion):
            continue
        folder = arguments.run / "models" / f"{record.method}-seed{record.seed}"
        module.load_state_dict(load_file(folder / "model.safetensors"))
        test, train = (embed_split(module, split, data, device=CPU) for split in (data.test, data.train))
        pairs = embed_views(module, data.train, data, PROTOCOL.consolidation_seed, device=CPU)
        densities = {
            "critic": module.criterion.critic_density(),
            "one Gaussian": one_gaussian(*pairs),
            "consolidated": module.criterion.density(),
        }
        for name, density in densities.items():
            figures = measure(density, test.context, test.target, train.context, record.seed)
            found.append({"method": record.method, "seed": record.seed, "density": name, **figures})
            numbers = " ".join(f"{key} {value:.3f}" for key, value in figures.items())
            print(f"{record.method} seed {record.seed}, {name}: {numbers}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
