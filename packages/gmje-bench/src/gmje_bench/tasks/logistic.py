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

    def value_and_gradient(self, weights: Tensor, penalty: float) -> tuple[float, Tensor]:
        """The objective at weights ``(K, F + 1)``, the intercepts in the last column, and its gradient, float64."""

        def of_part(part: Tensor, place: slice) -> Tensor:
            target, own = self.labels[:, place], weights.to(part)
            # Classes come first: products with few of them and the softmax take a third of the time.
            log_p = torch.addmm(own[:, -1:], own[:, :-1], part.T).log_softmax(dim=0)
            loss = log_p.gather(0, target)
            residual = log_p.exp_().scatter_add_(0, target, torch.full_like(loss, -1.0))
            if self.fitted is not None:
                residual *= self.fitted[:, place]
                loss *= self.fitted[:, place]
            sums = (residual @ part, residual.sum(dim=1), loss.sum())
            return torch.cat([found.flatten() for found in sums]).double()

        total = self.rows.total(of_part) / self.count
        slopes, intercepts, loss = total.split([weights.numel() - self.classes, self.classes, 1])
        gradient = torch.cat([slopes.view(self.classes, -1), intercepts.unsqueeze(1)], dim=1)
        gradient[:, :-1] += penalty * weights[:, :-1]
        return float(penalty / 2 * weights[:, :-1].square().sum() - loss), gradient


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
    point = start.coefficients.T.contiguous()
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
    return Classifier(point.T.contiguous(), step)


class Memory:
    r"""The inverse Hessian as L-BFGS estimates it, from its last steps and an upper bound :math:`B` of the Hessian.

    With steps :math:`S`, changes of the gradient :math:`Y`, both as columns in the order of time, and
    :math:`H_0 = \gamma B^{-1}`, it is the compact form of Byrd, Nocedal and Schnabel (1994, equation 3.1),

    .. math::
        H = H_0 + \begin{pmatrix} S & H_0 Y \end{pmatrix}
        \begin{pmatrix} R^{-\top} (D + Y^\top H_0 Y) R^{-1} & -R^{-\top} \\ -R^{-1} & 0 \end{pmatrix}
        \begin{pmatrix} S^\top \\ Y^\top H_0 \end{pmatrix},

    where :math:`R` is the upper triangle of :math:`S^\top Y` and :math:`D` its diagonal: four products with the whole
    memory in place of four operations for each step in it.

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
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(bound))
        self.penalty, self.scale = penalty, 1.0
        size = len(gram) * classes
        most = min(_MEMORY, max(_LEAST, _MEMORY_BYTES // (16 * size)))
        # The newest step takes the place of the oldest; `taken` counts all.
        self.taken = 0
        self.steps, self.changes = gram.new_zeros(2, most, size)
        self.cross, self.quadratic = gram.new_zeros(2, most, most)  # S'Y and Y'(1/B)Y
        if before is not None:
            self._take_over(before, classes)

    def _take_over(self, before: "Memory", classes: int) -> None:
        """Take in the steps of another penalty, whose change of the gradient is known."""
        order = before.order()
        steps, changes = (
            kept[order].view(len(order), classes, len(self.inverse)) for kept in (before.steps, before.changes)
        )
        changes[..., :-1] += (self.penalty - before.penalty) * steps[..., :-1]
        useful = (steps * changes).sum(dim=(1, 2)) > 0
        steps, changes = steps[useful], changes[useful]
        held = self.taken = len(steps)
        if held == 0:
            return
        self.steps[:held], self.changes[:held] = steps.flatten(1), changes.flatten(1)
        self.cross[:held, :held] = self.steps[:held] @ self.changes[:held].T
        self.quadratic[:held, :held] = self.changes[:held] @ (changes @ self.inverse).flatten(1).T
        self.scale = float(self.cross[held - 1, held - 1] / self.quadratic[held - 1, held - 1])

    def order(self) -> Tensor:
        """The places of the steps that are held, from the oldest to the newest."""
        held = min(self.taken, len(self.steps))
        return torch.arange(self.taken - held, self.taken, device=self.steps.device) % len(self.steps)

    def remember(self, step: Tensor, change: Tensor) -> None:
        """Take in a step and the change of the gradient along it."""
        curvature = float((step * change).sum())
        if curvature <= 0:  # Rounding may do this near the end.
            return
        place = self.taken % len(self.steps)
        self.taken += 1
        self.steps[place], self.changes[place] = step.flatten(), change.flatten()
        # Of the cross products only those of steps with later changes are read.
        held = min(self.taken, len(self.steps))
        self.cross[:held, place] = self.steps[:held] @ change.flatten()
        self.quadratic[:held, place] = self.changes[:held] @ (change @ self.inverse).flatten()
        self.quadratic[place] = self.quadratic[:, place]
        self.scale = curvature / float(self.quadratic[place, place])

    def estimate(self, gradient: Tensor) -> Tensor:
        """The estimate times a gradient ``(K, F + 1)``."""
        first = gradient @ self.inverse
        order = self.order()
        held, scale = len(order), self.scale
        if held == 0:
            return scale * first
        steps, changes = self.steps[:held], self.changes[:held]
        pairs = order.unsqueeze(1), order
        upper = self.cross[pairs].triu()
        along = (steps @ gradient.flatten())[order].unsqueeze(1)
        across = (changes @ first.flatten())[order].unsqueeze(1)
        inner = torch.linalg.solve_triangular(upper, along, upper=True)
        outer = upper.diagonal().unsqueeze(1) * inner + scale * (self.quadratic[pairs] @ inner - across)
        outer = torch.linalg.solve_triangular(upper.T, outer, upper=False)
        shares = torch.empty_like(torch.cat([inner, outer], dim=1))
        shares[order] = torch.cat([inner, outer], dim=1)
        corrected = (shares[:, 0] @ changes).view_as(gradient) @ self.inverse
        found: Tensor = scale * (first - corrected) + (shares[:, 1] @ steps).view_as(gradient)
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
