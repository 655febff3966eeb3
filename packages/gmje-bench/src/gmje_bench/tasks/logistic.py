r"""Multinomial logistic regression over a path of strengths, on rows that many processes may hold together.

The objective is scikit-learn's,

.. math::
    \frac{1}{n} \sum_i -\log p(y_i \mid x_i) + \frac{\lambda}{2} \lVert W \rVert^2, \qquad \lambda = \frac{1}{C n},

with intercepts that are not penalised. Its Hessian is at most :math:`\tfrac12 X^\top X / n + \lambda` for every class
(Böhning, 1992), a bound that does not depend on :math:`W`. One Cholesky factor of it for each strength is where L-BFGS
starts its estimate from. What L-BFGS has learned of the curvature at one strength holds at the next, up to the known
change of :math:`\lambda`, and is kept, which halves the steps of a path. Products over rows are in the precision of the
rows, sums of them in float64.

Problems that share the rows and differ in those that count are solved together: one product with the rows serves all of
them, while each has its own estimate, length of a step and end.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from gmje_bench.tasks.lbfgs import Memory, Pairs
from gmje_bench.tasks.rows import Rows

__all__ = ["Classifier", "fit_path", "fit_paths"]

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

    def along(self, basis: Tensor) -> "Classifier":
        """The classifier of rows ``(n, F)`` whose coordinates in a basis ``(F, f)`` this one classifies."""
        return Classifier(torch.cat([basis @ self.coefficients[:-1], self.coefficients[-1:]]), self.iterations)


class Problem:
    """The mean losses of sets of rows as functions of the coefficients.

    Args:
        rows: float32 or float64 ``(N, F)``, about standardised.
        labels: int64 ``(N,)``, on every process.
        classes: ``K``, at least 2.
        fitted: bool ``(P, N)``, the rows that count in each of ``P`` problems; one problem and all rows where missing.
    """

    def __init__(self, rows: Rows, labels: Tensor, classes: int, fitted: Tensor | None) -> None:
        self.rows, self.classes = rows, classes
        device = rows.empty.device
        self.labels = labels.to(device).view(1, 1, -1)
        self.fitted = None if fitted is None else fitted.to(rows.empty).unsqueeze(1)
        count = torch.tensor([len(labels)]) if fitted is None else fitted.sum(dim=1)
        self.count = count.to(device, torch.float64)

    def only(self, problems: Tensor) -> "Problem":
        """Some of the problems, bool ``(P,)``."""
        part = copy(self)
        part.fitted = None if self.fitted is None else self.fitted[problems]
        part.count = self.count[problems]
        return part

    def gram(self) -> Tensor:
        r""":math:`\tilde X^\top \tilde X / n`, float64 ``(P, F + 1, F + 1)``, of rows with a last column of ones."""

        def of_part(part: Tensor, place: slice) -> Tensor:
            full = torch.cat([part, torch.ones_like(part[:, :1])], dim=1)
            counted = [full] if self.fitted is None else [full * own[:, place].T for own in self.fitted]
            return torch.stack([own.T @ own for own in counted]).double()

        return self.rows.total(of_part) / self.count.view(-1, 1, 1)

    def value_and_gradient(self, weights: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor]:
        """The objectives ``(P,)`` at weights ``(P, K, F + 1)`` and their gradients there, float64.

        Args:
            weights: Those of the intercepts are in the last column.
            penalty: ``(P,)``, of the others.
        """
        problems, classes, width = weights.shape

        def of_part(part: Tensor, place: slice) -> Tensor:
            own = weights.view(-1, width).to(part)
            target = self.labels[..., place].expand(problems, 1, -1)
            # Classes come first: products with few of them and the softmax take a third of the time.
            logits = torch.addmm(own[:, -1:], own[:, :-1], part.T)
            log_p = logits.view(problems, classes, -1).log_softmax(dim=1)
            loss = log_p.gather(1, target)
            residual = log_p.exp_().scatter_add_(1, target, torch.full_like(loss, -1.0))
            if self.fitted is not None:
                residual *= self.fitted[..., place]
                loss *= self.fitted[..., place]
            slopes = (residual.flatten(0, 1) @ part).view(problems, -1)
            return torch.cat([slopes, residual.sum(dim=2), loss.sum(dim=2)], dim=1).double()

        total = self.rows.total(of_part) / self.count.unsqueeze(1)
        slopes, intercepts, loss = total.split([classes * (width - 1), classes, 1], dim=1)
        gradient = torch.cat([slopes.view(problems, classes, -1), intercepts.unsqueeze(2)], dim=2)
        penalised = weights[..., :-1]
        gradient[..., :-1] += penalty.view(-1, 1, 1) * penalised
        return penalty / 2 * penalised.square().sum(dim=(1, 2)) - loss.squeeze(1), gradient


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
    problem = Problem(rows, labels, classes, None if fitted is None else fitted.unsqueeze(0))
    for (found,) in _paths(problem, strengths, start, max_iter, tolerance):
        yield found


def fit_paths(
    rows: Rows,
    labels: Tensor,
    classes: int,
    strengths: Sequence[float],
    fitted: Tensor,
    *,
    max_iter: int = 300,
    tolerance: float = 1e-6,
) -> Iterator[list[Classifier]]:
    """Fit a classifier to each of several sets of rows for each strength, all sets at once.

    Up to rounding they are the classifiers that :func:`fit_path` finds for each set alone.

    Args:
        rows: float32 or float64 ``(N, F)``, about standardised. All processes that hold rows must call this function.
        labels: int64 ``(N,)``, on every process.
        classes: Number of classes, at least 2.
        strengths: Inverse strengths ``C`` of the regularisation; small ones first is fastest.
        fitted: bool ``(P, N)``, the rows that count in each set.
        max_iter: Largest number of steps for each strength.
        tolerance: Where a fit ends, see :func:`fit_path`.

    Yields:
        The classifiers of all sets, in the order of the strengths, the same bits on every process.

    Examples:
        >>> x, fitted = torch.tensor([[-1.0], [1.0], [2.0], [4.0]]), torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]) > 0
        >>> (found,) = fit_paths(Rows.of(x), torch.tensor([0, 1, 0, 1]), 2, [1e3], fitted)
        >>> [own.logits(x).argmax(dim=1).tolist() for own in found]
        [[0, 1, 1, 1], [0, 0, 0, 1]]
    """
    return _paths(Problem(rows, labels, classes, fitted), strengths, None, max_iter, tolerance)


def _paths(
    problem: Problem, strengths: Sequence[float], start: Classifier | None, max_iter: int, tolerance: float
) -> Iterator[list[Classifier]]:
    gram = problem.gram()
    point = gram.new_zeros(len(gram), problem.classes, gram.shape[1])
    if start is not None:
        point += start.coefficients.T
    before, known = None, list[Pairs]()
    for c in strengths:
        # Two classes have one vector of coefficients in scikit-learn, half of whose square two opposite columns have.
        penalty = (2 if problem.classes == 2 else 1) / (c * problem.count)
        if before is not None:
            known = [pairs.under(more) for pairs, more in zip(known, penalty - before, strict=True)]
        memory = Memory(gram, penalty, problem.classes, known)
        found, known = minimise(problem, penalty, point, memory, max_iter, tolerance)
        point, before = torch.stack([own.coefficients.T for own in found]), penalty
        yield found


def minimise(
    problem: Problem, penalty: Tensor, point: Tensor, memory: Memory, max_iter: int, tolerance: float
) -> tuple[list[Classifier], list[Pairs]]:
    """L-BFGS from weights ``(P, K, F + 1)``, with a memory that is filled on the way.

    A problem that has come to its end leaves the others and costs nothing more.

    Returns:
        The classifiers, and what the memory held of each problem in the end.
    """
    ends: dict[int, tuple[Classifier, Pairs]] = {}
    which, step = torch.arange(len(point), device=point.device), 0
    better = torch.ones_like(penalty, dtype=torch.bool)
    value, gradient = problem.value_and_gradient(point, penalty)
    memory.see(gradient)
    while True:
        direction = -memory.estimate()
        slope = (direction * gradient).sum(dim=(1, 2))
        # Where no step is better, the objective changes no more than its rounding error.
        goes_on = better & ~(-slope <= tolerance * value) & (step < max_iter)
        if not goes_on.all():
            for place in (~goes_on).nonzero().flatten().tolist():
                steps = step if better[place] else step - 1
                ends[int(which[place])] = Classifier(point[place].T.contiguous(), steps), memory.pairs(place)
            if not goes_on.any():
                break
            problem, memory = problem.only(goes_on), memory.only(goes_on)
            which, penalty, point, value, gradient, direction, slope = (
                own[goes_on] for own in (which, penalty, point, value, gradient, direction, slope)
            )
        moved, value, gradient, better = search(problem, penalty, point, value, gradient, direction, slope)
        memory.remember(moved - point, gradient)
        point, step = moved, step + 1
    classifiers, pairs = zip(*(ends[place] for place in sorted(ends)), strict=True)
    return list(classifiers), list(pairs)


def search(
    problem: Problem,
    penalty: Tensor,
    point: Tensor,
    value: Tensor,
    gradient: Tensor,
    direction: Tensor,
    slope: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A point along each direction with sufficient decrease and curvature; bisection from a length of 1.

    Args:
        problem: ``P`` problems.
        penalty: ``(P,)``.
        point: Weights ``(P, K, F + 1)``.
        value: The objectives there, ``(P,)``.
        gradient: Their gradients there.
        direction: Where each goes from there.
        slope: Products of gradients and directions, ``(P,)``.

    Returns:
        The points, their objectives and gradients, and for which problems there is one, bool ``(P,)``. The others stay
        where they are, because the decrease is lost in rounding.
    """
    low, high, length = torch.zeros_like(slope), torch.full_like(slope, torch.inf), torch.ones_like(slope)
    ends = point.clone(), value.clone(), gradient.clone()
    places = torch.arange(len(slope), device=slope.device)  # of the problems that are still searching
    for _ in range(_TRIALS):
        moved = point + length.view(-1, 1, 1) * direction
        found, changed = problem.value_and_gradient(moved, penalty)
        falls = found <= value + _DECREASE * length * slope
        steep = (changed * direction).sum(dim=(1, 2)) < _CURVATURE * slope
        searching = ~falls | steep
        if not searching.any() and len(places) == len(ends[0]):
            return moved, found, changed, ~searching
        for end, own in zip(ends, (moved, found, changed), strict=True):
            end[places[~searching]] = own[~searching]
        high, low = torch.where(falls, high, length), torch.where(falls, length, low)
        length = torch.where(high < torch.inf, (low + high) / 2, 2 * length)
        problem = problem.only(searching)
        places, penalty, point, value, direction, slope, low, high, length = (
            own[searching] for own in (places, penalty, point, value, direction, slope, low, high, length)
        )
        if len(places) == 0:
            break
    better = torch.ones_like(ends[1], dtype=torch.bool)
    better[places] = False
    return *ends, better
