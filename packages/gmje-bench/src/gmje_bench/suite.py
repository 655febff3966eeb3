"""Suites say what to run; they are read from TOML files and validated to the last key. Free of torch."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gmje_bench.errors import BenchError, OptionError, SuiteError, did_you_mean
from gmje_bench.methods import check_methods
from gmje_bench.methods.settings import with_settings
from gmje_bench.tasks import TASKS

__all__ = [
    "BACKBONES",
    "RIVALS",
    "SYNTHETIC_TASKS",
    "MixedPrecision",
    "Network",
    "Suite",
    "Synthetic",
    "Training",
    "check_precision",
    "load_suite",
    "suite_names",
]

MixedPrecision = Literal["no", "bf16", "fp16"]
Positive = Annotated[int, Field(ge=1)]

#: The names that ``gmje_core.models.backbones.backbone_names`` gives, written out so that torch is not needed.
BACKBONES = ("smallconv", "resnet18", "resnet34", "resnet50")
#: The names of the tasks and rivals in ``gmje_bench.alignment``, written out for the same reason.
SYNTHETIC_TASKS = ("mixture", "inverse-sine", "crossing", "two-moons", "pinwheel", "ring", "band", "robot-arm")
RIVALS = ("mse", "gje", "gmje", "mdn")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Network(_Strict):
    """The encoder, the same for every method.

    Attributes:
        backbone: A name that ``gmje_core.models.backbones.build_backbone`` takes.
        small_images: A ResNet stem for images of about 32 pixels.
        hidden: Width of the projection head.
        dim: Embedding size.
        layers: Number of linear layers of the projection head.
    """

    backbone: str = "resnet18"
    small_images: bool = False
    hidden: Positive = 2048
    dim: Positive = 128
    layers: Positive = 2

    @field_validator("backbone")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in BACKBONES and not name.startswith("timm:"):
            raise ValueError(f"unknown backbone {name!r}{did_you_mean(name, [*BACKBONES, 'timm:NAME'])}")
        return name


class Training(_Strict):
    """The budget and the optimiser, the same for every method.

    Attributes:
        epochs: Number of passes over the training images.
        batch_size: Number of images in a global batch, over all processes.
        optimizer: ``adamw`` or ``sgd`` (momentum 0.9).
        learning_rate: Learning rate at the end of the warm-up; a cosine takes it to zero.
        weight_decay: Weight decay of all parameters but biases and those of normalisation and density.
        warmup_steps: Number of steps of the linear warm-up.
        mixed_precision: ``no``, ``bf16`` or ``fp16``; densities stay in float32.
        workers: Number of processes that decode images of folders and tables.
        mixed_evaluation: Whether features that tasks see are computed in the mixed precision of training too.
        online_probe: Whether a linear classifier of detached features is trained along, which changes no other number.
    """

    epochs: Positive = 100
    batch_size: Annotated[int, Field(ge=2)] = 256
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    mixed_precision: MixedPrecision = "no"
    workers: Annotated[int, Field(ge=0)] = 0
    mixed_evaluation: bool = False
    online_probe: bool = False


def _choice(name: str, kind: str, choices: tuple[str, ...]) -> str:
    if name not in choices:
        raise ValueError(f"unknown {kind} {name!r}{did_you_mean(name, choices)}")
    return name


class Synthetic(_Strict):
    """Conditional densities on fixed embeddings, measured against a known truth.

    Attributes:
        tasks: Names in :data:`SYNTHETIC_TASKS`.
        methods: Names in :data:`RIVALS`.
        dims: Sizes that both views are lifted to; 0 for the tasks' own one or two dimensions.
        samples: Number of training pairs; lifted tasks get two and a half times as many.
        epochs: Number of epochs of the networks.
    """

    tasks: Annotated[list[str], Field(min_length=1)] = list(SYNTHETIC_TASKS)
    methods: Annotated[list[str], Field(min_length=1)] = list(RIVALS)
    dims: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    samples: Annotated[int, Field(ge=100)] = 20_000
    epochs: Positive = 20

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, names: list[str]) -> list[str]:
        return [_choice(name, "task", SYNTHETIC_TASKS) for name in names]

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, names: list[str]) -> list[str]:
        return [_choice(name, "method", RIVALS) for name in names]

    @field_validator("dims")
    @classmethod
    def _room(cls, dims: list[int]) -> list[int]:
        for dim in dims:
            if dim == 1:
                raise ValueError("tasks are lifted to at least 2 dimensions (0 leaves their own)")
        return dims


class Suite(_Strict):
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
        training: See :class:`Training`.
        method: The full settings of every method, by its name; a file holds only what differs from
            ``gmje_bench/methods/settings.toml``.
        synthetic: See :class:`Synthetic`.
    """

    summary: str
    dataset: str | None = None
    methods: list[str] = []
    tasks: list[str] = ["linear_probe", "knn"]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    limit: Positive | None = None
    held_out_classes: list[str] = []
    image_size: Positive | None = None
    network: Network = Network()
    training: Training = Training()
    method: dict[str, dict[str, str | int | float | bool]] = {}
    synthetic: Synthetic | None = None

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, names: list[str]) -> list[str]:
        return [_choice(name, "task", tuple(TASKS)) for name in names]

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
        return _validated(values, None)

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


