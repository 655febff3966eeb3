"""The encoder in timm's layout: loaded by timm from a repository with the same bits, and refused where it cannot be."""

import json
import sys

import pytest
import torch

from gmje_core import GMJEConfig, Preprocessing
from gmje_hub import GMJEModel
from gmje_hub.cli import main
from gmje_hub.timm_layout import TimmLayoutError, export_timm

pytestmark = pytest.mark.xdist_group("hub")


def build(backbone: str, size: int = 64, channels: int = 3, **options: object) -> GMJEModel:
    torch.manual_seed(0)
    values = {"dim": 8, "hidden": 16, "criterion_options": {"components": 4}} | options
    config = GMJEConfig(backbone=backbone, image_size=size, in_channels=channels, **values)
    model = GMJEModel(config, Preprocessing(size=size, image_mean=(0.5,) * channels, image_std=(0.25,) * channels))
    model(*torch.randn(2, 8, channels, size, size))  # statistics of batch normalisation that are not the first ones
    return model.eval()


def test_timm_loads_it_from_a_repository(hub, client, tmp_path):
    model = build("resnet18")
    model.save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "encoder"), "--timm"]) == 0
    hub.add("org/encoder", {path.name: path.read_bytes() for path in (tmp_path / "encoder").iterdir()})
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found = client("timm_features", "hf-hub:org/encoder", images.tolist())
    assert torch.equal(torch.tensor(found["features"]), model.features(images)), "the bits differ"
    assert found["data"]["mean"] == [0.5] * 3
    assert found["data"]["std"] == [0.25] * 3
    assert found["data"]["input_size"] == [3, 64, 64]
    assert found["data"]["crop_pct"] == pytest.approx(64 / 73)


@pytest.mark.parametrize(
    ("backbone", "size", "channels"), [("resnet34", 64, 1), ("timm:test_vit", 96, 3), ("timm:test_convnext", 64, 3)]
)
def test_a_folder_loads_with_the_same_bits(tmp_path, backbone, size, channels):
    import timm

    model = build(backbone, size, channels)
    export_timm(model, tmp_path / "encoder", source="org/name")
    other = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True).eval()
    images = torch.randn(2, channels, size, size)
    with torch.no_grad():
        assert torch.equal(other(images), model.features(images))
    assert "joint-embedding model org/name" in (tmp_path / "encoder" / "README.md").read_text()


@pytest.mark.parametrize(("backbone", "options"), [("smallconv", {}), ("resnet18", {"small_images": True})])
def test_what_timm_has_no_network_for_is_refused(tmp_path, capsys, backbone, options):
    model = build(backbone, 32, **options)
    model.save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "encoder"), "--timm"]) == 2
    error = capsys.readouterr().err
    assert f"timm has no architecture for the backbone {backbone!r}" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "encoder").exists()


def test_other_numbers_are_not_written(tmp_path, monkeypatch):
    model = build("resnet18")
    state = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    state["layer1.0.conv1.weight"] += 0.1
    monkeypatch.setattr("gmje_hub.timm_layout._state", lambda _: state)
    with pytest.raises(TimmLayoutError, match="gives features that differ by"):
        export_timm(model, tmp_path / "encoder")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_stays(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(TimmLayoutError, match="exists; choose another folder"):
        export_timm(build("resnet18", 32), tmp_path)


def test_without_timm_it_says_so(tmp_path, monkeypatch):
    model = build("resnet18", 32)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(TimmLayoutError, match=r"pip install 'gmje-core\[timm\]'"):
        export_timm(model, tmp_path / "encoder")
