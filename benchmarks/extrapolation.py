"""The cost of training and evaluation at ImageNet's size as formulas: pure functions of measured inputs and hardware.

:mod:`scale` measures the inputs and prints the table. Numbers of GPUs are those that their vendor publishes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gmje_core.estimation.scaled import default_rounds

__all__ = ["ASSUMED", "GPUS", "Cluster", "Gpu", "Recipe", "Stage", "stages"]


@dataclass(frozen=True)
class Gpu:
    """Published figures of a GPU.

    Attributes:
        bfloat16: Peak FLOPs a second of dense matrix products.
        float32: Peak FLOPs a second without tensor cores.
        bandwidth: Bytes a second of its memory.
        link: Bytes a second of NVLink, in one direction.
        bus: Bytes a second of PCIe, in one direction.
        resnet50: Images a second that ResNet-50 is trained with in mixed precision, forward and backward.
    """

    bfloat16: float
    float32: float
    bandwidth: float
    link: float
    bus: float
    resnet50: float


# A100 SXM 80 GB and H100 SXM: NVIDIA's data sheets. ResNet-50: 2,470 images a second on one A100 in mixed precision, in
# NVIDIA's DeepLearningExamples (PyTorch, ResNet50 v1.5); for the H100 the same, times the ratio of memory bandwidths,
# because a ResNet waits for memory more than for products. That ratio is an assumption.
GPUS = {
    "a100": Gpu(312e12, 19.5e12, 2.039e12, 300e9, 32e9, 2470),
    "h100": Gpu(989e12, 67e12, 3.35e12, 450e9, 64e9, 2470 * 3.35 / 2.039),
}
#: Shares of a peak that are expected to be reached, and sizes of ImageNet-1k.
ASSUMED = {
    "train images": 1_281_167,
    "test images": 50_000,
    "share of memory bandwidth": 0.5,
    "share of float32 peak": 0.5,
    "share of NVLink": 0.7,
    "share of PCIe": 0.7,
    "bytes a file": 110_000,
}


@dataclass(frozen=True)
class Cluster:
    """The machine: a kind of GPU, how many, and the cores that decode for all of them."""

    gpu: Gpu
    gpus: int
    cores: int


@dataclass(frozen=True)
class Recipe:
    """What is trained; the names are those of a suite and of the protocol."""

    batch: int
    epochs: int
    dim: int
    side: int
    classes: int
    viewed_train: int
    viewed_test: int
    passes: int
    checkpoint_minutes: float


@dataclass(frozen=True)
class Stage:
    """A line of the table.

    Attributes:
        name: The stage.
        formula: How the seconds follow from the inputs.
        bytes: Bytes that are moved, over all ranks.
        flops: FLOPs, over all ranks.
        seconds: Seconds that the stage takes on its resource.
        memory: Bytes that each rank holds for it.
    """

    name: str
    formula: str
    bytes: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    memory: float = 0.0

    def cells(self) -> list[str]:
        """The cells of the line.

        Examples:
            >>> Stage("a", "b", bytes=1.5e9, seconds=90).cells()
            ['a', 'b', '1.5 GB', '', '90 s', '']
        """
        return [
            self.name,
            self.formula,
            _short(self.bytes, "B"),
            f"{self.flops:.1e}" if self.flops else "",
            _time(self.seconds),
            _short(self.memory, "B"),
        ]


def stages(inputs: Mapping[str, float], recipe: Recipe, cluster: Cluster) -> list[Stage]:
    """Every stage of the run, in order, and what they add up to.

    Args:
        inputs: What ``scale.py`` measured.
        recipe: What is trained.
        cluster: Where.
    """
    training, at_once = _training(inputs, recipe, cluster)
    evaluation = _evaluation(inputs, recipe, cluster)
    # Cores decode while GPUs compute; the slower of the two is what is waited for.
    waited = max(sum(stage.seconds for stage in at_once), training[1].seconds)
    kept = sum(stage.memory for stage in [*at_once, *training])
    # Stages of evaluation follow each other and let go of what they held.
    after = max(stage.memory for stage in evaluation)
    trained = training[0].seconds + waited + training[-1].seconds
    total = trained + sum(stage.seconds for stage in evaluation)
    return [
        *training[:-1],
        *at_once,
        training[-1],
        Stage("**training**", "max(reading, device stages) + listing + checkpoints", seconds=trained),
        *evaluation,
        Stage("**all**", "training + evaluation; memory of the larger", seconds=total, memory=max(kept, after)),
    ]


def _training(inputs: Mapping[str, float], recipe: Recipe, cluster: Cluster) -> tuple[list[Stage], list[Stage]]:
    """Listing, reading and checkpoints, and what the device does, step by step."""
    gpu, ranks = cluster.gpu, cluster.gpus
    images, tested = ASSUMED["train images"], ASSUMED["test images"]
    steps = int(images) // recipe.batch * recipe.epochs
    share = recipe.batch // ranks
    pixels = 3 * recipe.side**2
    seen = steps * recipe.batch
    bandwidth = gpu.bandwidth * ASSUMED["share of memory bandwidth"]
    link, bus = gpu.link * ASSUMED["share of NVLink"], gpu.bus * ASSUMED["share of PCIe"]
    backbone = seen * 2 / ranks / gpu.resnet50
    ring = 2 * (ranks - 1) / ranks
    products = gpu.float32 * ASSUMED["share of float32 peak"]
    of_criterion = max(inputs["criterion_flops"] / products, inputs["criterion_bytes"] / bandwidth)
    reading = [
        Stage(
            "listing, once",
            "(N + M) x list_seconds",
            seconds=(images + tested) * inputs["list_seconds"],
            memory=(images + tested) * 150,  # A path and a label.
        ),
        Stage(
            "reading and decoding",
            "S B x decode_seconds / cores, while the devices work",
            bytes=seen * ASSUMED["bytes a file"],
            seconds=seen * inputs["decode_seconds"] / cluster.cores,
            memory=2 * share * pixels,
        ),
    ]
    device = [
        Stage(
            "copies to the device",
            "S B x 3 side^2 / (G x PCIe)",
            bytes=seen * pixels,
            seconds=seen * pixels / ranks / bus,
            memory=share * pixels,
        ),
        Stage(
            "two views",
            "S B x view_bytes / (G x bandwidth)",
            bytes=seen * inputs["view_bytes"],
            seconds=seen * inputs["view_bytes"] / ranks / bandwidth,
            memory=2 * share * pixels * 4,
        ),
        Stage(
            "backbone, forward and backward",
            "2 S B / (G x images a second)",
            flops=2 * seen * inputs["backbone_flops"],
            seconds=backbone,
            # The activations are those of one view in bfloat16.
            memory=2 * share * inputs["activations"] + inputs["weights"] + inputs["gradients"] + inputs["optimizer"],
        ),
        Stage(
            "head",
            "2 S B x head_flops / (G x half of the bfloat16 peak)",
            flops=2 * seen * inputs["head_flops"],
            seconds=2 * seen * inputs["head_flops"] / ranks / (gpu.bfloat16 / 2),
        ),
        Stage(
            "criterion, on every rank",
            "S x max(criterion_flops / float32, criterion_bytes / bandwidth)",
            bytes=steps * inputs["criterion_bytes"] * ranks,
            flops=steps * inputs["criterion_flops"] * ranks,
            seconds=steps * of_criterion,
        ),
        Stage(
            "all-reduce of gradients",
            "S x 2 (G - 1) / G x 4 P / NVLink",
            bytes=steps * ring * 4 * inputs["trained"] * ranks,
            seconds=steps * ring * 4 * inputs["trained"] / link,
            memory=4 * inputs["trained"],  # The buckets.
        ),
        Stage(
            "gather of embeddings, and back",
            "S x (1 + 2) (G - 1) / G x 8 B d / NVLink",
            bytes=steps * 1.5 * ring * 8 * recipe.batch * recipe.dim * ranks,
            seconds=steps * 1.5 * ring * 8 * recipe.batch * recipe.dim / link,
            memory=2 * 8 * recipe.batch * recipe.dim,
        ),
    ]
    state = inputs["weights"] + inputs["optimizer"]
    busy = max(sum(stage.seconds for stage in device), reading[1].seconds)
    written = recipe.epochs + (busy / 60 / recipe.checkpoint_minutes if recipe.checkpoint_minutes else 0)
    checkpoints = Stage(
        "checkpoints, main rank",
        "(epochs + minutes / 15) x state x write_seconds",
        bytes=written * state,
        seconds=written * state * inputs["write_seconds"],
        memory=2 * state,
    )
    return [*reading, checkpoints], device


def _evaluation(inputs: Mapping[str, float], recipe: Recipe, cluster: Cluster) -> list[Stage]:
    """Embedding, probe, kNN, closing fit and tasks on views."""
    gpu, ranks = cluster.gpu, cluster.gpus
    images, tested = ASSUMED["train images"], ASSUMED["test images"]
    width, products = inputs["features"], gpu.float32 * ASSUMED["share of float32 peak"]
    # A forward pass is a third of a step.
    forward = 3 * gpu.resnet50 * ranks
    decoded = inputs["decode_seconds"] / cluster.cores
    pairs, fitted = recipe.viewed_train * recipe.passes, round(0.9 * recipe.viewed_train)
    link = gpu.link * ASSUMED["share of NVLink"]
    probe = inputs["probe_passes"] * 4 * images * width * recipe.classes
    kinds = 5 * 1000
    viewed = recipe.viewed_train + recipe.viewed_test + kinds
    on_views = [name for name in ("uncertainty", "outliers", "sampling", "density") if f"{name}_seconds" in inputs]
    tasks = sum(inputs[f"{name}_seconds"] for name in on_views) * recipe.viewed_train
    return [
        Stage(
            "features of all images",
            "(N + M) x max(decode_seconds / cores, 1 / (3 G images a second)); float16 on the main rank",
            bytes=(images + tested) * width * 2,
            flops=(images + tested) * inputs["forward_flops"],
            seconds=(images + tested) * max(decoded, 1 / forward) + images * width * 2 / link,
            memory=(images + tested) * width * 2,
        ),
        Stage(
            "linear probe",
            "probe_passes x 4 N F C / (G x float32)",
            flops=probe,
            seconds=probe / ranks / products,
            memory=images * width * 4 / ranks + 30 * 2 * width * recipe.classes * 4,
        ),
        Stage(
            "kNN",
            "2 N M F / (G x float32)",
            flops=2 * images * tested * width,
            seconds=2 * images * tested * width / ranks / products,
            memory=images * width * 4 / ranks + 4096 * 4096 * 4,
        ),
        Stage(
            "pairs of views",
            "passes x viewed_train x max(decode_seconds / cores, 2 / (3 G images a second))",
            bytes=pairs * 2 * recipe.dim * 4,
            flops=2 * pairs * inputs["forward_flops"],
            seconds=pairs * max(decoded, 2 / forward),
            memory=pairs * 2 * recipe.dim * 4,
        ),
        Stage(
            "consolidation, one core of the main rank",
            "rounds x 0.9 viewed_train x fit_seconds",
            seconds=default_rounds(fitted) * fitted * inputs["fit_seconds"],
            memory=3 * pairs * 2 * recipe.dim * 4,
        ),
        Stage(
            "embedding for tasks on views",
            "(viewed_train + viewed_test + 5,000) x max(decode_seconds / cores, 3 / (3 G images a second))",
            bytes=viewed * (width + 3 * recipe.dim) * 4,
            flops=3 * viewed * inputs["forward_flops"],
            seconds=viewed * max(decoded, 3 / forward),
            memory=viewed * (width + 3 * recipe.dim) * 4 + 5000 * 3 * recipe.side**2,
        ),
        Stage(
            "tasks on views, one core of the main rank",
            f"viewed_train x ({' + '.join(f'{name}_seconds' for name in on_views)})" if on_views else "not measured",
            seconds=tasks,
            memory=3 * recipe.viewed_train * width * 8,
        ),
    ]


def _short(value: float, unit: str) -> str:
    """A number with the prefix of its size; nothing for zero.

    Examples:
        >>> _short(2_500_000, "B"), _short(0, "B")
        ('2.5 MB', '')
    """
    if not value:
        return ""
    for prefix in ("", "k", "M", "G", "T"):
        if value < 1000:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} P{unit}"


def _time(seconds: float) -> str:
    """Seconds, or hours where there are many.

    Examples:
        >>> _time(12.34), _time(7200), _time(0.0)
        ('12 s', '2.0 h', '')
    """
    if not seconds:
        return ""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
