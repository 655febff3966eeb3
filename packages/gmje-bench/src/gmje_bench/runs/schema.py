"""The schema of ``results.json``: what a run records about every method and seed, and what its numbers depend on."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gmje_bench.runs.metrics import METRICS, Metric

__all__ = ["PRETRAINED", "SCHEMA_VERSION", "AlignmentRecord", "DatasetRecord", "Record", "Results"]

SCHEMA_VERSION = 2
#: The verdict of a model that a run did not train.
PRETRAINED = "pretrained"


class ResultsModel(BaseModel):
    """Base of all parts of the results; a key that the schema does not know is an error."""

    model_config = ConfigDict(extra="forbid")


class DatasetRecord(ResultsModel):
    """The dataset that a run read."""

    name: str
    fingerprint: str = Field(description="SHA-256 of what was read.")
    fingerprint_of: str = Field(
        default="content",
        description="What the fingerprint covers: the content, the names and sizes of files, or the sizes.",
    )
    train: int = Field(description="Number of training images.")
    test: int = Field(description="Number of test images.")
    classes: int
    class_names: list[str] = Field(default=[], description="Names in the order of the labels.")
    image_size: int = Field(description="Side of the images that networks see, in pixels.")


class Record(ResultsModel):
    """One method with one seed."""

    method: str
    seed: int
    status: Literal["ok", "failed"]
    error: str | None = Field(default=None, description="Why it failed, in one line.")
    metrics: dict[str, float] = Field(default={}, description="Values by the names in 'metrics' of the results.")
    choices: dict[str, float | str] = Field(
        default={}, description="What was chosen on validation data, and its score."
    )
    verdict: str | None = Field(
        default=None,
        description=f"Verdict of the diagnostics at the end of training; {PRETRAINED} for a model trained before.",
    )
    advice: str | None = None
    history: list[dict[str, float | str]] = Field(default=[], description="Loss and diagnostics after every epoch.")
    seconds: dict[str, float] = Field(default={}, description="Wall-clock seconds of every stage.")
    artifacts: str | None = Field(
        default=None, description="File of the run folder with the tensors that figures are drawn from."
    )
    peak_memory_mib: float | None = Field(
        default=None, description="Peak of the main process so far; on a GPU, peak of its allocator during this record."
    )

    def describe(self) -> str:
        """Words that name the method and the seed."""
        return f"{self.method} seed {self.seed}"


class AlignmentRecord(ResultsModel):
    """One method on one synthetic task with one seed."""

    task: str
    dim: int | None = Field(description="Size that both views are lifted to; null for the size of the task itself.")
    method: str = Field(description="'truth' is the noise floor: the truth measured against itself.")
    seed: int
    status: Literal["ok", "failed"] = "ok"
    error: str | None = Field(default=None, description="Why it failed, in one line.")
    metrics: dict[str, float] = Field(default={}, description="Values by the names in 'metrics' of the results.")
    seconds: float = Field(default=0.0, description="Wall-clock seconds of the fit.")

    def describe(self) -> str:
        """Words that name the method, the task and the seed."""
        place = self.task if self.dim is None else f"{self.task} in {self.dim} dimensions"
        return f"{self.method} on {place}, seed {self.seed}"


class Results(ResultsModel):
    """Everything that a run's numbers depend on, and the numbers."""

    schema_version: int = SCHEMA_VERSION
    suite: str
    options: dict[str, Any] = Field(description="The validated suite with all command-line options applied.")
    sources: dict[str, str] = Field(
        default={}, description="Where methods and tasks from outside this package come from."
    )
    protocol: dict[str, Any] = Field(description="Constants of the evaluation, with their version.")
    dataset: DatasetRecord | None = Field(default=None, description="Null for a suite of synthetic tasks only.")
    versions: dict[str, str]
    environment: dict[str, str | int]
    command: str
    started: str = Field(description="UTC, ISO 8601.")
    world_size: int = Field(description="Number of processes that took part.")
    metrics: dict[str, Metric] = Field(default=METRICS, description="Title, unit and direction of every metric.")
    records: list[Record] = []
    alignment: list[AlignmentRecord] = Field(default=[], description="Records of the synthetic tasks.")

    def failed(self) -> list[Record | AlignmentRecord]:
        """The records of methods that failed."""
        every: list[Record | AlignmentRecord] = [*self.records, *self.alignment]
        return [record for record in every if record.status == "failed"]
