"""Residual backbones: torchvision's networks with its weights, and the stem for small images."""

import pytest
import torch
import torchvision

from gmje_core.models.backbones import build_backbone
from gmje_core.models.resnet import ResNet


def images(channels: int = 3, size: int = 32, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_is_torchvisions_with_its_weights(depth):
    """Torchvision's state loads by name, all but the classifier, and gives torchvision's features."""
    torch.manual_seed(0)
    reference = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    network = ResNet(depth).eval()
    keys = network.load_state_dict(reference.state_dict(), strict=False)
    assert keys.missing_keys == []
    assert keys.unexpected_keys == ["fc.weight", "fc.bias"]
    reference.fc = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(network(images(size=64)), reference(images(size=64)))


def test_small_stem_keeps_the_resolution():
    x = images(size=32)
    small, usual = ResNet(18, small_images=True), ResNet(18)
    assert small.maxpool(small.conv1(x)).shape[-1] == 32
    assert usual.maxpool(usual.conv1(x)).shape[-1] == 8


def test_a_resnet_is_torchvisions():
    torch.manual_seed(0)
    ours, theirs = build_backbone("resnet18").eval(), torchvision.models.resnet18().eval()
    theirs.fc = torch.nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(ours(x), theirs(x))
