"""Backbones by name: sizes, names, the two steps of the forward pass, and what building one imports."""

import subprocess
import sys

import pytest
import torch

from gmje_core import ConfigError
from gmje_core.models.backbones import backbone_names, build_backbone


def images(channels: int = 3, size: int = 32, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", backbone_names())
@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("small_images", [False, True])
def test_every_backbone_says_its_number_of_features(name, in_channels, small_images):
    backbone = build_backbone(name, in_channels=in_channels, small_images=small_images).eval()
    with torch.no_grad():
        features = backbone(images(in_channels))
    assert features.shape == (2, backbone.num_features)
    assert features.isfinite().all()


@pytest.mark.parametrize(
    ("name", "size"), [("smallconv", 256), ("resnet18", 512), ("resnet34", 512), ("resnet50", 2048)]
)
def test_numbers_of_features(name, size):
    assert build_backbone(name).num_features == size


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet19", {}, "did you mean 'resnet18'"),
        ("smalconv", {}, "did you mean 'smallconv'"),
        ("resnet18", {"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ("timm:resnet18", {"small_images": True}, "stem of ResNets only"),
    ],
)
def test_wrong_backbones_are_named(name, options, words):
    with pytest.raises(ConfigError, match=words):
        build_backbone(name, **options)


@pytest.mark.parametrize("name", ["smallconv", "resnet18", "timm:resnet18", "timm:vit_tiny_patch16_224"])
def test_the_two_steps_of_timm_are_the_forward_pass(name):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    backbone = build_backbone(name, image_size=64).eval()
    x = torch.rand(2, 3, 64, 64)
    step = backbone.forward_features(x)
    assert step.ndim == (3 if "vit" in name else 4)
    assert torch.equal(backbone.forward_head(step), backbone(x))
    assert backbone(x).shape == (2, backbone.num_features)


def test_smallconv_needs_neither_torchvision_nor_timm():
    code = """
import sys
sys.modules["torchvision"] = sys.modules["timm"] = None  # importing either would now fail
from gmje_core import GMJEConfig, JointEmbeddingModel
JointEmbeddingModel(GMJEConfig(backbone="smallconv", image_size=28, dim=8, hidden=16, criterion="gje"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
