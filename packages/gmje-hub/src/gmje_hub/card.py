"""What goes with a model: its card, its results for machines, its figures.

The card says what a model is, how it was trained and measured, and how to use it.
A card that this module wrote ends with a seal, the hash of its text. Without a seal, or with one that its text does
not fit, a card was written or changed by hand, and a push leaves it alone.
"""

import hashlib
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from jinja2 import Environment, StrictUndefined
from scipy import stats

from gmje_core.models.config import GMJEConfig
from gmje_core.models.preprocessing import Preprocessing
from gmje_hub.errors import CorruptModelError, HubError, ModelNotFoundError
from gmje_hub.folder import LARGEST_DOCUMENT, README, read_bounded

__all__ = [
    "DOCUMENTS",
    "EVAL_RESULTS",
    "FIGURES",
    "Evaluation",
    "documents",
    "is_generated",
    "model_card",
    "read_evaluation",
]

#: The results for machines: entries that the Hub shows, and collects into leaderboards.
EVAL_RESULTS = ".eval_results/gmje-bench.yaml"
#: Figures of a run that its models bring along.
FIGURES = ("accuracy.png", "diagnostics.png")
#: Every name that :func:`documents` gives.
DOCUMENTS = (README, EVAL_RESULTS, *FIGURES)

_RESULTS = "results.json"
_LARGEST_RESULTS = 2**27
# The first and last bytes of every PNG file.
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_SCHEMA_VERSION = 2
_SEAL = "\n<!-- written by gmje-hub; sha256 {} -->\n"


@dataclass(frozen=True)
class Score:
    """A metric of the method over its seeds.

    Attributes:
        key: Its name in the results.
        title: Words.
        unit: Empty for a pure number.
        headline: Whether short tables show it.
        values: One a seed; the published seed's first.
    """

    key: str
    title: str
    unit: str
    headline: bool
    values: tuple[float, ...]

    @property
    def text(self) -> str:
        """Mean and 95 % Student t interval; the value alone of one seed."""
        mean = sum(self.values) / len(self.values)
        if len(self.values) < 2:
            return f"{mean:.3g}" if abs(mean) < 10 else f"{mean:.1f}"
        n = len(self.values)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in self.values) / (n - 1))
        half = float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
        return f"{mean:.1f} ± {half:.1f}" if abs(mean) >= 10 else f"{mean:.3g} ± {half:.2g}"


