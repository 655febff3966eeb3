"""Backbones and heads: sizes, stems, names, and what they do with precision and gradients."""

import sys

import pytest
import torch
import torchvision

from gmje_core import ConfigError
from gmje_core.models.networks import ProjectionHead, ResNet, SmallConv, backbone_names, build_backbone


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


@pytest.mark.parametrize("size", [16, 28, 32, 64, 96])
def test_smallconv_takes_images_of_any_size(size):
    assert SmallConv(in_channels=1)(images(1, size)).shape == (2, 256)


def test_smallconv_sees_the_whole_image():
    """Every pixel of a 28x28 image has a say in the features: the strides skip none."""
    torch.manual_seed(0)
    x = images(1, 28, batch=8).requires_grad_()
    SmallConv(in_channels=1).eval()(x).square().sum().backward()
    assert (x.grad.abs().sum(dim=0) > 0).all()


def test_smallconv_does_not_depend_on_the_memory_format():
    torch.manual_seed(0)
    network, x = SmallConv(in_channels=3).eval(), images(size=28)
    torch.testing.assert_close(network(x.to(memory_format=torch.channels_last)), network(x), rtol=0, atol=0)


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


def test_a_timm_model_of_any_kind():
    pytest.importorskip("timm")
    # The second keeps a hidden layer behind its pooling; the third is built for one image size.
    for name in ("resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224"):
        backbone = build_backbone(f"timm:{name}", in_channels=1, image_size=64).eval()
        with torch.no_grad():
            assert backbone(images(1, 64)).shape == (2, backbone.num_features), name


def test_unknown_timm_models_are_suggested():
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match="did you mean 'resnet18'"):
        build_backbone("timm:resnet_18")


def test_missing_timm_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"gmje-core\[timm\]"):
        build_backbone("timm:resnet18")


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


@pytest.mark.parametrize("name", ["timm:hf-hub:org/name", "timm:../x", "timm:local-dir:/x", "timm:"])
def test_only_models_of_timm_itself_are_built(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # not even asked
    with pytest.raises(ConfigError, match="does not name a model of timm"):
        build_backbone(name)


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


def test_a_resnet_is_torchvisions():
    torch.manual_seed(0)
    ours, theirs = build_backbone("resnet18").eval(), torchvision.models.resnet18().eval()
    theirs.fc = torch.nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_heads_give_unit_norm_in_their_own_dtype(layers, dtype):
    torch.manual_seed(0)
    head = ProjectionHead(16, 32, 8, layers=layers).to(dtype)
    z = head(torch.randn(64, 16, dtype=dtype))
    assert z.dtype == dtype
    torch.testing.assert_close(z.norm(dim=1), torch.ones(64, dtype=dtype))
    assert len([m for m in head.modules() if isinstance(m, torch.nn.Linear)]) == layers
    assert len([m for m in head.modules() if isinstance(m, torch.nn.BatchNorm1d)]) == layers - 1


def test_the_norm_is_taken_in_float32_under_autocast():
    torch.manual_seed(0)
    head = ProjectionHead(16, 32, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = head(torch.randn(64, 16))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=1), torch.ones(64))


def test_heads_without_norm_are_affine_behind_their_last_layer():
    torch.manual_seed(0)
    head = ProjectionHead(16, 32, 8, layers=1, normalize=False)
    x, y = torch.randn(2, 5, 16)
    torch.testing.assert_close(head(x + y) + head(torch.zeros(5, 16)), head(x) + head(y))


def test_a_zero_embedding_stays_finite():
    head = ProjectionHead(4, 4, 4, layers=1)
    torch.nn.init.zeros_(head.layers[0].bias)
    x = torch.zeros(2, 4, requires_grad=True)
    z = head(x)
    z.sum().backward()
    assert torch.equal(z, torch.zeros(2, 4))
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("change", ["in_features", "hidden", "out_features", "layers"])
def test_sizes_of_heads_are_checked(change):
    sizes = {"in_features": 4, "hidden": 4, "out_features": 4, "layers": 2} | {change: 0}
    with pytest.raises(ConfigError, match=f"{change} must be at least 1, got 0"):
        ProjectionHead(**sizes)
