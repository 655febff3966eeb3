r"""Multinomial logistic regression over a path of strengths, on rows that many processes may hold together.

The objective is scikit-learn's,

.. math::
    \frac{1}{n} \sum_i -\log p(y_i \mid x_i) + \frac{\lambda}{2} \lVert W \rVert^2, \qquad \lambda = \frac{1}{C n},

with intercepts that are not penalised. Its Hessian is at most :math:`\tfrac12 X^\top X / n + \lambda` for every class
(Böhning, 1992), a bound that does not depend on :math:`W`. One Cholesky factor of it for each strength is where L-BFGS
starts its estimate from. What L-BFGS has learned of the curvature at one strength holds at the next, up to the known
change of :math:`\lambda`, and is kept, which halves the steps of a path. Products over rows are in the precision of the
rows, sums of them in float64.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gmje_bench.tasks.rows import Rows

__all__ = ["Classifier", "fit_path"]

# L-BFGS remembers 60 steps, or as many as 128 MiB hold of large classifiers, and at least 10.
_MEMORY, _MEMORY_BYTES, _LEAST = 60, 2**27, 10
# So many lengths of a step are tried.
_TRIALS = 20
# Sufficient decrease and curvature of a step, the conditions of Wolfe.
_DECREASE, _CURVATURE = 1e-4, 0.9


@dataclass(frozen=True, eq=False)
class Classifier:
    """Coefficients of a linear classifier.

    Attributes:
        coefficients: float64 ``(F + 1, K)``; the last row holds the intercepts.
        iterations: How many steps the solver took.
    """

    coefficients: Tensor
    iterations: int = 0

    def logits(self, rows: Tensor) -> Tensor:
        """Scores ``(n, K)`` of rows ``(n, F)``, in their precision."""
        own = self.coefficients.to(rows)
        return torch.addmm(own[-1], rows, own[:-1])


class Problem:
    """The mean loss of a set of rows as a function of the coefficients.

    Args:
        rows: float32 or float64 ``(N, F)``, about standardised.
        labels: int64 ``(N,)``, on every process.
        classes: ``K``, at least 2.
        fitted: bool ``(N,)``, the rows that count; all where missing.
    """

    def __init__(self, rows: Rows, labels: Tensor, classes: int, fitted: Tensor | None) -> None:
        self.rows, self.classes = rows, classes
        device = rows.empty.device
        self.labels = labels.to(device).unsqueeze(0)
        self.fitted = None if fitted is None else fitted.to(rows.empty).unsqueeze(0)
        self.count = len(labels) if fitted is None else int(fitted.sum())

    def gram(self) -> Tensor:
        r""":math:`\tilde X^\top \tilde X / n`, float64 ``(F + 1, F + 1)``, of rows with a last column of ones."""

        def of_part(part: Tensor, place: slice) -> Tensor:
            full = torch.cat([part, torch.ones_like(part[:, :1])], dim=1)
            if self.fitted is not None:
                full *= self.fitted[:, place].T
            return (full.T @ full).double()

        return self.rows.total(of_part) / self.count

    def value_and_gradient(self, coefficients: Tensor, penalty: float) -> tuple[float, Tensor]:
        """The objective and its gradient ``(F + 1, K)``, float64."""
        point = Classifier(coefficients)

        def of_part(part: Tensor, place: slice) -> Tensor:
            target = self.labels[:, place]
            # Softmax over the first dimension takes a tenth of the time where there are few classes.
            log_p = point.logits(part).T.contiguous().log_softmax(dim=0)
            loss = log_p.gather(0, target)
            residual = log_p.exp_().scatter_add_(0, target, torch.full_like(loss, -1.0))
            if self.fitted is not None:
                residual *= self.fitted[:, place]
                loss *= self.fitted[:, place]
            sums = (residual @ part, residual.sum(dim=1), loss.sum())
            return torch.cat([found.flatten() for found in sums]).double()

        total = self.rows.total(of_part) / self.count
        slopes, intercepts, loss = total.split([(len(coefficients) - 1) * self.classes, self.classes, 1])
        gradient = torch.cat([slopes.view(self.classes, -1).T, intercepts.unsqueeze(0)])
        gradient[:-1] += penalty * coefficients[:-1]
        return float(penalty / 2 * coefficients[:-1].square().sum() - loss), gradient


def fit_path(
    rows: Rows,
    labels: Tensor,
    classes: int,
    strengths: Sequence[float],
    *,
    fitted: Tensor | None = None,
    start: Classifier | None = None,
    max_iter: int = 300,
    tolerance: float = 1e-6,
) -> Iterator[Classifier]:
    """Fit a classifier for each strength, each from the solution of the one before.

    Args:
        rows: float32 or float64 ``(N, F)``, about standardised. All processes that hold rows must call this function.
        labels: int64 ``(N,)``, on every process.
        classes: Number of classes, at least 2.
        strengths: Inverse strengths ``C`` of the regularisation; small ones first is fastest.
        fitted: bool ``(N,)``, the rows that count; all where missing.
        start: Where the first fit starts; zero if missing.
        max_iter: Largest number of steps for each strength.
        tolerance: A fit ends where a step is expected to lower the objective by half this share of it. The error of the
            coefficients is of the order of its root.

    Yields:
        The classifiers, in the order of the strengths, the same bits on every process.

    Examples:
        >>> x = torch.tensor([[-1.0], [-1.0], [1.0], [1.0]])
        >>> (found,) = fit_path(Rows.of(x), torch.tensor([0, 0, 1, 1]), 2, [1.0])
        >>> found.logits(x).argmax(dim=1).tolist()
        [0, 0, 1, 1]
    """
    problem = Problem(rows, labels, classes, fitted)
    gram = problem.gram()
    if start is None:
        start = Classifier(torch.zeros(len(gram), classes, dtype=torch.float64, device=gram.device))
    memory = None
    for c in strengths:
        # Two classes have one vector of coefficients in scikit-learn, half of whose square two opposite columns have.
        penalty = (2 if classes == 2 else 1) / (c * problem.count)
        memory = Memory(gram, penalty, classes, memory)
        start = minimise(problem, start, memory, max_iter, tolerance)
        yield start


def minimise(problem: Problem, start: Classifier, memory: "Memory", max_iter: int, tolerance: float) -> Classifier:
    """L-BFGS from a classifier, with a memory that is filled on the way."""
    penalty = memory.penalty
    point = start.coefficients
    value, gradient = problem.value_and_gradient(point, penalty)
    step = 0
    while step < max_iter:
        direction = -memory.estimate(gradient)
        slope = float((direction * gradient).sum())
        if -slope <= tolerance * value:
            break
        found = search(problem, point, value, gradient, direction, slope, penalty)
        if found is None:  # The objective changes no more than its rounding error.
            break
        moved, value, changed = found
        memory.remember(moved - point, changed - gradient)
        point, gradient, step = moved, changed, step + 1
    return Classifier(point, step)


class Memory:
    """The estimate of the inverse Hessian that L-BFGS makes from its last steps and an upper bound of the Hessian.

    Args:
        gram: Twice the bound without the penalty, ``(F + 1, F + 1)``, the same for all classes.
        penalty: What coefficients other than intercepts are penalised with.
        classes: ``K``.
        before: A memory of the same loss under another penalty.
    """

    def __init__(self, gram: Tensor, penalty: float, classes: int, before: "Memory | None" = None) -> None:
        bound = gram / 2
        diagonal = bound.diagonal()
        diagonal[:-1] += penalty
        diagonal += 1e-12 * diagonal.mean()  # The intercepts are not penalised.
        self.tril = torch.linalg.cholesky(bound)
        self.penalty, self.scale = penalty, 1.0
        room = _MEMORY_BYTES // (16 * len(gram) * classes)
        self.pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=min(_MEMORY, max(_LEAST, room)))
        for step, change, _ in before.pairs if before else ():
            assert before is not None
            changed = change.clone()
            changed[:-1] += (penalty - before.penalty) * step[:-1]
            self.remember(step, changed)

    def remember(self, step: Tensor, change: Tensor) -> None:
        """Take in a step and the change of the gradient along it."""
        curvature = float((step * change).sum())
        if curvature <= 0:  # Rounding may do this near the end.
            return
        self.pairs.append((step, change, curvature))
        self.scale = curvature / float((change * torch.cholesky_solve(change, self.tril)).sum())

    def estimate(self, gradient: Tensor) -> Tensor:
        """The estimate times a gradient ``(F + 1, K)``."""
        rest, shares = gradient.clone(), []
        for step, change, curvature in reversed(self.pairs):
            share = float((step * rest).sum()) / curvature
            shares.append(share)
            rest -= share * change
        found = self.scale * torch.cholesky_solve(rest, self.tril)
        for (step, change, curvature), share in zip(self.pairs, reversed(shares), strict=True):
            found += (share - float((change * found).sum()) / curvature) * step
        return found


def search(
    problem: Problem,
    point: Tensor,
    value: float,
    gradient: Tensor,
    direction: Tensor,
    slope: float,
    penalty: float,
) -> tuple[Tensor, float, Tensor] | None:
    """A point along a direction with sufficient decrease and curvature, its value and gradient; bisection from 1.

    ``None`` where there is none, because the decrease is lost in rounding.
    """
    low, high, length = 0.0, float("inf"), 1.0
    for _ in range(_TRIALS):
        moved = point + length * direction
        found, changed = problem.value_and_gradient(moved, penalty)
        if not found <= value + _DECREASE * length * slope:
            high = length
        elif float((changed * direction).sum()) < _CURVATURE * slope:
            low = length
        else:
            return moved, found, changed
        length = (low + high) / 2 if high < float("inf") else 2 * length
    return None
