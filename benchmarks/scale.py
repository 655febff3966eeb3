"""What the recipe for ImageNet costs on eight GPUs, extrapolated stage by stage from what one core can measure.

    python benchmarks/imagenet_like.py FOLDER --images 1000 --classes 100
    python benchmarks/scale.py FOLDER [--inputs FILE.json] [--gpu a100] [--gpus 8] [--cores 96]

What is measured here: listing, decoding, bytes that the views touch, FLOPs of network, head and criterion, what
training keeps in memory, passes of the linear probe, the closing fit and the tasks. Seconds are CPU seconds of one
thread, which other work on the machine hardly changes. The inputs are written to ``--inputs``, and read from it where
it exists. What a GPU does is not measured: its peaks are the vendor's, and :data:`extrapolation.ASSUMED` names the
shares of them that are expected.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from extrapolation import ASSUMED, GPUS, Cluster, Recipe, stages
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import gmje_bench.datasets.folder  # noqa: F401  # Its import is no part of listing.
from gmje_bench.datasets import load_dataset
from gmje_bench.evaluation.features import embed_split
from gmje_bench.evaluation.models import open_model
from gmje_bench.evaluation.splits import viewed_splits
from gmje_bench.planning.preview import DataShape, build, memory, resolved
from gmje_bench.protocol import PROTOCOL
from gmje_bench.suites import Suite, load_suite
from gmje_bench.tasks import TASKS
from gmje_bench.tasks.probe import fit_probe
from gmje_bench.tasks.rows import Rows
from gmje_bench.tasks.subject import Embedded, Subject, TrainingPairs
from gmje_bench.training.module import JointEmbedding
from gmje_bench.views import TwoViews
from gmje_core.estimation.consolidation import fit_density
from gmje_core.estimation.scaled import default_rounds
from gmje_core.files import write_atomic

SHAPE = DataShape(3, 1000, 224)
Inputs = dict[str, float]


@dataclass
class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write, as if nothing stayed in a cache."""

    total: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Run the operation and count its tensors; views of a tensor move nothing."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.total += sum(part.numel() * part.element_size() for part in tensors((args, kwargs, result)))
        return result


def tensors(value: object) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))


def seconds(action: Callable[[], object]) -> float:
    """CPU seconds of an action."""
    start = time.process_time()
    action()
    return time.process_time() - start


def measure_reading(folder: str) -> Inputs:
    """Seconds to list and to decode an image, and how large the files are."""
    start = time.process_time()
    data = load_dataset(f"imagefolder:{folder}", image_size=SHAPE.image_size)
    listing = time.process_time() - start
    files = list(Path(folder).rglob("*.jpg"))
    chosen = torch.arange(min(200, len(data.train)))
    data.train.batch(chosen[:8])  # What is imported with the first image is no part of reading.
    reading = seconds(lambda: [None for _ in data.train.batches(chosen.split(50))])
    return {
        "list_seconds": listing / len(files),
        "decode_seconds": reading / len(chosen),
        "file_bytes": sum(path.stat().st_size for path in files) / len(files),
    }


def measure_views(module: JointEmbedding) -> Inputs:
    """Bytes that both views of an image touch on the device."""
    count = 16
    images = torch.zeros(count, 3, SHAPE.image_size, SHAPE.image_size, dtype=torch.uint8)
    shaped = type("Shaped", (), {"image_size": SHAPE.image_size, "channels": 3})
    views = TwoViews(module.views(shaped), 0)  # type: ignore[arg-type]
    with Traffic() as traffic:
        views(images, epoch=0, step=0)
    return {"view_bytes": traffic.total / count}


def measure_network(module: JointEmbedding, suite: Suite) -> Inputs:
    """FLOPs and memory of the network, counted on the meta device."""
    count = 2
    images = torch.empty(count, 3, SHAPE.image_size, SHAPE.image_size, device="meta")
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        features = module.backbone(images)
    with FlopCounterMode(display=False) as both:
        module.backbone(images).sum().backward()
    with FlopCounterMode(display=False) as head:
        module.projector(features.detach().requires_grad_()).sum().backward()
    found = memory(module, suite, SHAPE, processes=suite.training.batch_size)
    assert found.activations is not None
    return {
        "forward_flops": forward.get_total_flops() / count,
        "backbone_flops": both.get_total_flops() / count,
        "head_flops": head.get_total_flops() / count,
        "features": int(module.backbone.num_features),  # type: ignore[arg-type]
        "trained": sum(p.numel() for p in [*module.backbone.parameters(), *module.projector.parameters()]),
        "weights": found.weights,
        "gradients": found.gradients,
        "optimizer": found.optimizer,
        "activations": found.activations / 2,  # A batch of one image has two views.
    }


def measure_criterion(suite: Suite) -> Inputs:
    """FLOPs, bytes and seconds of a step of the criterion with the recipe's settings and global batch."""
    torch.manual_seed(0)
    criterion: nn.Module = build("gmje", suite, DataShape(1, 1000, 32), 0).criterion.train()
    z = nn.functional.normalize(torch.randn(suite.training.batch_size, suite.network.dim), dim=1).requires_grad_()

    def step() -> None:
        criterion(z, z.roll(1, dims=1)).backward()

    step()  # It starts the density, which is done once.
    taken = seconds(step)
    with FlopCounterMode(display=False) as flops:
        step()
    with Traffic() as traffic:
        step()
    return {
        "criterion_flops": flops.get_total_flops(),
        "criterion_bytes": traffic.total,
        "criterion_seconds": taken,
    }


