"""Every backbone that is advertised, and a model of each family of timm that users ask for: one step, then a task.

``benchmarks/backbones.py`` does the same at the sizes that they are made for.
"""

import pytest
import torch
from accelerate import Accelerator

from gmje_bench.datasets.base import ImageData, ResidentImages, Split
from gmje_bench.evaluation.measure import measure
from gmje_bench.runs import Record
from gmje_bench.suites import BACKBONES, Training, load_suite
from gmje_bench.training.module import build_module
from gmje_bench.training.pretrain import pretrain
from gmje_core.models.backbones import backbone_names

# The smallest image that each takes, and how many features it has.
CASES = {
    "smallconv": (8, 256),
    "resnet18": (16, 512),
    "resnet34": (16, 512),
    "resnet50": (16, 2048),
    "timm:resnet10t": (32, 512),
    "timm:convnext_atto": (32, 320),
    "timm:vit_tiny_patch16_224": (32, 192),
    "timm:mobilenetv3_small_050": (32, 1024),
    "timm:efficientnet_lite0": (32, 1280),
    "timm:regnetx_002": (32, 368),
}


def images(side: int, channels: int) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    splits = []
    for count in (12, 6):
        pixels = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)
        splits.append(Split.whole(ResidentImages(pixels), torch.arange(count) % 3))
    return ImageData("noise", *splits, ("a", "b", "c"), channels, side, "fingerprint", "content")


def test_every_advertised_backbone_is_tried():
    assert set(BACKBONES) == set(backbone_names())
    assert set(BACKBONES) <= CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_one_step_and_an_evaluation(name):
    side, features = CASES[name]
    data = images(side, 1 if name == "timm:resnet10t" else 3)
    suite = load_suite("smoke").replace(backbone=name)
    module = build_module("gje", suite, data.channels, 0, classes=3, image_size=side)
    before = [parameter.detach().clone() for parameter in module.backbone.parameters()]
    accelerator = Accelerator(cpu=True)
    training = Training(epochs=1, batch_size=12, warmup_steps=0)
    progress = pretrain(module, data, training, seed=0, accelerator=accelerator, on_epoch=lambda *_: None)
    assert torch.tensor(progress.history[0]["loss"]).isfinite()
    moved = [not torch.equal(old, new) for old, new in zip(before, module.backbone.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2, "the encoder learns"
    assert module.backbone.num_features == features
    record = Record(method="gje", seed=0, status="ok")
    measure(record, module, data, ["knn"], accelerator)
    assert 0 <= record.metrics["knn"] <= 100
    assert record.metrics["effective_rank"] > 1
