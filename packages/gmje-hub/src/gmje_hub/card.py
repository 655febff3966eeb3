"""The documents that go with a model: its card, and what was measured for people, for machines and as pictures.

A card says what a model is, how it was trained and measured, and how to use it. A card that this module wrote ends
with a seal, the hash of its text. A card without a seal, or with a seal that does not fit its text, was written or
changed by hand, and a push leaves it alone.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from jinja2 import Environment, StrictUndefined

from gmje_core.models.config import GMJEConfig
from gmje_core.models.preprocessing import Preprocessing
from gmje_hub.errors import CardError
from gmje_hub.evaluation import EVALUATION, SCORES, Evaluation
from gmje_hub.folder import README
from gmje_hub.timm_layout import architecture

__all__ = ["EVAL_RESULTS", "check_metadata", "chosen_metadata", "documents", "is_generated", "model_card"]

#: The headline scores in the form that the Hub shows and collects into leaderboards.
EVAL_RESULTS = ".eval_results/gmje.yaml"

#: Fields of a card's metadata that only its author knows, so that the next card of the same model keeps them.
AUTHORS_FIELDS = ("license", "license_name", "license_link", "base_model", "language", "tags")

# The Hub's name of the task; the card carries it with its results only, because no pipeline of Transformers loads it.
_TASK = "image-feature-extraction"
_TAGS = ("self-supervised-learning", "gaussian-joint-embeddings", "density-estimation", "arxiv:2603.26799")
# What a result names as its dataset where the Hub has none.
_OWN_DATA = "custom"
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SEAL = "\n<!-- written by gmje-hub; sha256 {} -->\n"
_SEALED = re.compile(r"(.*)\n<!-- written by gmje-hub; sha256 ([0-9a-f]{64}) -->\n", re.DOTALL)


def documents(
    config: GMJEConfig,
    repo_id: str,
    preprocessing: Preprocessing | None,
    evaluation: Evaluation | None = None,
    pictures: Mapping[str, bytes] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dict[str, bytes | None]:
    """Everything that goes with a model, by name in its repository; ``None`` removes what another model may have left.

    Args:
        config: Configuration of the model.
        repo_id: Name of the repository that the card is for.
        preprocessing: How the model's images are presented, where it is known.
        evaluation: What was measured, if anything was.
        pictures: PNG files by the names in ``evaluation.figures``; a figure without its file is left out.
        metadata: Fields of the card's metadata, see :func:`model_card`.

    Raises:
        CardError: see :func:`model_card`.

    Examples:
        >>> found = documents(GMJEConfig(), "org/name", None)
        >>> [name for name, content in found.items() if content is not None]
        ['README.md']
    """
    if evaluation is None:
        card = model_card(config, repo_id, preprocessing, metadata=metadata)
        return {README: card.encode(), EVAL_RESULTS: None, SCORES: None}
    shown = {name: content for name, content in (pictures or {}).items() if name in evaluation.figures}
    evaluation = replace(evaluation, figures={name: evaluation.figures[name] for name in shown})
    return {
        README: model_card(config, repo_id, preprocessing, evaluation, metadata).encode(),
        EVAL_RESULTS: _leaderboard_entries(evaluation) if evaluation.dataset.hub_id else None,
        SCORES: evaluation.to_json().encode(),
        **{f"{EVALUATION}/{name}": content for name, content in shown.items()},
    }


def model_card(
    config: GMJEConfig,
    repo_id: str,
    preprocessing: Preprocessing | None = None,
    evaluation: Evaluation | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """The text of a card, with the metadata that the Hub finds models by.

    Args:
        config: Configuration of the model.
        repo_id: Name of the repository that the card is for; ``./NAME`` for a folder.
        preprocessing: How the model's images are presented, where it is known.
        evaluation: What was measured; without it the card says that nothing was.
        metadata: Fields that go into the card's metadata and that only its author knows, such as ``license``,
            ``base_model`` or ``language``; ``tags`` and ``datasets`` are added to those that are known anyway.

    Raises:
        CardError: a licence that is no identifier of the Hub, or metadata that YAML cannot hold.

    Examples:
        >>> card = model_card(GMJEConfig(), "org/name")
        >>> card.splitlines()[0], is_generated(card), is_generated(card.replace("org", "me"))
        ('---', True, False)
    """
    data = _metadata(repo_id, evaluation, check_metadata(metadata))
    template = resources.files("gmje_hub") / "card.md.j2"
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = _cell
    text = environment.from_string(template.read_text(encoding="utf-8")).render(
        metadata=data.to_yaml(),
        license=data.license,
        timm=architecture(config) is not None,
        config=config,
        repo_id=repo_id,
        title=repo_id.removeprefix("./"),
        preprocessing=preprocessing,
        evaluation=evaluation,
        evaluation_folder=EVALUATION,
    )
    return text.rstrip("\n") + "\n" + _SEAL.format(_hash(text))


def check_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The fields of a card's metadata, without those that are ``None``.

    Raises:
        CardError: a licence that is no identifier of the Hub, ``tags`` or ``datasets`` that are no lists of names, or
            a value that YAML cannot hold.

    Examples:
        >>> check_metadata({"license": "mit", "base_model": None})
        {'license': 'mit'}
        >>> check_metadata({"license": "Apache 2"})
        Traceback (most recent call last):
        ...
        gmje_hub.errors.CardError: 'Apache 2' is no licence of the Hub, which are written like apache-2.0, mit or other
    """
    fields = {name: value for name, value in (metadata or {}).items() if value is not None}
    license = fields.get("license")
    if license is not None and not (isinstance(license, str) and _LICENSE.fullmatch(license)):
        raise CardError(f"{license!r} is no licence of the Hub, which are written like apache-2.0, mit or other")
    for name in ("tags", "datasets"):
        values = fields.get(name, [])
        if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
            raise CardError(f"{name} of a card must be a list of names, got {values!r}")
    try:
        yaml.safe_dump(fields)
    except yaml.YAMLError as error:
        raise CardError(f"the metadata of a card must be plain values: {str(error).splitlines()[0]}") from error
    return fields


