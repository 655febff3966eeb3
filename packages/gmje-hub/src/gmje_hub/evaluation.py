"""What was measured of a model: a typed value, and the folder ``evaluation`` beside the weights that holds it.

The program that trained and measured a model writes the folder, with :func:`write_evaluation`. A card shows the numbers
as they are: nothing is computed here, neither means nor intervals.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from gmje_core.errors import ConfigError
from gmje_core.files import write_atomic
from gmje_core.strict_json import StrictForm
from gmje_hub.errors import CorruptModelError
from gmje_hub.folder import LARGEST_DOCUMENT, parse_file, read_bounded

__all__ = [
    "EVALUATION",
    "SCORES",
    "Calibration",
    "Dataset",
    "Evaluation",
    "Score",
    "check_picture",
    "read_evaluation",
    "write_evaluation",
]

#: Folder of a model's folder or repository that holds what was measured; a push replaces all of it.
EVALUATION = "evaluation"
#: The file in it that :meth:`Evaluation.to_json` gives; pictures lie beside it.
SCORES = f"{EVALUATION}/scores.json"
#: Version of the JSON form; a change of meaning changes it.
SCHEMA_VERSION = 1

_LONGEST_TEXT = 10_000
_FIGURE_NAME = re.compile(r"\w[\w.-]*\.png", re.ASCII)
# The first and last bytes of every PNG file.
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"


@dataclass(frozen=True, kw_only=True)
class Score(StrictForm):
    """One metric of a model.

    Args:
        metric: Name of the metric for machines, such as ``linear_probe``.
        title: Name of the metric for people.
        value: Value that the weights in the folder reach.
        higher_is_better: Whether larger values are better.
        unit: Unit of all three numbers; empty for a pure number.
        mean: Mean over seeds of the method that trained the weights; ``None`` where there is none.
        half_width: Half of the width of the 95 % interval of ``mean``; ``None`` where there is none.
        seeds: Number of seeds that ``mean`` is over.
        kind: What the Hub calls metrics of this kind, such as ``accuracy``; empty keeps the score out of the metadata
            by which the Hub finds models.
        headline: Whether the score is one of the few that stand for the model.

    Raises:
        ConfigError: a value of the wrong type, a number that is not finite, or a text of several lines.

    Examples:
        >>> Score(metric="knn", title="kNN", value=85.25, higher_is_better=True, unit="%", mean=85.0, half_width=1.5,
        ...       seeds=3).interval
        '85.0 ± 1.5'
    """

    metric: str
    title: str
    value: float
    higher_is_better: bool
    unit: str = ""
    mean: float | None = None
    half_width: float | None = None
    seeds: int = 1
    kind: str = ""
    headline: bool = False
    what: ClassVar[str] = "a score"

    def __post_init__(self) -> None:
        self.check_types()
        check_values(self)

    @property
    def interval(self) -> str:
        """Mean and interval for a table; empty where there is no mean."""
        if self.mean is None:
            return ""
        if self.half_width is None:
            return f"{self.mean:.1f}" if abs(self.mean) >= 10 else f"{self.mean:.3g}"
        if abs(self.mean) >= 10:
            return f"{self.mean:.1f} ± {self.half_width:.1f}"
        return f"{self.mean:.3g} ± {self.half_width:.2g}"


@dataclass(frozen=True, kw_only=True)
class Dataset(StrictForm):
    """The images that a model was trained and measured on.

    Args:
        name: Name of the dataset for people.
        hub_id: Name of the dataset on the Hub; empty where it is not there, or was used in part only.
        fingerprint: SHA-256 of what was read.
        train: Number of images for training.
        test: Number of images for testing.
        classes: Number of classes.

    Raises:
        ConfigError: a value of the wrong type, or a text of several lines.
    """

    name: str
    hub_id: str
    fingerprint: str
    train: int
    test: int
    classes: int
    what: ClassVar[str] = "a dataset"

    def __post_init__(self) -> None:
        self.check_types()
        check_values(self)


@dataclass(frozen=True, kw_only=True)
class Calibration(StrictForm):
    """Whether the regions of a model's conditional density hold what they say.

    Args:
        level: Share of its own samples that a region of highest density holds.
        coverage: Share of the test pairs whose other view lies in that region; equal to ``level`` where the density is
            calibrated.
        pairs: Number of test pairs.
        error: Mean gap between nominal and actual coverage over all levels, between 0 and 0.5.
        factor: Factor that the conditional's covariances were multiplied by, chosen on a part of the training images.

    Raises:
        ConfigError: a value of the wrong type or out of range.

    Examples:
        >>> Calibration(level=0.9, coverage=0.894, pairs=1000, error=0.022).sentence
        'Of the 90 % regions of q(z_t | z_c), 89.4 % hold the other view (1000 test pairs); calibration error .022.'
    """

    level: float
    coverage: float
    pairs: int
    error: float
    factor: float = 1.0
    what: ClassVar[str] = "a calibration"

    def __post_init__(self) -> None:
        self.check_types()
        check_values(self)
        for name, low, high in (("level", 0, 1), ("coverage", 0, 1), ("error", 0, 0.5)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} must be between {low} and {high}, got {getattr(self, name)}")
        if self.pairs < 1:
            raise ConfigError(f"pairs must be at least 1, got {self.pairs}")
        if self.factor <= 0:
            raise ConfigError(f"factor must be above 0, got {self.factor}")

    @property
    def sentence(self) -> str:
        """What a card says of it."""
        words = (
            f"Of the {100 * self.level:.0f} % regions of q(z_t | z_c), {100 * self.coverage:.1f} % hold the other view "
            f"({self.pairs} test pairs); calibration error {self.error:.3f}".replace("error 0.", "error .")
        )
        if self.factor == 1:
            return f"{words}."
        return f"{words}, after its covariances were multiplied by {self.factor:g} on a part of the training images."


@dataclass(frozen=True, kw_only=True)
class Evaluation(StrictForm):
    """What was measured of one model, and how it was trained.

    Args:
        method: Name of the method that trained it.
        seed: Seed of the weights.
        dataset: The images.
        protocol: Name and version of the rules that the numbers were taken by.
        scores: One entry for each metric.
        command: The command line that trained it.
        date: When it was measured, ISO 8601.
        calibration: Whether the conditional density is as sure as it is right; ``None`` where this was not measured.
        note: A sentence that a reader must know of the numbers; empty where there is none.
        training: Options of the training, by their names for people.
        diagnostics: Gauges of the density after the training.
        versions: Versions of the packages.
        figures: Captions by the names of PNG files.
        schema_version: Version of the JSON form.

    Raises:
        ConfigError: a value of the wrong type or out of range.

    Examples:
        >>> evaluation = Evaluation(
        ...     method="gmje", seed=0, protocol="own, version 1", scores=(),
        ...     dataset=Dataset(name="d", hub_id="org/d", fingerprint="ab", train=10, test=2, classes=2))
        >>> Evaluation.from_json(evaluation.to_json()) == evaluation
        True
    """

    method: str
    seed: int
    dataset: Dataset
    protocol: str
    scores: tuple[Score, ...]
    command: str = ""
    date: str = ""
    calibration: Calibration | None = None
    note: str = ""
    training: dict[str, str | int | float | bool] = field(default_factory=dict)
    diagnostics: dict[str, str | float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    what: ClassVar[str] = "the evaluation"

    def __post_init__(self) -> None:
        self.check_types()
        if self.schema_version != SCHEMA_VERSION:
            raise ConfigError(
                f"schema_version {self.schema_version} is not the one this version reads ({SCHEMA_VERSION}); "
                "a newer gmje-hub may be needed"
            )
        if not all(type(score) is Score for score in self.scores):
            raise ConfigError(f"scores must be of type Score, got {self.scores!r}")
        for name in ("training", "diagnostics", "versions", "figures"):
            values = getattr(self, name)
            if not all(type(key) is str and type(value) in (str, int, float, bool) for key, value in values.items()):
                raise ConfigError(f"{name} must map names to texts, numbers, true or false, got {values!r}")
            # A copy, because the caller's dictionary may change; sorted, because the JSON form is.
            object.__setattr__(self, name, dict(sorted(values.items())))
        check_values(self)
        for name in self.figures:
            if not _FIGURE_NAME.fullmatch(name):
                raise ConfigError(f"figures must have names such as accuracy.png, got {name!r}")

    @property
    def seeds(self) -> int:
        """Number of seeds that the means are over; 1 where there are no means."""
        return max((score.seeds for score in self.scores if score.mean is not None), default=1)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The evaluation that :meth:`to_dict` described.

        Raises:
            ConfigError: an unknown key, a missing one, or a value out of range.
        """
        if isinstance(values, dict):
            values = dict(values)
            if "dataset" in values:
                values["dataset"] = Dataset.from_dict(values["dataset"])
            # Files of before calibrations were measured hold none.
            if values.setdefault("calibration", None) is not None:
                values["calibration"] = Calibration.from_dict(values["calibration"])
            if isinstance(values.get("scores"), list):
                values["scores"] = [Score.from_dict(score) for score in values["scores"]]
        return super().from_dict(values)


