"""The run folder: results with a documented schema, written atomically after every finished task."""

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gmje_bench.errors import RunFolderError

__all__ = [
    "METRICS",
    "PRETRAINED",
    "SOURCES",
    "AlignmentRecord",
    "DatasetRecord",
    "Metric",
    "Record",
    "Results",
    "check_models",
    "check_resumable",
    "check_run_folder",
    "create_run_folder",
    "read_results",
    "write_atomic",
    "write_results",
]

RESULTS = "results.json"
#: The verdict of a model that a run did not train.
PRETRAINED = "pretrained"
_FOLDERS = ("models", "artifacts", "checkpoints", "profile")
_FILES = (
    RESULTS,
    "results.md",
    "results.csv",
    "results.parquet",
    "report.html",
    "accuracy.png",
    "diagnostics.png",
    "alignment.png",
)
# What write_atomic leaves where it is killed between its first byte and its last.
_TEMPORARY = (".probe", *(f".{name}." for name in _FILES))
SCHEMA_VERSION = 2


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Metric(_Model):
    """What a number is."""

    title: str = Field(description="Words for tables and axes.")
    unit: str = Field(default="", description="Empty for a pure number.")
    higher_is_better: bool
    task: str = Field(description="The task that measures it.")
    headline: bool = Field(default=False, description="Whether short tables show it.")


def _metrics(task: str, **metrics: tuple[str, str, bool, bool]) -> dict[str, Metric]:
    return {
        name: Metric(title=title, unit=unit, higher_is_better=higher, task=task, headline=headline)
        for name, (title, unit, higher, headline) in metrics.items()
    }


#: Densities of embeddings: the one learned in training, and those fitted afterwards to any method's embeddings.
SOURCES = {
    "learned": "the density learned in training",
    "gaussian": "one Gaussian, fitted afterwards",
    "kde": "a kernel density, fitted afterwards",
    "mixture": "a full-covariance mixture, fitted afterwards",
}


def _sampling() -> dict[str, Metric]:
    """Every measure of samples, for every source of them."""
    measures = {
        "frechet": ("Fréchet", "", False),
        "precision": ("precision", "", True),
        "recall": ("recall", "", True),
        "density": ("density", "", True),
        "coverage": ("coverage", "", True),
        "mmd": ("MMD", "", False),
        "nll": ("NLL", "nats", False),
        "image_frechet": ("Fréchet of pictures", "", False),
    }
    return {
        f"{measure}.{source}": Metric(
            title=f"{title}, {source}",
            unit=unit,
            higher_is_better=higher,
            task="sampling",
            headline=(measure, source) in (("frechet", "learned"), ("frechet", "mixture")),
        )
        for source in (*SOURCES, "real")
        for measure, (title, unit, higher) in measures.items()
        if (measure, source) != ("nll", "real")
    }


#: Every metric that a record may hold.
METRICS: dict[str, Metric] = {
    **_metrics("linear_probe", linear_probe=("linear probe", "%", True, True)),
    **_metrics("knn", knn=("kNN", "%", True, True)),
    **_metrics("effective_rank", effective_rank=("effective rank", "", True, True)),
    **_metrics(
        "uncertainty",
        ood_auroc=("OOD AUROC", "", True, True),
        ood_auroc_fitted=("OOD AUROC, fitted", "", True, False),
        aurc=("AURC", "", False, False),
        aurc_fitted=("AURC, fitted", "", False, False),
        aurc_softmax=("AURC, softmax", "", False, False),
        conditional_hpd=("HPD error", "", False, False),
        conditional_hpd_fitted=("HPD error, fitted", "", False, False),
        conditional_ece=("calibration error", "", False, True),
        conditional_ece_fitted=("calibration error, fitted", "", False, False),
    ),
    **_sampling(),
    **_metrics(
        "synthetic",
        kl=("KL to truth", "nats", False, True),
        kl_standard_error=("its standard error", "nats", False, False),
        theory=("KL by theory", "nats", False, True),
        energy=("energy distance", "", False, True),
        wasserstein=("sliced Wasserstein", "", False, False),
        recall=("mode recall", "", True, True),
        weights=("weight error", "", False, True),
        hpd=("HPD error", "", False, True),
        pit=("PIT error", "", False, True),
    ),
}


