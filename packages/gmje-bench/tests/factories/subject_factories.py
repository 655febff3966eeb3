"""Subjects of tasks whose density is known: classes at corners, two views that differ by noise."""

import torch
from torch import Tensor

from gmje_bench.datasets.base import ResidentImages, Split
from gmje_bench.tasks.subject import Embedded, Subject
from gmje_core import JointGaussianMixture

DIM, CLASSES = 6, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=generator(seed), dtype=torch.float64)


def embedded(count: int, seed: int, apart: float = 4.0, shift: float = 0.0, noise: float = 1.0) -> Embedded:
    """Classes at corners; two views that differ by noise; images whose brightness is the first coordinate."""
    labels = torch.arange(count) % CLASSES
    z = apart * torch.eye(DIM, dtype=torch.float64)[labels] + randn(count, DIM, seed=seed) + shift
    first, second = (z + noise * randn(count, DIM, seed=seed + offset) for offset in (1000, 2000))
    images = (40 * z[:, :1] + 60).clamp(0, 255).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    split = Split.whole(ResidentImages(images), labels)
    return Embedded(labels, z.float(), split, z.float(), first.float(), second.float())


def true_density(apart: float = 4.0, noise: float = 1.0) -> JointGaussianMixture:
    means = apart * torch.eye(DIM, dtype=torch.float64)[:CLASSES].repeat(1, 2)
    block = torch.eye(DIM, dtype=torch.float64)
    joint = torch.cat([torch.cat([(1 + noise**2) * block, block], 1), torch.cat([block, (1 + noise**2) * block], 1)])
    return JointGaussianMixture.from_moments(torch.ones(CLASSES).double(), means, joint.expand(CLASSES, -1, -1), DIM)


def make_subject(density: JointGaussianMixture | None = None, **changes: Embedded) -> Subject:
    parts = {"train": embedded(600, 1), "test": embedded(300, 2), "digits": embedded(200, 3, shift=6.0)} | changes
    own = {name: parts.pop(name) for name in list(parts) if name not in ("train", "test")}
    return Subject("gmje", 0, ("a", "b", "c"), **parts, outliers=own, density=density)


def parts(subject: Subject) -> dict[str, Embedded]:
    return {"train": subject.train, "test": subject.test, **subject.outliers}


def collapse(part: Embedded) -> Embedded:
    point = torch.ones_like(part.context)
    return Embedded(part.labels, part.features, part.images, point, point, point)