def check_precision(name: str) -> MixedPrecision:
    """A precision by its name.

    Raises:
        OptionError: there is no such precision.

    Examples:
        >>> check_precision("bf16")
        'bf16'
    """
    for known in get_args(MixedPrecision):
        if known == name:
            found: MixedPrecision = known
            return found
    raise OptionError(f"--mixed-precision must be no, bf16 or fp16, got {name!r}")


def suite_names() -> list[str]:
    """Names of the suites in the package.

    Examples:
        >>> suite_names()
        ['all', 'sampling', 'smoke', 'synthetic', 'vision']
    """
    folder = resources.files("gmje_bench") / "suites"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


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
    if name.endswith(".toml"):
        try:
            content = Path(name).expanduser().read_bytes()
        except OSError as error:
            raise SuiteError(f"cannot read the suite file {name}: {error.strerror or error}") from error
    elif name in suite_names():
        content = (resources.files("gmje_bench") / "suites" / f"{name}.toml").read_bytes()
    else:
        raise SuiteError(f"unknown suite {name!r}{did_you_mean(name, suite_names())}")
    try:
        values = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuiteError(f"suite {name} is not valid TOML: {error}") from error
    return _validated(values, f"suite {name}")


def _validated(values: dict[str, Any], source: str | None) -> Suite:
    """Validate a suite; errors name a key of ``source``, or an option of the command line where there is no source."""
    kind: type[BenchError] = OptionError if source is None else SuiteError
    prefix = "" if source is None else f"{source}: "
    try:
        suite = Suite.model_validate(values)
    except ValidationError as error:
        raise kind(prefix + _explain(error, options=source is None)) from error
    check_methods([*suite.methods, *suite.method])
    for key in ("methods", "tasks"):
        if suite.dataset is not None and not getattr(suite, key):
            raise kind(f"{prefix}{key if source else '--' + key}: at least one is needed")
    lists: dict[str, list[Any]] = {
        key: getattr(suite, key) for key in ("methods", "tasks", "seeds", "held_out_classes")
    }
    if suite.synthetic:
        lists |= {f"synthetic.{key}": getattr(suite.synthetic, key) for key in ("methods", "tasks", "dims")}
    for key, chosen in lists.items():
        if len(set(chosen)) < len(chosen):
            key = key if source else key.removeprefix("synthetic.")
            key = f"--{key.replace('_', '-')}" if source is None else key
            raise kind(f"{prefix}{key} must not repeat, got {', '.join(map(str, chosen))}")
    return suite if suite.dataset is None else suite.model_copy(update={"method": with_settings(suite.method)})


def _explain(error: ValidationError, *, options: bool) -> str:
    """The first mistake, in one line that names the key and what would be right."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if place[:1] == ["method"]:
        place = place[:3]  # The rest of the place names the types that an option may have.
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        sections: dict[str, type[BaseModel]] = {"network": Network, "training": Training, "synthetic": Synthetic}
        fields = (sections.get(place[0], Suite) if len(place) > 1 else Suite).model_fields
        return f"unknown key {key!r}{did_you_mean(place[-1], fields)}"
    if first["type"] == "missing":
        return f"missing key {key!r}"
    if options:  # the keys that the command line sets are top-level or in a section, and lists have numbered entries
        key = next((part for part in place if part not in ("network", "training", "synthetic")), "")
        key = "--" + {"samples": "limit"}.get(key, key).replace("_", "-")
    if len(place) == 3 and place[0] == "method":
        return f"{key} must be a number, a text, true or false, got {first['input']!r}"
    if first["type"] == "value_error":
        return f"{key}: {first['ctx']['error']}" if place else str(first["ctx"]["error"])
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}"
