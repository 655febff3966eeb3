"""Suites say what to run; they are read from TOML files and validated to the last key. Free of torch."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from gmje_bench.errors import BenchError, OptionError, SuiteError, did_you_mean
from gmje_bench.methods import check_methods
from gmje_bench.methods.settings import with_settings
from gmje_bench.suites.files import read_suite
from gmje_bench.suites.sections import Network, Positive, Strict, Synthetic, Training, Views, choice
from gmje_bench.tasks import TASKS

__all__ = ["SECTIONS", "Suite", "load_suite", "validated"]

#: The sections of a suite, except for the settings of methods, whose keys are the methods' own.
SECTIONS: dict[str, type[Strict]] = {"network": Network, "views": Views, "training": Training, "synthetic": Synthetic}


class Suite(BaseModel):
    """A validated suite: methods trained on images and evaluated by tasks, or synthetic tasks, or both.

    Attributes:
        summary: One line for ``list``.
        dataset: A name that ``gmje_bench.datasets.load_dataset`` takes; missing where all tasks are synthetic.
        methods: What is compared, in the order of running.
        tasks: What trained encoders are measured by.
        seeds: The seeds; every method is trained once with each.
        limit: Largest number of training images.
        held_out_classes: Names of classes that nothing is trained, fitted or probed on; the task ``outliers`` takes
            their test images as outliers.
        image_size: Side in pixels of the images that networks see; where missing, the side of the dataset's images.
        network: See :class:`Network`.
        views: See :class:`Views`.
        training: See :class:`Training`.
        method: The full settings of every method, by its name; a file holds only what differs from
            ``gmje_bench/methods/settings.toml``.
        synthetic: See :class:`Synthetic`.
    """

    model_config = Strict.model_config

    summary: str
    dataset: str | None = None
    methods: list[str] = []
    tasks: list[str] = ["linear_probe", "knn"]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    limit: Positive | None = None
    held_out_classes: list[str] = []
    image_size: Positive | None = None
    network: Network = Network()
    views: Views = Views()
    training: Training = Training()
    method: dict[str, dict[str, str | int | float | bool]] = {}
    synthetic: Synthetic | None = None

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, names: list[str]) -> list[str]:
        return [choice(name, "task", tuple(TASKS)) for name in names]

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.dataset is None and self.synthetic is None:
            raise ValueError("a suite needs a dataset or a [synthetic] section")
        if self.dataset is None and self.methods:
            raise ValueError("methods are trained on a dataset, and there is none")
        if self.dataset is None and self.held_out_classes:
            raise ValueError("held_out_classes are classes of a dataset, and there is none")
        return self

    def replace(self, **changes: Any) -> "Suite":
        """A validated copy with top-level, ``network`` or ``training`` keys changed; ``None`` changes nothing.

        Args:
            **changes: New values by key; keys are unique over the three levels.

        Raises:
            OptionError: a value is out of range; the message names the option of the command line that gives it.

        Examples:
            >>> load_suite("vision").replace(epochs=2, methods=None).training.epochs
            2
            >>> load_suite("vision").replace(batch_size=1)
            Traceback (most recent call last):
            ...
            gmje_bench.errors.OptionError: --batch-size: input should be greater than or equal to 2, got 1
        """
        values = self.model_dump()
        for key, value in changes.items():
            if value is None:
                continue
            self._section(values, key)[_SYNTHETIC_KEYS.get(key, key) if self.dataset is None else key] = value
        return validated(values, "options")

    def _section(self, values: dict[str, Any], key: str) -> dict[str, Any]:
        """The section that a key belongs to; a suite without images has only the synthetic one."""
        if self.dataset is None and key != "seeds":
            if key not in _SYNTHETIC_KEYS:
                raise OptionError(f"--{key.replace('_', '-')} means nothing where all tasks are synthetic")
            synthetic: dict[str, Any] = values["synthetic"]
            return synthetic
        section = next((s for s in ("network", "training") if key in values[s]), None)
        found: dict[str, Any] = values[section] if section else values
        return found


#: Options of the command line that a suite of synthetic tasks takes, and what it calls them.
_SYNTHETIC_KEYS = {"tasks": "tasks", "methods": "methods", "epochs": "epochs", "limit": "samples"}


def load_suite(name: str) -> Suite:
    """Load a suite by its name, or from a path that ends in ``.toml``.

    Raises:
        SuiteError: the suite is unknown or unreadable, or a key is unknown or out of range; the message names it.

    Examples:
        >>> load_suite("vision").dataset
        'fashion_mnist_12k'
        >>> load_suite("vison")
        Traceback (most recent call last):
        ...
        gmje_bench.errors.SuiteError: unknown suite 'vison'; did you mean vision? ...
    """
    return validated(read_suite(name), "file", f"suite {name}: ")


Source = Literal["file", "options", "settings"]
# How a key is named to who wrote it: in a file, as an option of the command line, and in --set.
_NAMES: dict[Source, Callable[[str], str]] = {
    "file": lambda key: key,
    "options": lambda key: "--" + {"samples": "limit"}.get(key.split(".")[-1], key.split(".")[-1]).replace("_", "-"),
    "settings": lambda key: f"--set {key}",
}


def validated(values: dict[str, Any], source: Source, prefix: str = "") -> Suite:
    """Validate a suite.

    Args:
        values: The suite as plain data.
        source: Where the values were changed last; mistakes are named as they are written there.
        prefix: What messages begin with.

    Raises:
        SuiteError: a key of a file is unknown or out of range.
        OptionError: an option or a setting of the command line is, or a method is unknown.
    """
    kind: type[BenchError] = SuiteError if source == "file" else OptionError
    named = _NAMES[source]
    try:
        suite = Suite.model_validate(values)
    except ValidationError as error:
        raise kind(prefix + _explain(error, named)) from error
    check_methods([*suite.methods, *suite.method])
    for key in ("methods", "tasks"):
        if suite.dataset is not None and not getattr(suite, key):
            raise kind(f"{prefix}{named(key)}: at least one is needed")
    lists: dict[str, list[Any]] = {
        key: getattr(suite, key) for key in ("methods", "tasks", "seeds", "held_out_classes")
    }
    if suite.synthetic:
        lists |= {f"synthetic.{key}": getattr(suite.synthetic, key) for key in ("methods", "tasks", "dims")}
    for key, chosen in lists.items():
        if len(set(chosen)) < len(chosen):
            raise kind(f"{prefix}{named(key)} must not repeat, got {', '.join(map(str, chosen))}")
    return suite if suite.dataset is None else suite.model_copy(update={"method": with_settings(suite.method)})


def _explain(error: ValidationError, named: Callable[[str], str]) -> str:
    """The first mistake, in one line that names the key and what would be right."""
    first = error.errors()[0]
    # The rest of a place names the entry of a list, or the types that a value may have.
    depth = 3 if first["loc"][:1] == ("method",) else 2 if first["loc"][:1] and first["loc"][0] in SECTIONS else 1
    place = [str(part) for part in first["loc"]][:depth]
    key = ".".join(place)
    model: type[BaseModel] = SECTIONS.get(place[0], Suite) if len(place) > 1 else Suite
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{did_you_mean(place[-1], model.model_fields)}"
    if first["type"] == "missing":
        return f"missing key {key!r}"
    key = named(key)
    if len(place) == 3:
        return f"{key} must be a number, a text, true or false, got {first['input']!r}"
    if first["type"] == "value_error":
        return f"{key}: {first['ctx']['error']}" if place else str(first["ctx"]["error"])
    limits = _limits(model, place[-1])
    # pydantic's message names one end of the range, or none where the type is wrong.
    allowed = (
        f" (allowed: {' and '.join(limits)})" if len(limits) > 1 or (limits and "than" not in first["msg"]) else ""
    )
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}{allowed}"


def _limits(model: type[BaseModel], field: str) -> list[str]:
    """The ends of the range that the numbers of a field lie in.

    Examples:
        >>> _limits(Views, "hue"), _limits(Training, "optimizer")
        (['>= 0', '<= 0.5'], [])
    """
    schema = model.model_json_schema()["properties"][field]
    parts = [schema, *schema.get("anyOf", [])]
    parts += [part["items"] for part in parts if "items" in part]
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return [f"{sign} {part[name]:g}" for name, sign in signs.items() for part in parts if name in part]
