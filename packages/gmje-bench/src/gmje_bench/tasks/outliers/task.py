"""The task asks several scores which images are not like the data, for every kind of outliers."""

from collections.abc import Callable

from torch import Tensor

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.densities import Scale, embedding_log_prob, fit_joint
from gmje_bench.tasks.outliers.joint import JointScore
from gmje_bench.tasks.outliers.measures import auroc, false_positive_rate
from gmje_bench.tasks.outliers.scores import knn_score, mahalanobis_score
from gmje_bench.tasks.subject import Embedded, Subject, TaskResult

__all__ = ["outliers"]

Score = Callable[[Embedded], Tensor]


def outliers(subject: Subject) -> TaskResult:
    """AUROC and false positive rate at 95 % of every score and kind of outliers, against the same test images.

    ``auroc.KIND.SCORE`` is the probability that a test image is more typical than an outlier, and ``fpr95.KIND.SCORE``
    the share of outliers that pass where 95 % of the test images do. The kinds are those of
    :func:`gmje_bench.datasets.outliers.outlier_splits`. The scores are

    - ``density``: marginal log-density of the embedding, by the density learned in training, where there is one;
    - ``joint``: a density of the embedding, and a joint one of features and embedding, both fitted afterwards to the
      training images, see :class:`~gmje_bench.tasks.outliers.joint.JointScore`: on validation images, held-out
      classes and distortions it was ahead of Mahalanobis and kNN on average;
    - ``fitted``: the same as ``density`` by a mixture fitted afterwards to the embeddings;
    - ``mahalanobis`` and ``class_mahalanobis``: distance of the backbone features to the training mean, or to the
      nearest class mean (Lee et al., 2018); the latter is the only score that uses labels;
    - ``knn``: distance to the ``k``-th nearest training features at unit norm (Sun et al., 2022);
    - ``embedding_mahalanobis`` and ``embedding_knn``: both without classes, on embeddings.

    Args:
        subject: The encoder, with features and embeddings of its outliers.

    Raises:
        CollapsedError: embeddings that are all the same.
    """
    asked = {"test": subject.test, **subject.outliers}
    metrics: dict[str, float] = {}
    artifacts: dict[str, Tensor] = {}
    for name, score in _scores(subject).items():
        found = {kind: score(part) for kind, part in asked.items()}
        artifacts |= {f"outliers.{name}.{kind}": values.float() for kind, values in found.items()}
        inside = found.pop("test")
        for kind, values in found.items():
            metrics[f"auroc.{kind}.{name}"] = auroc(inside, values)
            metrics[f"fpr95.{kind}.{name}"] = false_positive_rate(inside, values)
    return TaskResult(metrics, artifacts)


def _scores(subject: Subject) -> dict[str, Score]:
    """Every score that the subject has, a function of embedded images; larger is more typical."""
    train, k = subject.train, PROTOCOL.outlier_knn_k
    scale = Scale.of(train.context)
    fitted = fit_joint(scale.apply(train.context), scale.apply(train.target), subject.seed)
    joint = JointScore(train.features, train.embeddings, (train.context, train.target), subject.seed)
    scores: dict[str, Score] = {
        "joint": lambda part: joint(part.features, part.embeddings),
        "fitted": lambda part: embedding_log_prob(fitted, scale.apply(part.embeddings)),
        "mahalanobis": lambda part: mahalanobis_score(train.features, part.features),
        "class_mahalanobis": lambda part: mahalanobis_score(train.features, part.features, train.labels),
        "knn": lambda part: knn_score(train.features, part.features, k),
        "embedding_mahalanobis": lambda part: mahalanobis_score(train.embeddings, part.embeddings),
        "embedding_knn": lambda part: knn_score(train.embeddings, part.embeddings, k),
    }
    density = subject.density
    if density is None:
        return scores
    return {"density": lambda part: embedding_log_prob(density, part.embeddings), **scores}