class DatasetRecord(_Model):
    """What was read."""

    name: str
    fingerprint: str = Field(description="SHA-256 of what was read.")
    fingerprint_of: str = Field(
        default="content", description="What it covers: content, names and sizes of files, or sizes."
    )
    train: int = Field(description="Images.")
    test: int = Field(description="Images.")
    classes: int
    class_names: list[str] = Field(default=[], description="In the order of the labels.")
    image_size: int = Field(description="Side that networks see, in pixels.")


class Record(_Model):
    """One method with one seed."""

    method: str
    seed: int
    status: Literal["ok", "failed"]
    error: str | None = Field(default=None, description="Why it failed, in one line.")
    metrics: dict[str, float] = Field(default={}, description="By the names in 'metrics' of the results.")
    choices: dict[str, float] = Field(default={}, description="What was chosen on validation data, and its score.")
    verdict: str | None = Field(
        default=None,
        description=f"Of the diagnostics at the end of training; {PRETRAINED} where it was trained before.",
    )
    advice: str | None = None
    history: list[dict[str, float | str]] = Field(default=[], description="Loss and diagnostics after every epoch.")
    seconds: dict[str, float] = Field(default={}, description="Wall-clock of every stage.")
    artifacts: str | None = Field(
        default=None, description="File of the run folder with the tensors that figures are drawn from."
    )
    peak_memory_mib: float | None = Field(
        default=None, description="Of the main process so far; on a GPU, of its allocator during this record."
    )

    def describe(self) -> str:
        """What it is a record of."""
        return f"{self.method} seed {self.seed}"


class AlignmentRecord(_Model):
    """One method on one synthetic task with one seed."""

    task: str
    dim: int | None = Field(description="Size that both views are lifted to; null for the task's own.")
    method: str = Field(description="'truth' is the noise floor: the truth measured against itself.")
    seed: int
    status: Literal["ok", "failed"] = "ok"
    error: str | None = Field(default=None, description="Why it failed, in one line.")
    metrics: dict[str, float] = Field(default={}, description="By the names in 'metrics' of the results.")
    seconds: float = Field(default=0.0, description="Of the fit, wall-clock.")

    def describe(self) -> str:
        """What it is a record of."""
        place = self.task if self.dim is None else f"{self.task} in {self.dim} dimensions"
        return f"{self.method} on {place}, seed {self.seed}"


class Results(_Model):
    """Everything that a run's numbers depend on, and the numbers."""

    schema_version: int = SCHEMA_VERSION
    suite: str
    options: dict[str, Any] = Field(description="The validated suite with all command-line options applied.")
    sources: dict[str, str] = Field(default={}, description="Methods from outside this package: what they are.")
    protocol: dict[str, Any] = Field(description="Constants of the evaluation, with their version.")
    dataset: DatasetRecord | None = Field(default=None, description="Null where a suite has synthetic tasks only.")
    versions: dict[str, str]
    environment: dict[str, str | int]
    command: str
    started: str = Field(description="UTC, ISO 8601.")
    world_size: int = Field(description="Processes that took part.")
    metrics: dict[str, Metric] = Field(default=METRICS, description="Units and directions.")
    records: list[Record] = []
    alignment: list[AlignmentRecord] = Field(default=[], description="Of the synthetic tasks.")

    def failed(self) -> list[Record | AlignmentRecord]:
        """Records without results."""
        every: list[Record | AlignmentRecord] = [*self.records, *self.alignment]
        return [record for record in every if record.status == "failed"]


