"""Reading a run folder for reports: results, the tensors of every method and seed, the picture of synthetic tasks.

All of it is checked on the way in, so that a file which is cut short or foreign is one clear line and no half page.
"""

import difflib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmje_bench.errors import RunFolderError
from gmje_bench.runs import SCHEMA_VERSION, AlignmentRecord, Record, Results, read_results

__all__ = ["Artifacts", "Run", "read_run"]

#: The tensors of one method and seed, by name.
Artifacts = Mapping[str, NDArray[Any]]

_PICTURE = "alignment.png"
# Names of tensors, or prefixes of them, with the dimensions, the kind of number, and the sizes that are fixed.
_FORMS: dict[str, tuple[int, str, dict[int, int]]] = {
    "uncertainty.risk_coverage": (2, "f", {1: 2}),
    "uncertainty.hpd_histogram": (1, "f", {}),
    "uncertainty.ood_scores": (1, "f", {}),
    "sampling.pictures": (4, "u", {}),
    "sampling.conditional.samples": (5, "u", {}),
    "sampling.conditional": (4, "u", {}),
    "completion.answers": (5, "u", {}),
    "completion": (4, "u", {}),
    "latent.pca": (2, "f", {1: 2}),
    "latent.tsne": (2, "f", {1: 2}),
    "latent.label": (1, "i", {}),
    "latent.component": (1, "i", {}),
    "neighbours.query": (4, "u", {}),
    "neighbours.images": (5, "u", {}),
    "neighbours.query_label": (1, "i", {}),
    "neighbours.label": (2, "i", {}),
}
_KINDS = {"f": "floating-point numbers", "u": "bytes (uint8)", "i": "integers"}
# These tensors go together, and share so many of their first dimensions.
_TOGETHER = (
    (("latent.pca", "latent.tsne", "latent.label", "latent.component"), 1),
    (("neighbours.query", "neighbours.images", "neighbours.query_label", "neighbours.label"), 1),
    (("neighbours.images", "neighbours.label"), 2),
    (tuple(f"sampling.conditional.{part}" for part in ("context", "target", "real", "mean", "samples")), 1),
)


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        folder: The path of the folder.
        results: The results of the run.
        artifacts: Tensors by method and seed, of the records that have any.
        picture: The PNG file of the synthetic tasks' conditionals; ``None`` where there is none.
        missing: What the results name and the folder lacks, one line for each.
        reference: The method that a report shall test the others against; the best of each metric where missing.
    """

    folder: Path
    results: Results
    artifacts: dict[tuple[str, int], Artifacts] = field(default_factory=dict)
    picture: bytes | None = None
    missing: tuple[str, ...] = ()
    reference: str | None = None


def read_run(folder: Path) -> Run:
    """Read a run folder; nothing is unpickled, nothing is written.

    Args:
        folder: The folder of a finished or interrupted run.

    Raises:
        RunFolderError: there is no such folder (the message suggests a sibling), or a file in it is truncated, foreign,
            of another schema, or holds numbers that are not finite.
    """
    if not folder.is_dir():
        raise RunFolderError(_no_folder(folder))
    results = read_results(folder)
    _check_results(folder, results)
    artifacts: dict[tuple[str, int], Artifacts] = {}
    missing = []
    for record in results.records:
        path = _artifact_path(folder, record)
        if path is None:
            continue
        if path.is_file():
            artifacts[record.method, record.seed] = _read_artifacts(path)
        elif record.artifacts is not None:
            missing.append(f"{record.artifacts} of {record.method}, seed {record.seed}, is not in the folder")
    return Run(folder, results, artifacts, _read_picture(folder / _PICTURE), tuple(missing))


def _no_folder(folder: Path) -> str:
    if folder.exists():
        return f"{folder} is a file, not a run folder"
    try:
        siblings = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()]
    except OSError:
        return f"no run folder {folder}: {folder.parent} does not exist"
    close = difflib.get_close_matches(folder.name, siblings, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(str(folder.parent / name) for name in close)}?" if close else ""
    return f"no run folder {folder}{hint}"


def _check_results(folder: Path, results: Results) -> None:
    path = folder / "results.json"
    if results.schema_version != SCHEMA_VERSION:
        raise RunFolderError(f"{path} has schema version {results.schema_version}; this code reads {SCHEMA_VERSION}")
    every: list[Record | AlignmentRecord] = [*results.records, *results.alignment]
    for record in every:
        for name, value in record.metrics.items():
            place = f"{path}: {record.method}, seed {record.seed}: metric {name!r}"
            if name not in results.metrics:
                raise RunFolderError(f"{place} is not described in 'metrics'")
            if not math.isfinite(value):
                raise RunFolderError(f"{place} is {value}, not a finite number")
    seen: set[tuple[str, int]] = set()
    for record in results.records:
        key = record.method, record.seed
        if key in seen:
            raise RunFolderError(f"{path}: {record.method}, seed {record.seed}, is there twice")
        seen.add(key)


def _artifact_path(folder: Path, record: Record) -> Path | None:
    """Where the tensors of a record are; a path that leaves the folder is refused."""
    if record.artifacts is None:
        if record.status == "failed" or Path(record.method).name != record.method:
            return None
        path = folder / "artifacts" / f"{record.method}-seed{record.seed}.safetensors"
        return path if path.is_file() else None
    path = folder / record.artifacts
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RunFolderError(
            f"{folder / 'results.json'}: artifacts of {record.method}, seed {record.seed}, are outside the run "
            f"folder: {record.artifacts}"
        )
    return path


def _read_artifacts(path: Path) -> Artifacts:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors: dict[str, NDArray[Any]] = load(path.read_bytes())
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{path} is not a whole safetensors file: {error}") from error
    for name, tensor in tensors.items():
        _check_tensor(path, name, tensor)
    for names, shared in _TOGETHER:
        shapes = {name: tensors[name].shape[:shared] for name in names if name in tensors}
        if len(set(shapes.values())) > 1:
            words = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in shapes)
            raise RunFolderError(f"{path}: tensors that go together have different sizes: {words}")
    return tensors


def _check_tensor(path: Path, name: str, tensor: NDArray[Any]) -> None:
    """Check the shape and kind of a tensor that figures know; others are left alone."""
    form = next((form for prefix, form in _FORMS.items() if name == prefix or name.startswith(prefix + ".")), None)
    if form is None:
        return
    dims, kind, sizes = form
    found = {"f": np.floating, "u": np.uint8, "i": np.signedinteger}[kind]
    if tensor.ndim != dims or not np.issubdtype(tensor.dtype, found) or 0 in tensor.shape:
        raise RunFolderError(
            f"{path}: {name} must hold {_KINDS[kind]} in {dims} dimension(s), but is {tensor.dtype} "
            f"{tuple(tensor.shape)}"
        )
    for axis, size in sizes.items():
        if tensor.shape[axis] != size:
            raise RunFolderError(f"{path}: {name} must have {size} columns, but has shape {tuple(tensor.shape)}")
    if kind == "u" and tensor.shape[-3] not in (1, 3):
        raise RunFolderError(f"{path}: {name} must hold images of 1 or 3 channels, but has shape {tensor.shape}")


def _read_picture(path: Path) -> bytes | None:
    """The PNG file as it is, once it has been decoded to its end."""
    if not path.is_file():
        return None
    from PIL import Image

    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            image.load()
    except OSError as error:  # UnidentifiedImageError is one
        raise RunFolderError(f"{path} is not a whole PNG file: {error}") from error
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RunFolderError(f"{path} is not a whole PNG file: {error}") from error
    return content
