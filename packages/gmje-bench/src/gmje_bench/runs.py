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
    "DatasetRecord",
    "Metric",
    "Record",
    "Results",
    "check_run_folder",
    "create_run_folder",
    "read_results",
    "write_atomic",
    "write_results",
]

RESULTS = "results.json"
_FILES = (RESULTS, "results.md", "accuracy.png", "diagnostics.png", "models")
# What write_atomic leaves where it is killed between its first byte and its last.
_TEMPORARY = (".probe", *(f".{name}." for name in _FILES[:-1]))
SCHEMA_VERSION = 1


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Metric(_Model):
    """What a number is."""

    title: str = Field(description="Words for tables and axes.")
    unit: str = Field(description="Empty for a pure number.")
    higher_is_better: bool


#: Every metric that a record may hold.
METRICS: dict[str, Metric] = {
    "linear_probe": Metric(title="linear probe", unit="%", higher_is_better=True),
    "knn": Metric(title="kNN", unit="%", higher_is_better=True),
    "effective_rank": Metric(title="effective rank", unit="", higher_is_better=True),
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
    image_size: int = Field(description="Side that networks see, in pixels.")


class Record(_Model):
    """One method with one seed."""

    method: str
    seed: int
    status: Literal["ok", "failed"]
    error: str | None = Field(default=None, description="Why it failed, in one line.")
    metrics: dict[str, float] = Field(default={}, description="By the names in 'metrics' of the results.")
    choices: dict[str, float] = Field(default={}, description="What was chosen on validation data, and its score.")
    verdict: str | None = Field(default=None, description="Of the diagnostics at the end of training.")
    advice: str | None = None
    history: list[dict[str, float | str]] = Field(default=[], description="Loss and diagnostics after every epoch.")
    seconds: dict[str, float] = Field(default={}, description="Wall-clock of every stage.")
    peak_memory_mib: float | None = Field(
        default=None, description="Of the main process so far; on a GPU, of its allocator during this record."
    )


class Results(_Model):
    """Everything that a run's numbers depend on, and the numbers."""

    schema_version: int = SCHEMA_VERSION
    suite: str
    options: dict[str, Any] = Field(description="The validated suite with all command-line options applied.")
    protocol: dict[str, Any] = Field(description="Constants of the evaluation, with their version.")
    dataset: DatasetRecord
    versions: dict[str, str]
    environment: dict[str, str | int]
    command: str
    started: str = Field(description="UTC, ISO 8601.")
    world_size: int = Field(description="Processes that took part.")
    metrics: dict[str, Metric] = Field(default=METRICS, description="Units and directions.")
    records: list[Record] = []

    def failed(self) -> list[Record]:
        """Records without results."""
        return [record for record in self.records if record.status == "failed"]


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
    if RESULTS not in entries and not all(name in _FILES or name.startswith(_TEMPORARY) for name in entries):
        raise RunFolderError(f"{folder} holds no {RESULTS}: it is not a run, and --overwrite leaves it alone")


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
            for entry in [*folder.iterdir(), *(folder / "models").glob("*.safetensors")]:
                if entry.is_file() and (
                    entry.parent != folder or entry.name in _FILES or entry.name.startswith(_TEMPORARY)
                ):
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
