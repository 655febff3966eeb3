"""Models of timm as backbones: any kind of model, none of the network's, and a hint where timm is missing."""

import sys

import pytest
import torch

from gmje_core import ConfigError
from gmje_core.models.backbones import build_backbone


def images(channels: int = 3, size: int = 32, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


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


@pytest.mark.parametrize("name", ["timm:hf-hub:org/name", "timm:../x", "timm:local-dir:/x", "timm:"])
def test_only_models_of_timm_itself_are_built(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # not even asked
    with pytest.raises(ConfigError, match="does not name a model of timm"):
        build_backbone(name)


def test_importing_timm_does_not_follow_the_callers_device(tmp_path, monkeypatch):
    """Tensors that a library makes at its import live for ever; under ``meta`` they would have no numbers."""
    (tmp_path / "timm.py").write_text(
        "import torch\nmade, __version__ = torch.zeros(1), '0'\n"
        "def is_model(name): return False\ndef list_models(): return []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    try:
        with pytest.raises(ConfigError, match="timm 0 has no model"), torch.device("meta"):
            build_backbone("timm:resnet18")
        assert sys.modules["timm"].made.device == torch.device("cpu")
    finally:
        sys.modules.pop("timm", None)  # the stub; the fixture puts the real module back, where there was one