def chosen_metadata(card: str) -> dict[str, Any]:
    """The fields of a card's metadata that its author chose; empty where it cannot be read.

    Examples:
        >>> chosen_metadata(model_card(GMJEConfig(), "org/name", metadata={"license": "mit", "tags": ["mine"]}))
        {'license': 'mit', 'tags': ['mine']}
    """
    try:
        found: dict[str, Any] = vars(ModelCard(card).data)
    except (ValueError, yaml.YAMLError):
        return {}
    fields = {name: found[name] for name in AUTHORS_FIELDS if found.get(name)}
    fields["tags"] = [tag for tag in fields.get("tags", []) if tag not in _TAGS]
    return {name: value for name, value in fields.items() if value}


def is_generated(card: str) -> bool:
    """Whether a card is just as :func:`model_card` wrote it."""
    found = _SEALED.fullmatch(card)
    return found is not None and _hash(found[1]) == found[2]


def _hash(text: str) -> str:
    return hashlib.sha256((text.rstrip("\n") + "\n").encode()).hexdigest()


def _metadata(repo_id: str, evaluation: Evaluation | None, chosen: dict[str, Any]) -> ModelCardData:
    """The head of a card: what is known of every model, of this one's results, and what its author says."""
    results = _metadata_results(evaluation) if evaluation else []
    known = [evaluation.dataset.hub_id] if evaluation and evaluation.dataset.hub_id else []
    return ModelCardData(
        **{
            "library_name": "gmje",
            "metrics": sorted({result.metric_type for result in results}) or None,
            "model_name": repo_id.removeprefix("./") if results else None,
            "eval_results": results or None,
            **chosen,
            "tags": [*dict.fromkeys([*_TAGS, *chosen.get("tags", [])])],
            "datasets": [*dict.fromkeys([*known, *chosen.get("datasets", [])])] or None,
        }
    )


def _metadata_results(evaluation: Evaluation) -> list[EvalResult]:
    """The scores that the Hub has a name for, of these weights alone: a mean over seeds is no property of one file."""
    return [
        EvalResult(
            task_type=_TASK,
            dataset_type=evaluation.dataset.hub_id or _OWN_DATA,
            dataset_name=evaluation.dataset.name,
            dataset_split="test",
            metric_type=score.kind,
            metric_name=f"{score.title} {score.kind}" + (f" [{score.unit}]" if score.unit else ""),
            metric_value=round(score.value, 2),
        )
        for score in evaluation.scores
        if score.kind
    ]


def _leaderboard_entries(evaluation: Evaluation) -> bytes:
    """The headline scores of these weights, in the Hub's form for results of benchmarks."""
    notes = (
        f"{evaluation.protocol}; seed {evaluation.seed}; {evaluation.dataset.test} test images of the data with "
        f"SHA-256 {evaluation.dataset.fingerprint}"
    )
    entries = [
        EvalResultEntry(evaluation.dataset.hub_id, score.metric, score.value, date=evaluation.date or None, notes=notes)
        for score in evaluation.scores
        if score.headline
    ]
    text = str(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True))
    return text.encode()


def _cell(value: Any) -> str:
    """Text that stays in its cell of a table."""
    return str(value).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
