"""The linear probe is a logistic regression on frozen features whose regularisation is chosen on a part of train."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from gmje_bench.datasets.selection import validation_split
from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.logistic import Classifier, fit_path
from gmje_bench.tasks.rows import Rows

__all__ = ["LinearProbe", "Scaler", "correct_rows", "fit_probe"]

# So many rows are standardised at a time.
_PIECE = 4096


class LinearProbe(NamedTuple):
    """The result of a probe.

    Attributes:
        accuracy: Top-1 accuracy on the test images, in per cent.
        top5: Top-5 accuracy on them, in per cent.
        validation_accuracy: Accuracy in per cent of the chosen strength on the validation part of train.
        c: The inverse regularisation strength chosen.
        log_prob: ``(M, classes)``, log-probabilities in nats of the classes of the test images, on the main process.
    """

    accuracy: float
    top5: float
    validation_accuracy: float
    c: float
    log_prob: Tensor


class Scaler(NamedTuple):
    """Mean and deviation of every feature.

    Attributes:
        mean: float64 ``(F,)``.
        deviation: float64 ``(F,)``; 1 where a feature never changes.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, rows: Rows) -> "Scaler":
        """The scaler of all rows; all processes that hold them must call this method.

        Examples:
            >>> Scaler.of(Rows.of(torch.tensor([[0.0, 5.0], [4.0, 5.0]]))).deviation.tolist()
            [2.0, 1.0]
        """
        mean = rows.total(lambda part, _: part.double().sum(dim=0)) / rows.count
        variance = rows.total(lambda part, _: (part.double() - mean).square().sum(dim=0)) / rows.count
        # This is scikit-learn's bound on the variance that rounding gives to equal numbers.
        epsilon = rows.count * torch.finfo(torch.float64).eps
        constant = variance <= epsilon * variance + (epsilon * mean).square()
        return cls(mean, torch.where(constant, 1.0, variance.sqrt()))

    def apply(self, rows: Rows, device: torch.device) -> Rows:
        """The standardised rows, float32 on a device."""

        def of_leaf(leaf: Tensor) -> Tensor:
            result = torch.empty(leaf.shape, device=device)
            for part, place in zip(leaf.split(_PIECE), result.split(_PIECE), strict=True):
                place.copy_((part.double() - self.mean) / self.deviation)
            return result

        return rows.map(of_leaf)


def fit_probe(train: Rows, train_labels: Tensor, test: Rows, test_labels: Tensor, device: torch.device) -> LinearProbe:
    """Accuracy of a multinomial logistic regression on standardised features.

    The strength is the one of the protocol's grid that does best on a stratified validation part of train (the
    strongest regularisation where several tie); the classifier is then fitted to all of train. The test split is
    scored once. All processes that hold rows must call this function, and get the same bits as one alone.

    Args:
        train: ``(N, F)``.
        train_labels: int64 ``(N,)``, on every process.
        test: ``(M, F)``.
        test_labels: int64 ``(M,)``, on every process.
        device: Where it is computed.

    Examples:
        >>> rows, labels = Rows.of(torch.eye(2).repeat(30, 1)), torch.arange(60) % 2
        >>> fit_probe(rows, labels, rows, labels, torch.device("cpu")).accuracy
        100.0
    """
    scaler = Scaler.of(train)
    x, (present, y) = scaler.apply(train, device), train_labels.unique(return_inverse=True)
    held_out = validation_part(y)

    def path(fitted: Tensor | None, start: Classifier | None, strengths: tuple[float, ...]) -> Iterator[Classifier]:
        return fit_path(
            x,
            y,
            len(present),
            strengths,
            fitted=fitted,
            start=start,
            max_iter=PROTOCOL.probe_max_iter,
            tolerance=PROTOCOL.probe_tolerance,
        )

    best_c, best, warm = PROTOCOL.probe_c[0], -1.0, None
    # Strengths go from strong to weak, because each fit starts from the solution of the one before.
    for c, found in zip(PROTOCOL.probe_c, path(~held_out, None, PROTOCOL.probe_c), strict=True):
        score = 100.0 * int(correct_rows(x, y, found, among=held_out)[0]) / int(held_out.sum())
        if score > best:
            best_c, best, warm = c, score, found
    (final,) = path(None, warm, (best_c,))
    z, labels = scaler.apply(test, device), places_of(test_labels, present)
    right = correct_rows(z, labels, final)
    log_prob = z.map(lambda part: final.logits(part).log_softmax(dim=1)).whole().cpu().double()
    every = log_prob.new_full((len(log_prob), int(train_labels.max()) + 1), -torch.inf)
    every[:, present] = log_prob
    top1, top5 = (100.0 * int(count) / len(test_labels) for count in right)
    return LinearProbe(top1, top5, best, best_c, every)


def validation_part(labels: Tensor) -> Tensor:
    """Which training images strengths are chosen on, stratified.

    scikit-learn draws them, unless the share of the protocol is less than an image of every class: then one of each
    class that has two is among them.

    Args:
        labels: int64 ``(N,)``, from 0, each of them there.

    Returns:
        bool ``(N,)``.

    Examples:
        >>> int(validation_part(torch.arange(60) % 2).sum()), int(validation_part(torch.arange(60) % 30).sum())
        (6, 30)
    """
    counts = labels.bincount()
    if int(counts.min()) >= 2 and int(PROTOCOL.validation_fraction * len(labels)) >= len(counts):
        _, chosen = train_test_split(
            np.arange(len(labels)), test_size=PROTOCOL.validation_fraction, stratify=labels.numpy(), random_state=0
        )
        places = torch.from_numpy(chosen)
    else:
        _, places = validation_split(labels, PROTOCOL.validation_fraction)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[places] = True
    return held_out


def places_of(labels: Tensor, present: Tensor) -> Tensor:
    """The places of labels among the sorted ``present`` ones; -1 for the others.

    Examples:
        >>> places_of(torch.tensor([4, 2, 3]), torch.tensor([2, 4])).tolist()
        [1, 0, -1]
    """
    places = torch.searchsorted(present, labels).clamp_max(len(present) - 1)
    return torch.where(present[places] == labels, places, -1)


def correct_rows(rows: Rows, labels: Tensor, classifier: Classifier, among: Tensor | None = None) -> Tensor:
    """How many rows have the label among the one and the five highest scores; of equal scores, the first class counts.

    Args:
        rows: ``(N, F)``. All processes that hold them must call this function.
        labels: int64 ``(N,)``; a label of -1 is never right.
        classifier: What is asked.
        among: bool ``(N,)``, the rows that count; all where missing.

    Returns:
        int64 ``(2,)``, on every process.
    """

    def of_part(part: Tensor, place: slice) -> Tensor:
        target = labels[place].to(part.device)
        scores = classifier.logits(part)
        own = scores.gather(1, target.clamp_min(0).unsqueeze(1))
        before = torch.arange(scores.shape[1], device=part.device) < target.unsqueeze(1)
        rank = ((scores > own) | ((scores == own) & before)).sum(dim=1)
        counts = target >= 0
        if among is not None:
            counts &= among[place].to(part.device)
        return torch.stack([((rank < k) & counts).sum() for k in (1, 5)])

    return rows.total(of_part)
