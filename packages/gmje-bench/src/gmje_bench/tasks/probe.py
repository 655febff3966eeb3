"""The linear probe is a logistic regression on frozen features whose regularisation is chosen on a part of train."""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor

from gmje_bench.protocol import PROTOCOL

__all__ = ["LinearProbe", "fit_probe"]


class LinearProbe(NamedTuple):
    """The result of a probe.

    Attributes:
        accuracy: Top-1 accuracy on the test images, in per cent.
        validation_accuracy: Accuracy in per cent of the chosen strength on the validation part of train.
        c: The inverse regularisation strength chosen.
        log_prob: ``(M, classes)``, log-probabilities in nats of the classes of the test images.
    """

    accuracy: float
    validation_accuracy: float
    c: float
    log_prob: Tensor


def fit_probe(train_features: Tensor, train_labels: Tensor, test_features: Tensor, test_labels: Tensor) -> LinearProbe:
    """Top-1 accuracy of a multinomial logistic regression on standardised features.

    The strength is the one of the protocol's grid that does best on a stratified validation part of train (the
    strongest regularisation where several tie); the classifier is then fitted to all of train. The test split is
    scored once.

    Args:
        train_features: ``(N, F)``.
        train_labels: ``(N,)``.
        test_features: ``(M, F)``.
        test_labels: ``(M,)``.

    Examples:
        >>> features = torch.eye(2).repeat(30, 1)
        >>> fit_probe(features, torch.arange(60) % 2, features, torch.arange(60) % 2).accuracy
        100.0
    """
    scaler = StandardScaler().fit(train_features.double().numpy())
    x, y = scaler.transform(train_features.double().numpy()), train_labels.numpy()
    x_test, y_test = scaler.transform(test_features.double().numpy()), test_labels.numpy()
    fitted, chosen = train_test_split(
        np.arange(len(y)), test_size=PROTOCOL.validation_fraction, stratify=y, random_state=0
    )
    best_c, best = PROTOCOL.probe_c[0], -1.0
    probe = _probe(best_c, warm_start=True)
    # Strengths go from strong to weak, because each fit starts from the solution of the one before.
    for c in PROTOCOL.probe_c:
        score = _fit(probe.set_params(C=c), x[fitted], y[fitted]).score(x[chosen], y[chosen])
        if score > best:
            best_c, best = c, score
    final = _fit(_probe(best_c), x, y)
    log_prob = torch.from_numpy(final.predict_log_proba(x_test))
    return LinearProbe(100.0 * float(final.score(x_test, y_test)), 100.0 * float(best), best_c, log_prob)


def _probe(c: float, *, warm_start: bool = False) -> LogisticRegression:
    return LogisticRegression(C=c, max_iter=PROTOCOL.probe_max_iter, warm_start=warm_start)


def _fit(probe: LogisticRegression, x: np.ndarray, y: np.ndarray) -> LogisticRegression:
    # BLAS gets one thread: several would round differently, and wait for torch's in every small product (10x slower).
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        # The iteration limit is part of the protocol: a fit on a collapsed encoder never converges.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return probe.fit(x, y)
