"""Linear probes with few labels: 1 % and 10 % of the training images have one, in draws that all methods share."""

import torch
from torch import Generator, Tensor

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.logistic import fit_path, fit_paths
from gmje_bench.tasks.probe import Scaler, correct_rows, places_of
from gmje_bench.tasks.rows import Rows
from gmje_bench.tasks.subject import FeatureSubject, TaskResult

__all__ = ["draw", "few_labels", "folds_of"]

_SHARES = {"few_labels_1": 0.01, "few_labels_10": 0.1}
_FOLDS = 5
# Up to so many rows every process holds all and fits probes itself: a message for each step would take longer.
_FEW_ROWS = 4096
# Folds are fitted together as long as they have so many coefficients: their solvers then remember about a GiB.
_TOGETHER = 2**22


def few_labels(subject: FeatureSubject) -> TaskResult:
    """Mean top-1 accuracy in per cent of linear probes with 1 % and with 10 % of the labels.

    Every draw takes the share of each class, two images at least. The strength of a draw is chosen among the protocol's
    by cross-validation within it, five-fold or by as many folds as the smallest class has images. Features are
    standardised by the whole training split, which needs no label. The draws are the same for all methods and seeds.
    The standard deviation over draws is among the choices of the record.

    Args:
        subject: The encoder. All processes that hold its rows must call this function.
    """
    train, test = subject.rows(subject.train), subject.rows(subject.test)
    present, y = subject.train.labels.unique(return_inverse=True)
    scaler = Scaler.of(train)
    x, z = (scaler.apply(part, subject.device) for part in (train, test))
    truth = places_of(subject.test.labels, present)
    metrics: dict[str, float] = {}
    choices: dict[str, float | str] = {}
    for name, share in _SHARES.items():
        scores, strengths = [], []
        for number in range(PROTOCOL.few_label_draws):
            places = draw(y, share, number)
            rows, labels = x.take(places, replicated=len(places) <= _FEW_ROWS), y[places]
            rows, basis = spanned(rows)
            c = chosen_strength(rows, labels, len(present))
            (probe,) = fit_path(rows, labels, len(present), (c,), max_iter=PROTOCOL.probe_max_iter)
            if basis is not None:
                probe = probe.along(basis)
            scores.append(100.0 * int(correct_rows(z, truth, probe)[0]) / len(truth))
            strengths.append(c)
        found = torch.tensor(scores, dtype=torch.float64)
        metrics[name] = float(found.mean())
        choices[f"{name}_deviation"] = float(found.std(correction=1)) if len(found) > 1 else 0.0
        choices[f"{name}_c"] = ", ".join(f"{c:g}" for c in strengths)
    return TaskResult(metrics, choices=choices)


def draw(labels: Tensor, share: float, number: int) -> Tensor:
    """Places of a share of every class, in order, two of each at least.

    Args:
        labels: int64 ``(N,)``.
        share: Between 0 and 1.
        number: Which draw.

    Examples:
        >>> len(draw(torch.arange(1000) % 2, 0.01, 0)), len(draw(torch.arange(1000) % 100, 0.01, 0))
        (10, 200)
    """
    order = torch.randperm(len(labels), generator=Generator().manual_seed(number))
    # A stable sort by class keeps the random order within a class.
    grouped = order[labels[order].argsort(stable=True)]
    counts = labels.bincount()
    wanted = (share * counts.double()).round().long().clamp_min(2).minimum(counts)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(labels)) - first.repeat_interleave(counts)
    return grouped[place < wanted.repeat_interleave(counts)].sort().values


def folds_of(labels: Tensor) -> Tensor:
    """The fold of every row, stratified: five, or as many as the smallest class has rows, two at least.

    Examples:
        >>> folds_of(torch.tensor([0, 0, 0, 1, 1])).tolist()
        [0, 1, 0, 0, 1]
    """
    count = max(2, min(_FOLDS, int(labels.bincount().min())))
    order = labels.argsort(stable=True)
    sizes = labels.bincount()
    first = sizes.cumsum(0) - sizes
    folds = torch.empty_like(labels)
    folds[order] = (torch.arange(len(labels)) - first.repeat_interleave(sizes)) % count
    return folds


def spanned(rows: Rows) -> tuple[Rows, Tensor | None]:
    """Rows in coordinates of the space that they span, where they are few and fewer than their features.

    A penalised classifier has no part outside that space, and none of its norm changes with the coordinates.

    Args:
        rows: ``(N, F)``, replicated.

    Returns:
        Rows ``(N, N)`` and an orthonormal basis ``(F, N)``, float64, of which they are the coordinates; or the rows
        themselves and nothing.

    Examples:
        >>> few, basis = spanned(Rows.of(torch.tensor([[3.0, 0.0, 4.0], [0.0, 2.0, 0.0]]).double()))
        >>> (few.whole() @ basis.T).round().tolist()
        [[3.0, 0.0, 4.0], [0.0, 2.0, 0.0]]
    """
    if rows.count > _FEW_ROWS or rows.count >= rows.empty.shape[1]:
        return rows, None
    own = rows.whole()
    basis, coordinates = torch.linalg.qr(own.T.double())
    return Rows.of(coordinates.T.to(own).contiguous(), chunk=rows.chunk), basis


def chosen_strength(rows: Rows, labels: Tensor, classes: int) -> float:
    """The strength that classifies most held-out rows of a cross-validation; the strongest where several tie."""
    folds = folds_of(labels)
    held_out = folds == torch.arange(int(folds.max()) + 1).unsqueeze(1)
    right = [0] * len(PROTOCOL.few_label_c)
    size = classes * (rows.empty.shape[1] + 1)
    for part in held_out.split(max(1, _TOGETHER // size)):
        paths = fit_paths(rows, labels, classes, PROTOCOL.few_label_c, ~part, max_iter=PROTOCOL.probe_max_iter)
        for place, probes in enumerate(paths):
            for probe, fold in zip(probes, part, strict=True):
                right[place] += int(correct_rows(rows, labels, probe, among=fold)[0])
    return PROTOCOL.few_label_c[right.index(max(right))]
