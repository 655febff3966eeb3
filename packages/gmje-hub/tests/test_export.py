"""Exported encoders: the model's numbers for any number of images, one file, and clear refusals."""

import json
import sys

import onnx
import onnxruntime
import pytest
import torch

from gmje_core import GMJEConfig, Preprocessing
from gmje_hub import GMJEModel
from gmje_hub.cli import main
from gmje_hub.export import INPUT, OUTPUTS, ExportError, export_onnx, export_program


def build(backbone: str, **options: object) -> GMJEModel:
    torch.manual_seed(0)
    values = {"image_size": 32, "dim": 8, "hidden": 16, "criterion_options": {"components": 4}} | options
    model = GMJEModel(
        GMJEConfig(backbone=backbone, **values), Preprocessing(size=32, image_mean=(0.5,) * 3, image_std=(0.25,) * 3)
    )
    model.train()
    model(*torch.randn(2, 32, 3, 32, 32))  # statistics of batch normalisation that are not those it starts with
    return model


MODELS = [("smallconv", {}), ("resnet18", {"small_images": True, "momentum": 0.9})]


@pytest.mark.parametrize(("backbone", "options"), MODELS)
@pytest.mark.parametrize("number", [1, 5])
def test_a_program_gives_the_models_numbers(backbone, options, number):
    model = build(backbone, **options)
    images = torch.randn(number, 3, 32, 32)
    features, embeddings = export_program(model).module()(images)
    torch.testing.assert_close(features, model.features(images))
    torch.testing.assert_close(embeddings, model.embed(images))


@pytest.mark.parametrize(("backbone", "options"), MODELS)
def test_onnxruntime_gives_the_models_numbers(tmp_path, backbone, options):
    model = build(backbone, **options)
    path = tmp_path / "encoder.onnx"
    assert export_onnx(model, path) < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["encoder.onnx"]
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path)
    assert [output.name for output in session.get_outputs()] == list(OUTPUTS)
    for number in (1, 7):
        images = torch.randn(number, 3, 32, 32)
        features, embeddings = map(torch.from_numpy, session.run(None, {INPUT: images.numpy()}))
        torch.testing.assert_close(features, model.features(images), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(embeddings, model.embed(images), atol=1e-5, rtol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert GMJEConfig.from_json(metadata["gmje.config"]) == model.config
    assert Preprocessing.from_json(metadata["gmje.preprocessing"]) == model.preprocessing


def test_an_export_with_other_numbers_is_not_written(tmp_path, monkeypatch):
    model, other = build("smallconv"), build("smallconv")
    with torch.no_grad():
        other.projector.layers[-1].weight[0, 0] += 0.1
    program = export_program(other)
    monkeypatch.setattr("gmje_hub.export.export_program", lambda _: program)
    with pytest.raises(ExportError, match="the exported embeddings differ from the model's by"):
        export_onnx(model, tmp_path / "encoder.onnx")
    assert not list(tmp_path.iterdir())


def test_a_backbone_that_cannot_be_traced_is_named():
    class Branching(torch.nn.Module):
        num_features = 3

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(2, 3)) if x.sum() > 0 else x.amax(dim=(2, 3))

    model = build("smallconv")
    model.backbone = Branching()
    with pytest.raises(ExportError, match="smallconv does not export: ") as caught:
        export_program(model)
    assert "\n" not in str(caught.value)


def test_the_command_line(tmp_path, capsys):
    model = build("smallconv")
    model.save_pretrained(tmp_path / "model")
    for name in ("encoder.onnx", "encoder.pt2"):
        assert main(["export", str(tmp_path / "model"), str(tmp_path / name)]) == 0
        assert "features and embeddings within" in capsys.readouterr().out
    program = torch.export.load(tmp_path / "encoder.pt2")
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(program.module()(images)[1], model.embed(images))
    shapes = onnx.load(tmp_path / "encoder.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value or dim.dim_param for dim in shapes][1:] == [3, 32, 32]


@pytest.mark.parametrize(
    ("path", "words"), [("encoder.pt", "neither with .onnx nor with .pt2"), ("no/where.onnx", "there is no folder")]
)
def test_a_wrong_path_is_one_line(tmp_path, capsys, path, words):
    build("smallconv").save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxscript"])
def test_without_the_extra_it_says_which(tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ExportError, match=rf"needs {missing}, which is not installed: pip install 'gmje-hub\[onnx\]'"):
        export_onnx(build("smallconv"), tmp_path / "encoder.onnx")


def test_metadata_is_json(tmp_path):
    model = build("smallconv")
    model.preprocessing = None
    export_onnx(model, tmp_path / "encoder.onnx")
    metadata = onnxruntime.InferenceSession(tmp_path / "encoder.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(metadata["gmje.preprocessing"]) is None
