"""What a run measured, beside each of its models, and the models pushed to repositories after the run.

The harness reads its own results and computes its own intervals; gmje_hub gets the finished numbers, as an
:class:`gmje_hub.evaluation.Evaluation`. They are written while the run goes on, and not only when it publishes, so that
``python -m gmje_hub push`` of any model folder, today or after the folder was moved, makes the same card.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gmje_bench.datasets.names import HUB_PREFIXES, HubName
from gmje_bench.errors import BenchError
from gmje_bench.report.tables import Estimate, Row, summarise
from gmje_bench.runs import Record, Results, finite

if TYPE_CHECKING:
    from gmje_hub.evaluation import Calibration, Evaluation

__all__ = ["FIGURES", "PublishError", "evaluation_of", "publish_models", "write_evaluations"]

#: Captions of the figures of a run folder that its models bring along, by file name.
FIGURES = {
    "accuracy.png": "Accuracy of every method of the run, with 95 % intervals over seeds",
    "diagnostics.png": "Loss, effective rank, log-volume and trace ratio of every method of the run over its epochs",
}
#: What the Hub calls the metrics that it has a name for.
HUB_METRICS = {"linear_probe": "accuracy", "knn": "accuracy"}
#: Names on the Hub of the data that others provide.
HUB_DATASETS = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
}
#: Options of the training that a card shows, by their names in the results.
TRAINING_OPTIONS = {
    "epochs": "epochs",
    "batch_size": "batch size",
    "optimizer": "optimizer",
    "learning_rate": "learning rate",
}
#: The level of the regions that a card speaks of.
REGION = 0.9
# Options of a run that change where its results go, and nothing in them, with the number of values that they take.
_ELSEWHERE = dict.fromkeys(["--output", "--publish", "--license", "--track", "--jobs"], 1)
_ELSEWHERE |= dict.fromkeys(["--resume", "--overwrite", "--profile"], 0)


class PublishError(BenchError):
    """The results are on disk, but a model was not published."""


def publish_models(folder: Path, results: Results, repo_id: str, license: str | None = None) -> Iterator[str]:
    """Push the models of a run's first seed that ``GMJEModel.from_pretrained`` loads.

    Args:
        folder: The run folder.
        results: The results of the run.
        repo_id: ``org/name``; where there are several methods, the name continues with the method's.
        license: Licence of the weights, as the Hub writes it; without it the cards say that none was stated.

    Yields:
        A line for every model that was pushed.

    Raises:
        PublishError: there is none, or the Hub did not take it; the text says how to try again.
    """
    from gmje_hub import HubError
    from gmje_hub.publish import push_folder

    seed = results.options["seeds"][0]
    done = [r.method for r in results.records if (r.seed, r.status) == (seed, "ok") and r.method not in results.sources]
    models = {name: model_folder(folder, name, seed) for name in done}
    models = {name: path for name, path in models.items() if (path / "config.json").exists()}
    if not models:
        raise PublishError(f"nothing to publish: no method of {folder} that learns a density has finished")
    option = f" --license {license}" if license else ""
    for name, path in models.items():
        target = repo_id if len(models) == 1 else f"{repo_id}-{name}"
        try:
            pushed = push_folder(path, target, metadata={"license": license})
        except HubError as error:
            raise PublishError(
                f"{name} was not published ({error}); `python -m gmje_hub push {target} {path}{option}` tries again"
            ) from error
        kept = " (its card, written by hand, was left as it is)" if pushed.card_kept else ""
        yield f"published {name} as {target} at {pushed.commit}{kept}"


def write_evaluations(folder: Path, results: Results) -> None:
    """Write what the run has measured so far beside each of its models that ``GMJEModel.from_pretrained`` loads.

    Figures of the run folder go along, those that have been drawn.

    Args:
        folder: The run folder.
        results: The results of the run.

    Raises:
        OSError: the folder cannot be written.
    """
    from gmje_hub.card_file import write_card
    from gmje_hub.evaluation import write_evaluation

    pictures = {name: (folder / name).read_bytes() for name in FIGURES if (folder / name).is_file()}
    rows = {row.method: row for row in summarise(results)}
    for record in results.records:
        place = model_folder(folder, record.method, record.seed)
        if record.status == "ok" and results.dataset is not None and (place / "config.json").exists():
            calibration = calibration_of(folder, record)
            write_evaluation(place, evaluation_of(results, record, rows[record.method], calibration), pictures)
            write_card(place)


def model_folder(folder: Path, method: str, seed: int) -> Path:
    """Where a run folder has the model of a method and seed."""
    return folder / "models" / f"{method}-seed{seed}"


def calibration_of(folder: Path, record: Record) -> "Calibration | None":
    """How well the regions of a model's density hold the other view, where the task ``uncertainty`` has measured it.

    Args:
        folder: The run folder, whose artifacts have the curve of reliability.
        record: The record of the model's method and seed.
    """
    from safetensors import safe_open

    from gmje_hub.evaluation import Calibration

    error = record.metrics.get("conditional_ece")
    if error is None or record.artifacts is None or not (folder / record.artifacts).is_file():
        return None
    names = ("uncertainty.reliability.conditional.learned", "uncertainty.hpd_histogram.learned")
    with safe_open(folder / record.artifacts, "np") as tensors:
        if not set(names) <= set(tensors.keys()):
            return None
        curve, histogram = (tensors.get_tensor(name) for name in names)
    nominal, actual = min(curve[:, :2].tolist(), key=lambda row: abs(row[0] - REGION))
    return Calibration(
        level=round(nominal, 2),
        coverage=float(actual),
        pairs=int(histogram.sum()),
        error=float(error),
        factor=float(record.choices.get("conditional_factor", 1.0)),
    )


def evaluation_of(results: Results, record: Record, row: Row, calibration: "Calibration | None" = None) -> "Evaluation":
    """What a run measured of one model, for its card.

    Args:
        results: The results of the run, which trained on images.
        record: The record of the model's method and seed.
        row: The summary of the method over its seeds; without estimates where a seed failed or has not run.
        calibration: Whether the regions of its density hold what they say, where that was measured.
    """
    from gmje_hub.evaluation import Dataset, Evaluation, Score

    dataset = results.dataset
    assert dataset is not None
    name = one_line(without_folder(dataset.name))
    scores = []
    for key, metric in results.metrics.items():
        if key not in record.metrics:
            continue
        estimate = row.estimates.get(key, Estimate(record.metrics[key], None))
        several = estimate.half_width is not None
        scores.append(
            Score(
                metric=key,
                title=metric.title,
                value=float(record.metrics[key]),
                higher_is_better=metric.higher_is_better,
                unit=metric.unit,
                mean=float(estimate.mean) if several else None,
                half_width=estimate.half_width,
                seeds=row.seeds if several else 1,
                kind=HUB_METRICS.get(key, ""),
                headline=metric.headline,
            )
        )
    whole = results.options.get("limit") is None and not results.options.get("held_out_classes")
    training = results.options.get("training", {})
    complete = bool(row.estimates) or not record.metrics
    gauges = finite(record.history[-1]) if record.history else {}
    gauges.pop("advice", None)  # it is meant for who trains
    return Evaluation(
        method=record.method,
        seed=record.seed,
        dataset=Dataset(
            name=name,
            hub_id=dataset_id(name, whole=whole),
            fingerprint=dataset.fingerprint,
            train=dataset.train,
            test=dataset.test,
            classes=dataset.classes,
        ),
        protocol=f"gmje-bench protocol version {results.protocol['version']}",
        scores=tuple(scores),
        calibration=calibration,
        command=one_line(published_command(results.command)),
        date=results.started,
        note="" if complete else one_line(f"There is no mean over seeds: {record.method} {row.verdict}"),
        training={title: training[key] for key, title in TRAINING_OPTIONS.items() if key in training},
        diagnostics={key: one_line(value) if isinstance(value, str) else value for key, value in gauges.items()},
        versions=results.versions,
        figures=FIGURES,
    )


def dataset_id(name: str, *, whole: bool) -> str:
    """The Hub's name of a dataset; empty for a part of one and for data that are not there.

    Args:
        name: The harness's name of the dataset.
        whole: Whether all of its images were used.

    Examples:
        >>> dataset_id("cifar10", whole=True), dataset_id("cifar10", whole=False)
        ('uoft-cs/cifar10', '')
        >>> dataset_id("hf-stream:org/name:full@v1", whole=True)
        'org/name'
    """
    if not whole:
        return ""
    prefix, _, rest = name.partition(":")
    return HubName.parse(rest).repository if prefix in HUB_PREFIXES else HUB_DATASETS.get(name, "")


def published_command(command: str) -> str:
    """The command that trained a model, without what is only of the machine that it was trained on.

    Examples:
        >>> published_command("python -m gmje_bench run --output '/home/me/my x' --dataset imagefolder:/home/me/cats")
        'python -m gmje_bench run --dataset imagefolder:cats'
    """
    words, kept = iter(shlex.split(command)), []
    for word in words:
        name, _, value = word.partition("=")
        if name not in _ELSEWHERE:
            kept.append(without_folder(word))
        elif not value and _ELSEWHERE[name]:
            next(words, None)
    return shlex.join(kept)


def without_folder(name: str) -> str:
    """A name in which an absolute path is only its last part, because folders of a machine are private.

    Examples:
        >>> without_folder("imagefolder:/home/me/cats"), without_folder("hf:org/data"), without_folder("a/b.toml")
        ('imagefolder:cats', 'hf:org/data', 'a/b.toml')
    """
    return re.sub(r"(^|[:=])[/~][^:=]*/(?=[^/])", r"\1", name)


def one_line(text: str) -> str:
    """A text in one line, as cells of tables are."""
    return " ".join(text.split())