def check_values(form: StrictForm) -> None:
    """Check that all numbers of a form are finite, and that each of its texts is one line, as cells of tables are.

    Raises:
        ConfigError: one is not; the text names the field.
    """
    for name, found in vars(form).items():
        for value in [*found, *found.values()] if isinstance(found, dict) else [found]:
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{name} must be finite, got {value}")
            if isinstance(value, str) and (len(value) > _LONGEST_TEXT or value.splitlines() not in ([], [value])):
                raise ConfigError(f"{name} must be one line of at most {_LONGEST_TEXT} letters, got {value[:80]!r}")


def check_picture(place: str | Path, content: bytes) -> bytes:
    """The content of a PNG file, unless it is cut short or of another kind.

    Args:
        place: Name of the file, for the message.
        content: The whole content.

    Raises:
        CorruptModelError: it is not a whole PNG file.
    """
    if not content.startswith(_PNG_START) or not content.endswith(_PNG_END):
        raise CorruptModelError(f"{place} is not a whole PNG file")
    return content


def write_evaluation(folder: Path, evaluation: Evaluation, pictures: Mapping[str, bytes] | None = None) -> None:
    """Write what was measured beside a model, each file whole or not at all.

    Args:
        folder: The model's folder.
        evaluation: What was measured.
        pictures: PNG files by the names in ``evaluation.figures``.

    Raises:
        CorruptModelError: a picture is not a whole PNG file.
        OSError: the folder cannot be written.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> dataset = Dataset(name="d", hub_id="org/d", fingerprint="ab", train=10, test=2, classes=2)
        >>> write_evaluation(folder, Evaluation(method="m", seed=0, dataset=dataset, protocol="own", scores=()))
        >>> read_evaluation(folder)[0].method
        'm'
    """
    (folder / EVALUATION).mkdir(parents=True, exist_ok=True)
    for name in evaluation.figures:
        if name in (pictures or {}):
            write_atomic(folder / EVALUATION / name, check_picture(name, (pictures or {})[name]))
    write_atomic(folder / SCORES, evaluation.to_json().encode())


def read_evaluation(folder: Path) -> tuple[Evaluation, dict[str, bytes]] | None:
    """What was measured of the model in a folder, and its pictures by name; ``None`` where nothing was.

    A picture whose file is missing is left out.

    Raises:
        CorruptModelError: a file that is damaged, hostile or of another form; named.
    """
    if not (folder / EVALUATION).is_dir():
        return None
    if (folder / EVALUATION).is_symlink():
        raise CorruptModelError(f"{folder / EVALUATION} is not read: it is a link")
    if not os.path.lexists(folder / SCORES):
        return None
    evaluation = parse_file(folder / SCORES, Evaluation.from_json, LARGEST_DOCUMENT)
    paths = {name: folder / EVALUATION / name for name in evaluation.figures}
    pictures = {
        name: check_picture(path, read_bounded(path, LARGEST_DOCUMENT))
        for name, path in paths.items()
        if os.path.lexists(path)
    }
    return evaluation, pictures