@dataclass(frozen=True)
class Evaluation:
    """What a run says of one trained model.

    Attributes:
        method: Its name there.
        seed: Of the weights that are published.
        seeds: How many seeds the intervals are over.
        dataset: What it was trained and measured on, as the results describe it.
        dataset_id: Its name on the Hub, or one that no dataset there has.
        protocol_version: Of the measures.
        command: That trained it.
        versions: Of the packages.
        scores: Every metric.
        diagnostics: Gauges of the density after the last epoch.
        training: Options of the training.
        date: When the run started, ISO 8601.
        figures: PNG files by name.
    """

    method: str
    seed: int
    seeds: int
    dataset: Mapping[str, Any]
    dataset_id: str
    protocol_version: int
    command: str
    versions: Mapping[str, str]
    scores: tuple[Score, ...]
    diagnostics: Mapping[str, float | str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    date: str = ""
    figures: Mapping[str, bytes] = field(default_factory=dict)


def read_evaluation(run: Path, method: str, seed: int) -> Evaluation:
    """What the results of a run folder say of a method's model.

    Args:
        run: With ``results.json``, as the harness writes it.
        method: Its name.
        seed: Whose weights are published.

    Raises:
        ModelNotFoundError: no results, or none of that method and seed.
        CorruptModelError: results that cannot be read.
    """
    path = run / _RESULTS
    try:
        results = json.loads(read_bounded(path, _LARGEST_RESULTS))
        version = results["schema_version"]
        if version != _SCHEMA_VERSION:
            raise CorruptModelError(f"{path} has schema version {version}; this version reads {_SCHEMA_VERSION}")
        records = [r for r in results["records"] if r["method"] == method and r["status"] == "ok"]
        own = next((r for r in records if r["seed"] == seed), None)
        if own is None:
            raise ModelNotFoundError(f"{path} has no result of {method} with seed {seed}")
        ordered = [own, *(r for r in records if r is not own)]
        scores = tuple(
            Score(key, info["title"], info["unit"], info["headline"], tuple(float(r["metrics"][key]) for r in ordered))
            for key, info in results["metrics"].items()
            if all(key in r["metrics"] for r in ordered)
        )
        dataset = _without_folder(str(results["dataset"]["name"]))
        last = own["history"][-1] if own["history"] else {}
        return Evaluation(
            method=method,
            seed=seed,
            seeds=len(ordered),
            dataset=results["dataset"] | {"name": dataset},
            dataset_id=_dataset_id(dataset, whole=results["options"]["limit"] is None),
            protocol_version=int(results["protocol"]["version"]),
            command=_published_command(str(results["command"])),
            versions=dict(results["versions"]),
            scores=scores,
            diagnostics=dict(last),
            training=dict(results["options"]["training"]),
            date=str(results["started"]),
            figures={name: _read_figure(run / name) for name in FIGURES if (run / name).exists()},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, HubError):
            raise
        raise CorruptModelError(f"{path} is not a run's results: {type(error).__name__} {error}") from error


def documents(
    config: GMJEConfig, repo_id: str, preprocessing: Preprocessing | None, evaluation: Evaluation | None = None
) -> dict[str, bytes | None]:
    """Everything that goes with a model, by name in its repository; ``None`` for what another model may have left.

    Args:
        config: Of the model.
        repo_id: Where it will be.
        preprocessing: Of its images, where it is known.
        evaluation: What was measured, if anything was.

    Examples:
        >>> found = documents(GMJEConfig(), "org/name", None)
        >>> [name for name, content in found.items() if content is not None]
        ['README.md']
    """
    return {
        README: model_card(config, repo_id, preprocessing, evaluation).encode(),
        EVAL_RESULTS: _entries(evaluation).encode() if evaluation else None,
        **{name: evaluation.figures.get(name) if evaluation else None for name in FIGURES},
    }


def model_card(
    config: GMJEConfig,
    repo_id: str,
    preprocessing: Preprocessing | None = None,
    evaluation: Evaluation | None = None,
) -> str:
    """The text of a card, with metadata that a Hub indexes.

    Args:
        config: Of the model.
        repo_id: Where it will be.
        preprocessing: Of its images, where it is known.
        evaluation: What was measured; without it the card says that nothing was.

    Examples:
        >>> card = model_card(GMJEConfig(), "org/name")
        >>> card.splitlines()[0], is_generated(card), is_generated(card.replace("org", "me"))
        ('---', True, False)
    """
    data = ModelCardData(
        license="apache-2.0",
        library_name="gmje",
        pipeline_tag="image-feature-extraction",
        tags=["self-supervised-learning", "gaussian-joint-embeddings", "density-estimation", "arxiv:2603.26799"],
        model_name=repo_id if evaluation else None,
        eval_results=_eval_results(evaluation) if evaluation else None,
    )
    template = resources.files("gmje_hub") / "card.md.j2"
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = _cell
    text = environment.from_string(template.read_text(encoding="utf-8")).render(
        metadata=data.to_yaml(), config=config, repo_id=repo_id, preprocessing=preprocessing, evaluation=evaluation
    )
    return text.rstrip("\n") + "\n" + _SEAL.format(_hash(text))


def is_generated(card: str) -> bool:
    """Whether a card is just as :func:`model_card` wrote it."""
    found = re.fullmatch(r"(.*)\n<!-- written by gmje-hub; sha256 ([0-9a-f]{64}) -->\n", card, re.DOTALL)
    return found is not None and _hash(found[1]) == found[2]


def _hash(text: str) -> str:
    return hashlib.sha256((text.rstrip("\n") + "\n").encode()).hexdigest()


def _eval_results(evaluation: Evaluation) -> list[EvalResult]:
    """Headline scores of the published weights themselves: a mean over seeds is no property of one file."""
    return [
        EvalResult(
            task_type="image-feature-extraction",
            dataset_type=evaluation.dataset_id,
            dataset_name=str(evaluation.dataset["name"]),
            dataset_split="test",
            metric_type="accuracy",
            metric_name=f"{score.title} accuracy [%]",
            metric_value=round(score.values[0], 2),
        )
        for score in evaluation.scores
        if score.key in ("linear_probe", "knn")
    ]


def _entries(evaluation: Evaluation) -> str:
    """Headline scores of the published weights, in the Hub's form for results of benchmarks."""
    notes = (
        f"gmje-bench protocol version {evaluation.protocol_version}; seed {evaluation.seed}; "
        f"{evaluation.dataset['test']} test images of the data with SHA-256 {evaluation.dataset['fingerprint']}"
    )
    entries = [
        EvalResultEntry(evaluation.dataset_id, score.key, score.values[0], date=evaluation.date, notes=notes)
        for score in evaluation.scores
        if score.headline
    ]
    return str(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True))


# Data that others provide, under the Hub's names for the same.
_ON_THE_HUB = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
}


def _dataset_id(name: str, *, whole: bool) -> str:
    """A part of a dataset, or one of the user's own, must not stand on the leaderboard of another."""
    if whole and name.startswith("hf:"):
        return name.removeprefix("hf:")
    if whole and name in _ON_THE_HUB:
        return _ON_THE_HUB[name]
    return f"gmje-bench/{re.sub(r'[^A-Za-z0-9_.-]+', '-', name).strip('-')}"


# Options of a run that change where its results go, and nothing in them.
_ELSEWHERE = {"--output": 1, "--publish": 1, "--track": 1, "--jobs": 1, "--resume": 0, "--overwrite": 0, "--profile": 0}


def _published_command(command: str) -> str:
    """What trained a model, without what is only of the machine that it was trained on.

    Examples:
        >>> _published_command("python -m gmje_bench run --output '/home/me/my x' --dataset imagefolder:/home/me/cats")
        'python -m gmje_bench run --dataset imagefolder:cats'
    """
    words, kept = iter(shlex.split(command)), []
    for word in words:
        name, _, value = word.partition("=")
        if name not in _ELSEWHERE:
            kept.append(_without_folder(word))
        elif not value and _ELSEWHERE[name]:
            next(words, None)
    return shlex.join(kept)


def _without_folder(name: str) -> str:
    """A name in which an absolute path is only its last part: whose folders they are is nobody's business.

    Examples:
        >>> _without_folder("imagefolder:/home/me/cats"), _without_folder("hf:org/data"), _without_folder("a/b.toml")
        ('imagefolder:cats', 'hf:org/data', 'a/b.toml')
    """
    return re.sub(r"(^|[:=])[/~][^:=]*/(?=[^/])", r"\1", name)


def _read_figure(path: Path) -> bytes:
    content = read_bounded(path, LARGEST_DOCUMENT)
    if not content.startswith(_PNG) or not content.endswith(_PNG_END):
        raise CorruptModelError(f"{path} is not a whole PNG file")
    return content


def _cell(value: Any) -> str:
    """Text that stays in its cell of a table."""
    return str(value).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
