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
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from jinja2 import Environment, StrictUndefined

from gmje_core.models.config import GMJEConfig
from gmje_core.models.preprocessing import Preprocessing
from gmje_hub.evaluation import EVALUATION, SCORES, Evaluation
from gmje_hub.folder import README

__all__ = ["EVAL_RESULTS", "documents", "is_generated", "model_card"]

#: The headline scores in the form that the Hub shows and collects into leaderboards.
EVAL_RESULTS = ".eval_results/gmje.yaml"

_PIPELINE = "image-feature-extraction"
_SEAL = "\n<!-- written by gmje-hub; sha256 {} -->\n"
_SEALED = re.compile(r"(.*)\n<!-- written by gmje-hub; sha256 ([0-9a-f]{64}) -->\n", re.DOTALL)


def documents(
    config: GMJEConfig,
    repo_id: str,
    preprocessing: Preprocessing | None,
    evaluation: Evaluation | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> dict[str, bytes | None]:
    """Everything that goes with a model, by name in its repository; ``None`` removes what another model may have left.

    Args:
        config: Configuration of the model.
        repo_id: Name of the repository that the card is for.
        preprocessing: How the model's images are presented, where it is known.
        evaluation: What was measured, if anything was.
        pictures: PNG files by the names in ``evaluation.figures``; a figure without its file is left out.

    Examples:
        >>> found = documents(GMJEConfig(), "org/name", None)
        >>> [name for name, content in found.items() if content is not None]
        ['README.md']
    """
    if evaluation is None:
        return {README: model_card(config, repo_id, preprocessing).encode(), EVAL_RESULTS: None, SCORES: None}
    shown = {name: content for name, content in (pictures or {}).items() if name in evaluation.figures}
    evaluation = replace(evaluation, figures={name: evaluation.figures[name] for name in shown})
    return {
        README: model_card(config, repo_id, preprocessing, evaluation).encode(),
        EVAL_RESULTS: _leaderboard_entries(evaluation),
        SCORES: evaluation.to_json().encode(),
        **{f"{EVALUATION}/{name}": content for name, content in shown.items()},
    }


def model_card(
    config: GMJEConfig,
    repo_id: str,
    preprocessing: Preprocessing | None = None,
    evaluation: Evaluation | None = None,
) -> str:
    """The text of a card, with the metadata that the Hub finds models by.

    Args:
        config: Configuration of the model.
        repo_id: Name of the repository that the card is for.
        preprocessing: How the model's images are presented, where it is known.
        evaluation: What was measured; without it the card says that nothing was.

    Examples:
        >>> card = model_card(GMJEConfig(), "org/name")
        >>> card.splitlines()[0], is_generated(card), is_generated(card.replace("org", "me"))
        ('---', True, False)
    """
    results = _metadata_results(evaluation) if evaluation else []
    data = ModelCardData(
        license="apache-2.0",
        library_name="gmje",
        pipeline_tag=_PIPELINE,
        tags=["self-supervised-learning", "gaussian-joint-embeddings", "density-estimation", "arxiv:2603.26799"],
        model_name=repo_id if results else None,
        eval_results=results or None,
    )
    template = resources.files("gmje_hub") / "card.md.j2"
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = _cell
    text = environment.from_string(template.read_text(encoding="utf-8")).render(
        metadata=data.to_yaml(),
        config=config,
        repo_id=repo_id,
        preprocessing=preprocessing,
        evaluation=evaluation,
        evaluation_folder=EVALUATION,
    )
    return text.rstrip("\n") + "\n" + _SEAL.format(_hash(text))


def is_generated(card: str) -> bool:
    """Whether a card is just as :func:`model_card` wrote it."""
    found = _SEALED.fullmatch(card)
    return found is not None and _hash(found[1]) == found[2]


def _hash(text: str) -> str:
    return hashlib.sha256((text.rstrip("\n") + "\n").encode()).hexdigest()


def _metadata_results(evaluation: Evaluation) -> list[EvalResult]:
    """The scores that the Hub has a name for, of these weights alone: a mean over seeds is no property of one file."""
    return [
        EvalResult(
            task_type=_PIPELINE,
            dataset_type=evaluation.dataset.hub_id,
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
