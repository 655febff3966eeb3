"""Weighted k-nearest-neighbour classification on frozen features."""

import torch.nn.functional as F
from lightly.utils.benchmarking.knn import knn_predict
from torch import Tensor

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.subject import FeatureSubject, TaskResult

__all__ = ["knn", "weighted_knn"]

# So many test rows are compared with the whole bank at once.
_CHUNK = 500


def knn(subject: FeatureSubject) -> TaskResult:
    """Top-1 accuracy in per cent of :func:`weighted_knn`."""
    train, test = subject.train, subject.test
    accuracy = weighted_knn(train.features, train.labels, test.features, test.labels, len(subject.classes))
    return TaskResult({"knn": accuracy})


def weighted_knn(
    train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor, classes: int
) -> float:
    r"""Top-1 accuracy in per cent of the vote :math:`\sum_{i \in \mathrm{kNN}} e^{\cos(f, f_i) / T}\, 1[y_i = y]`.

    Wu et al. (2018), lightly's implementation, with the protocol's ``k`` and ``T``.

    Args:
        train_features: ``(N, F)``.
        train_labels: ``(N,)``.
        test_features: ``(M, F)``.
        test_labels: ``(M,)``.
        classes: Number of classes.

    Examples:
        >>> import torch
        >>> features = torch.eye(2).repeat(30, 1)
        >>> weighted_knn(features, torch.arange(60) % 2, features, torch.arange(60) % 2, classes=2)
        100.0
    """
    bank = F.normalize(train_features, dim=1).T.contiguous()
    k = min(PROTOCOL.knn_k, len(train_labels))
    correct = 0
    for features, labels in zip(
        F.normalize(test_features, dim=1).split(_CHUNK), test_labels.split(_CHUNK), strict=True
    ):
        predicted = knn_predict(features, bank, train_labels, classes, k, PROTOCOL.knn_temperature)[:, 0]
        correct += int((predicted == labels).sum())
    return 100.0 * correct / len(test_labels)
