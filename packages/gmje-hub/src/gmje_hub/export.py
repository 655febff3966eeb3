"""The encoder for other runtimes: a ``torch.export`` program, and ONNX, each checked against the model.

What is exported maps normalised images ``(B, C, S, S)``, any ``B``, to ``features`` and ``embeddings``: the network
that :meth:`GMJEModel.features` and :meth:`GMJEModel.embed` run. The density is small and closed-form; it stays here.
"""

import json
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from gmje_core.files import write_atomic
from gmje_hub.errors import HubError
from gmje_hub.model import GMJEModel

__all__ = ["INPUT", "OUTPUTS", "ExportError", "export_file", "export_onnx", "export_program"]

#: Names in an ONNX file.
INPUT, OUTPUTS = "images", ("features", "embeddings")
#: Largest difference from the model's output, as a fraction of the largest number in it.
TOLERANCE = 1e-4
# Two different batch sizes, so that a program that fixes the number of images is found out.
_TRACED, _TRIED = 2, 3


class ExportError(HubError):
    """A model cannot be exported, or its export gives other numbers."""


class _Encoder(nn.Module):
    def __init__(self, model: GMJEModel) -> None:
        super().__init__()
        self.backbone, self.projector = model.backbone, model.projector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)
        return features, self.projector(features)


def export_program(model: GMJEModel) -> torch.export.ExportedProgram:
    """The encoder as a ``torch.export`` program for any number of images.

    Args:
        model: A model on the CPU; it is put in evaluation mode.

    Raises:
        ExportError: the backbone cannot be traced.

    Examples:
        >>> from gmje_core import GMJEConfig
        >>> model = GMJEModel(GMJEConfig(backbone="smallconv", in_channels=1, image_size=28, dim=8, hidden=16))
        >>> features, embeddings = export_program(model).module()(torch.rand(5, 1, 28, 28))
        >>> features.shape, embeddings.shape
        (torch.Size([5, 256]), torch.Size([5, 8]))
    """
    batch = torch.export.Dim("batch", min=1)
    try:
        return torch.export.export(_Encoder(model).eval(), (_images(model, _TRACED),), dynamic_shapes=({0: batch},))
    except Exception as error:  # the tracer raises errors of many types
        raise ExportError(f"{model.config.backbone} does not export: {_first_line(error)}") from error


def export_onnx(model: GMJEModel, path: str | Path) -> float:
    """Write the encoder as one ONNX file, and run it with onnxruntime beside the model.

    Input and outputs are called :data:`INPUT` and :data:`OUTPUTS`; the file's metadata hold the configuration, the
    preprocessing and the revision. Needs the extra ``gmje-hub[onnx]``.

    Args:
        model: A model on the CPU; it is put in evaluation mode.
        path: File to write; it is written only where the numbers agree.

    Returns:
        The largest difference between its outputs and the model's.

    Raises:
        ExportError: the extra is not installed, the backbone does not export, or an output differs by more than
            :data:`TOLERANCE` of its largest number.
        OSError: the file cannot be written.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(f"ONNX needs {error.name}, which is not installed: pip install 'gmje-hub[onnx]'") from error
    program = torch.onnx.export(
        export_program(model),
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(_metadata(model))
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "encoder.onnx"
        program.save(whole, external_data=False)
        content = whole.read_bytes()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = _images(model, _TRIED)
    difference = _check(model, images, [torch.from_numpy(y) for y in session.run(None, {INPUT: images.numpy()})])
    write_atomic(path, content)
    return difference


def export_file(model: GMJEModel, path: Path) -> float:
    """Write a model's encoder, as ONNX or as a ``torch.export`` program by the ending of the name.

    Args:
        model: A model on the CPU; it is put in evaluation mode.
        path: ``NAME.onnx`` or ``NAME.pt2``.

    Returns:
        The largest difference between the outputs and the model's.

    Raises:
        ExportError: another ending, or see :func:`export_onnx`.
        OSError: the file cannot be written.
    """
    if path.suffix not in (".onnx", ".pt2"):
        raise ExportError(f"{path} ends neither with .onnx nor with .pt2")
    if not path.parent.is_dir():
        raise ExportError(f"there is no folder {path.parent} to write {path.name} to")
    if path.suffix == ".onnx":
        return export_onnx(model, path)
    program = export_program(model)
    images = _images(model, _TRIED)
    difference = _check(model, images, list(program.module()(images)))
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "encoder.pt2"
        torch.export.save(program, whole)
        write_atomic(path, whole.read_bytes())
    return difference


def _images(model: GMJEModel, number: int) -> Tensor:
    config = model.config
    shape = (number, config.in_channels, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _check(model: GMJEModel, images: Tensor, found: list[Tensor]) -> float:
    differences = []
    for name, output, expected in zip(OUTPUTS, found, (model.features(images), model.embed(images)), strict=True):
        difference = float((output - expected).abs().max())
        if not difference <= TOLERANCE * max(float(expected.abs().max()), 1e-30):
            raise ExportError(f"the exported {name} differ from the model's by {difference:.3g}; nothing was written")
        differences.append(difference)
    return max(differences)


def _metadata(model: GMJEModel) -> dict[str, str]:
    preprocessing = model.preprocessing.to_dict() if model.preprocessing else None
    return {
        "gmje.config": json.dumps(model.config.to_dict(), sort_keys=True),
        "gmje.preprocessing": json.dumps(preprocessing, sort_keys=True),
        "gmje.revision": model.revision or "",
    }


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
