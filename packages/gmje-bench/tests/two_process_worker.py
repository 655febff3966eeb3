"""What each of several processes computes for test_two_process_run: steps of every method, and features of images.

Writes one safetensors file from the main process; alone, it is the reference.
"""

import sys
import warnings
from types import SimpleNamespace

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from gmje_bench.datasets import load_dataset
from gmje_bench.datasets.base import ImageData
from gmje_bench.evaluation.features import embed_split, extract_features
from gmje_bench.evaluation.measure import measure
from gmje_bench.evaluation.pairs import PairsOf
from gmje_bench.methods import METHODS, Setting, build_objective
from gmje_bench.protocol import PROTOCOL
from gmje_bench.runs import Record
from gmje_bench.suites import load_suite
from gmje_bench.tasks.few_labels import few_labels
from gmje_bench.tasks.knn import nearest, weighted_knn
from gmje_bench.tasks.logistic import fit_path
from gmje_bench.tasks.probe import Scaler, fit_probe
from gmje_bench.tasks.rows import Rows, Team
from gmje_bench.tasks.subject import Features, FeatureSubject
from gmje_bench.training.module import build_module
from gmje_bench.training.online_probe import OnlineProbe
from gmje_core.distributed import rank, world_size

BATCH, SIZE, DIM, STEPS, CLASSES = 32, 10, 6, 3, 4
OPTIONS = {
    "gmje": {"components": 4},
    "gmje-mdn": {"components": 3, "hidden": 16},
    "gmje-gng": {"capacity": 8, "insert_every": 16},
    "gmje-smc": {"particles": 64},
    "moco": {"queue": 64},
}
# Tasks on views at a size that takes seconds; they see a draw of the 700 + 140 images.
SMALL_PROTOCOL = {
    "viewed_train": 520,
    "viewed_test": 60,
    "consolidation_passes": 2,
    "conditional_pairs": 40,
    "outliers": 30,
    "decoder_steps": 2,
    "classifier_epochs": 1,
    "fitted_components": 2,
    "fitted_rounds": 3,
}


def trained(method: str) -> dict[str, Tensor]:
    """Weights and mean losses of a linear encoder after a few steps of gradient descent, in float64."""
    encoder = nn.Linear(SIZE, DIM, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    torch.manual_seed(0)  # a queue starts with random keys
    objective = build_objective(method, Setting(DIM, CLASSES), OPTIONS.get(method, {}))
    criterion = objective.criterion.double()
    losses = []
    for _ in range(STEPS):
        x = torch.randn(BATCH, SIZE, generator=generator, dtype=torch.float64)
        views = torch.stack([x, x + 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)])
        share = BATCH // world_size()
        own = views[:, rank() * share : (rank() + 1) * share]
        labels = (torch.arange(BATCH) % CLASSES)[rank() * share : (rank() + 1) * share]
        encoder.zero_grad()
        loss = criterion(encoder(own[0]), encoder(own[1]), *([labels] if objective.labels else []))
        loss.backward()
        losses.append(mean_over_processes(loss.detach()))
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter -= 0.1 * mean_over_processes(parameter.grad)  # what DistributedDataParallel does
    return {"weight": encoder.weight.detach(), "bias": encoder.bias.detach(), "losses": torch.stack(losses)}


def watched() -> dict[str, Tensor]:
    """What a probe learns that is trained along, each process on its share of the batches."""
    probe, generator = OnlineProbe(SIZE, CLASSES), torch.Generator().manual_seed(0)
    share = BATCH // world_size()
    for _ in range(STEPS):
        x, labels = torch.randn(BATCH, SIZE, generator=generator), torch.arange(BATCH) % CLASSES
        own = slice(rank() * share, (rank() + 1) * share)
        probe.look(torch.cat([x[own], x[own] + 1]))
        probe.step(labels[own])
    return {"online": probe.weights.detach(), "online_accuracy": torch.tensor(probe.end_epoch())}


def mean_over_processes(value: Tensor) -> Tensor:
    value = value.clone()
    if world_size() > 1:
        dist.all_reduce(value)
    return value / world_size()


def scored(data: ImageData, features: Tensor) -> dict[str, Tensor]:
    """What tasks find that all processes compute together."""
    x = Rows.of(features, len(data.train), Team.of_all())
    y, cpu, places = data.train.labels, torch.device("cpu"), torch.arange(1, 700, 7)
    scaler = Scaler.of(x)
    z = scaler.apply(x, cpu)
    path = list(fit_path(z, y, 10, PROTOCOL.probe_c))
    queries = torch.nn.functional.normalize(
        torch.randn(20, features.shape[1], generator=torch.Generator().manual_seed(0))
    )
    found = nearest(x, queries, 20)
    probe = fit_probe(x, y, x, y, cpu)
    subject = FeatureSubject("gje", 0, data.classes, *[Features(y, features)] * 2, team=Team.of_all())
    few = few_labels(subject).metrics
    return {
        "mean": scaler.mean,
        "deviation": scaler.deviation,
        "coefficients": torch.stack([classifier.coefficients for classifier in path]),
        "cosine": found.cosine,
        "places": found.places,
        "taken": z.take(places).whole(),
        "log_prob": probe.log_prob,
        "accuracies": torch.tensor([probe.accuracy, probe.top5, probe.c, *weighted_knn(x, y, x, y, 10, cpu)]),
        "few_labels": torch.tensor([few["few_labels_1"], few["few_labels_10"]]),
    }


def measured(data: ImageData) -> dict[str, Tensor]:
    """Pairs of views, and what tasks on views find; on the main process."""
    PROTOCOL.__dict__.update(SMALL_PROTOCOL)
    module = build_module("simclr", load_suite("smoke"), 1, seed=0)
    device, record = torch.device("cpu"), Record(method="simclr", seed=0, status="ok")
    views = PairsOf(module, data, 0, device)
    pairs = views.pairs
    here = SimpleNamespace(device=device, is_main_process=rank() == 0)
    found = measure(record, module, data, ["uncertainty", "sampling"], here, pairs=views)
    if pairs is None:
        return {}
    return {
        "pairs": torch.stack([pairs.context, pairs.target]),
        "held_out_pairs": torch.stack(pairs.validation),
        "tasks": torch.tensor([record.metrics[name] for name in sorted(record.metrics)]),
        "artifacts": torch.cat([found[name].flatten().double() for name in sorted(found)]),
    }


def main(path: str, processes: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if processes > 1:
        dist.init_process_group("gloo")
    assert world_size() == processes
    results = {
        f"{method}.{key}": value.clone()
        for method in METHODS
        if method != "random"
        for key, value in trained(method).items()
    }
    data = load_dataset("fashion_mnist_12k", limit=700)  # three chunks: the processes get different numbers of them
    torch.manual_seed(0)
    module = build_module("gje", load_suite("smoke"), 1, seed=0)
    results["features"] = extract_features(module, data.train, data, device=torch.device("cpu"))
    embedded = embed_split(module, data.train, data, device=torch.device("cpu"))
    results |= watched() | scored(data, results["features"])
    results |= measured(data)
    if rank() == 0:
        results |= {name: getattr(embedded, name) for name in ("embeddings", "context", "target")}
        save_file(results, path)
    if processes > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