def check_run_folder(folder: Path, *, overwrite: bool) -> None:
    """Check, changing nothing, that a run may go into the folder.

    Args:
        folder: Need not exist.
        overwrite: Whether an earlier run in it may be replaced.

    Raises:
        RunFolderError: it exists and is not empty (without ``overwrite``), or holds something other than a run.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise RunFolderError(f"{folder} is a file; --output takes a folder")
        entries = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    except OSError as error:
        raise RunFolderError(f"cannot read {folder}: {error.strerror or error}") from error
    if entries and not overwrite:
        raise RunFolderError(f"{folder} exists and is not empty; choose another --output or add --overwrite")
    # A run that was killed before its first result has no results.json, yet holds nothing but a run's files.
    if RESULTS not in entries and not all(_is_ours(name) for name in entries):
        raise RunFolderError(f"{folder} holds no {RESULTS}: it is not a run, and --overwrite leaves it alone")


def _is_ours(name: str) -> bool:
    return name in _FILES or name in _FOLDERS or name.startswith(_TEMPORARY)


def check_resumable(folder: Path) -> None:
    """Check, changing nothing, that a run can go on in the folder: its results, where there are any, can be read.

    Raises:
        RunFolderError: there is no such folder, or it holds something other than a run.
    """
    if not folder.is_dir():
        raise RunFolderError(f"cannot resume {folder}: there is no such folder")
    if (folder / RESULTS).exists():
        read_results(folder)
    else:
        check_run_folder(folder, overwrite=True)


def check_models(folder: Path, results: Results) -> None:
    """Check that every method that finished left a whole file of weights.

    Raises:
        RunFolderError: one is missing or damaged; the text names it.
    """
    from safetensors import SafetensorError, safe_open

    for record in results.records:
        path = folder / "models" / f"{record.method}-seed{record.seed}" / "model.safetensors"
        try:
            if record.status == "ok":
                with safe_open(path, "np"):
                    pass
        except (SafetensorError, OSError) as error:
            raise RunFolderError(f"{path} is missing or damaged ({error})") from error


def create_run_folder(folder: Path, *, overwrite: bool) -> None:
    """Make the folder and prove that it can be written, before hours of training.

    Args:
        folder: Where results go; parents are made.
        overwrite: Whether an earlier run's files in it may be removed; other files stay.

    Raises:
        RunFolderError: see :func:`check_run_folder`; or it cannot be written.
    """
    check_run_folder(folder, overwrite=overwrite)
    try:
        if folder.is_dir():
            inside = [entry for name in _FOLDERS for entry in (folder / name).rglob("*")]
            for entry in [*(entry for entry in folder.iterdir() if _is_ours(entry.name)), *inside]:
                if entry.is_file():
                    entry.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / ".probe", lambda stream: stream.write(b"\0" * 4096))
        (folder / ".probe").unlink()
    except OSError as error:
        raise RunFolderError(f"cannot write {folder}: {error.strerror or error}") from error


def write_atomic(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file so that a crash leaves either the old one or the new one, whole.

    Args:
        path: Where the file ends up.
        write: Called with a binary stream.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_results(folder: Path, results: Results) -> None:
    """Write ``results.json`` atomically; numbers that are not finite are refused rather than written."""
    text = json.dumps(results.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"
    write_atomic(folder / RESULTS, lambda stream: stream.write(text.encode()))


def read_results(folder: Path) -> Results:
    """The results of a run folder.

    Raises:
        RunFolderError: not a run, or results of another form.
    """
    path = folder / RESULTS
    try:
        return Results.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RunFolderError(f"{folder} is not a run folder: cannot read {RESULTS} ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or RESULTS
        raise RunFolderError(f"{path} is not a results file: {key}: {first['msg']}") from error


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """The entries that JSON can hold: not-finite gauges of a collapsed run are dropped.

    Examples:
        >>> finite({"a": 1.0, "b": float("-inf"), "c": "healthy"})
        {'a': 1.0, 'c': 'healthy'}
    """
    return {key: v for key, v in values.items() if not isinstance(v, float) or math.isfinite(v)}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