def measure_disk(folder: Path) -> Inputs:
    """Seconds a byte to write a file and to know that it is on the disk, by the clock."""
    content, path = bytes(2**26), folder / "written"
    start = time.perf_counter()
    write_atomic(path, content)
    taken = time.perf_counter() - start
    path.unlink()
    return {"write_seconds": taken / len(content)}


def measure_probe() -> Inputs:
    """Passes over the rows that the linear probe makes, on classes that overlap."""
    generator, classes = torch.Generator().manual_seed(0), 20
    labels = torch.arange(4000) % classes
    centres = torch.randn(classes, 64, generator=generator)
    x = centres[labels] + 2 * torch.randn(4000, 64, generator=generator)
    passes, total = 0, Rows.total

    def counted(rows: Rows, function):  # type: ignore[no-untyped-def]
        nonlocal passes
        passes += 1
        return total(rows, function)

    try:
        Rows.total = counted  # type: ignore[method-assign,assignment]
        rows = Rows.of(x)
        fit_probe(rows, labels, rows, labels, torch.device("cpu"))
    finally:
        Rows.total = total  # type: ignore[method-assign]
    return {"probe_passes": passes}


class Seen(NamedTuple):
    """How many images the tasks are measured with."""

    train: int = 1000
    pairs: int = 6000


def measure_fits(suite: Suite, seen: Seen) -> Inputs:
    """CPU seconds of the closing fit a pair and round, and of every task on views an image that it sees."""
    torch.manual_seed(0)
    data, dim = load_dataset("embedded", limit=seen.train), suite.network.dim
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 2048), nn.ReLU())
    module = open_model(network, data).module
    module.projector = nn.Sequential(nn.Linear(2048, dim), Normalized())
    parts = {
        name: embed_split(module, split, data, device=torch.device("cpu"))
        for name, split in viewed_splits(data).items()
    }
    embedded = {name: part for name, part in parts.items() if isinstance(part, Embedded)}
    z = embedded["train"]
    rows = torch.randint(len(z.context), (seen.pairs,))
    noise = [0.05 * torch.randn(seen.pairs, dim) for _ in range(2)]
    context, target = (
        nn.functional.normalize(part[rows] + own, dim=1) for part, own in zip((z.context, z.target), noise, strict=True)
    )
    held_out = (z.context, z.target)
    pairs = TrainingPairs(context, target, held_out, exchangeable=True)
    fitted = seconds(lambda: fit_density(context, target, held_out, passes=1, exchangeable=True, seed=0))
    subject = Subject(
        "simclr",
        0,
        data.classes,
        embedded.pop("train"),
        embedded.pop("test"),
        embedded,
        None,
        pairs=pairs,
        views=module.views(data),
    )
    _ = subject.probe
    found = {"fit_seconds": fitted / seen.pairs / default_rounds(seen.pairs)}
    for task in (task for task in TASKS.values() if task.views):
        found[f"{task.name}_seconds"] = seconds(lambda task=task: task.load()(subject)) / seen.train
    return found


class Normalized(nn.Module):
    """Rows at unit norm."""

    def forward(self, z: Tensor) -> Tensor:
        """Rows ``(b, d)``."""
        return nn.functional.normalize(z, dim=1)


def measured(folder: str, path: Path) -> Inputs:
    """All inputs that this machine can measure; what stands in the file is not measured again."""
    torch.set_num_threads(1)
    suite = resolved(load_suite("imagenet-resnet50").replace(mixed_precision="bf16"), SHAPE)
    with torch.device("meta"):
        module = build("gmje", suite, SHAPE, 0)
    groups: dict[str, Callable[[], Inputs]] = {
        "network": lambda: measure_network(module, suite),
        "views": lambda: measure_views(module),
        "reading": lambda: measure_reading(folder),
        "criterion": lambda: measure_criterion(suite),
        "disk": lambda: measure_disk(Path(folder)),
        "probe": measure_probe,
        "fits": lambda: measure_fits(suite, Seen()),
    }
    found: dict[str, Inputs] = json.loads(path.read_text()) if path.exists() else {}
    for name, measure in groups.items():
        if name not in found:
            found[name] = measure()
            path.write_text(json.dumps(found, indent=2) + "\n")
    return {key: value for group in found.values() for key, value in group.items()}


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    """Measure, or read, the inputs and print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", help="images as imagenet_like.py makes them")
    parser.add_argument("--inputs", type=Path, default=Path("scale-inputs.json"))
    parser.add_argument("--gpu", choices=sorted(GPUS), default="a100")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--cores", type=int, default=96)
    given = parser.parse_args()
    inputs = measured(given.folder, given.inputs)
    print(table(["input", "measured"], [[name, f"{value:.4g}"] for name, value in inputs.items()]))
    suite = load_suite("imagenet-resnet50")
    recipe = Recipe(
        batch=suite.training.batch_size,
        epochs=suite.training.epochs,
        dim=suite.network.dim,
        side=SHAPE.image_size,
        classes=SHAPE.classes,
        viewed_train=PROTOCOL.viewed_train,
        viewed_test=PROTOCOL.viewed_test,
        passes=PROTOCOL.passes(PROTOCOL.viewed_train),
        checkpoint_minutes=suite.training.checkpoint_minutes or 0,
    )
    cluster = Cluster(GPUS[given.gpu], given.gpus, given.cores)
    print("\n" + table(["assumed", "value"], [[name, f"{value:g}"] for name, value in ASSUMED.items()]))
    rows = [stage.cells() for stage in stages(inputs, recipe, cluster)]
    print("\n" + table(["stage", "formula", "bytes", "FLOPs", "seconds", "memory a rank"], rows))


if __name__ == "__main__":
    main()
