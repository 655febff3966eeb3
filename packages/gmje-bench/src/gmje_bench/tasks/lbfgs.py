"""What L-BFGS has learned of the curvature of several classifiers' losses, one estimate of the inverse Hessian each."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Memory", "Pairs"]

# L-BFGS remembers 60 steps, or as many as 192 MiB hold of large classifiers, and at least 10.
_MEMORY, _MEMORY_BYTES, _LEAST = 60, 3 * 2**26, 10


class Pairs(NamedTuple):
    """Steps of a problem's solver and what the gradient changed along each, in the order of time.

    Attributes:
        steps: float64 ``(k, K, F + 1)``.
        changes: float64 ``(k, K, F + 1)``.
    """

    steps: Tensor
    changes: Tensor

    def under(self, more: Tensor) -> "Pairs":
        """The pairs of a loss with a larger penalty; those along which its gradient does not rise are left out."""
        changes = self.changes.clone()
        changes[..., :-1] += more * self.steps[..., :-1]
        rises = (self.steps * changes).sum(dim=(1, 2)) > 0
        return Pairs(self.steps[rises], changes[rises])


class Memory:
    r"""The inverse Hessians as L-BFGS estimates them, from the last steps and an upper bound :math:`B` of the Hessian.

    With steps :math:`S`, changes of the gradient :math:`Y`, both as columns in the order of time, and
    :math:`H_0 = \gamma B^{-1}`, it is the compact form of Byrd, Nocedal and Schnabel (1994, equation 3.1),

    .. math::
        H = H_0 + \begin{pmatrix} S & H_0 Y \end{pmatrix}
        \begin{pmatrix} R^{-\top} (D + Y^\top H_0 Y) R^{-1} & -R^{-\top} \\ -R^{-1} & 0 \end{pmatrix}
        \begin{pmatrix} S^\top \\ Y^\top H_0 \end{pmatrix},

    where :math:`R` is the upper triangle of :math:`S^\top Y` and :math:`D` its diagonal. :math:`S` and
    :math:`B^{-1} Y` are kept, so that a step takes two products with each: those with the gradient there, whose change
    also gives the new columns of :math:`S^\top Y` and :math:`Y^\top B^{-1} Y`, and those that make the estimate.

    Problems share the number of steps. A step of length zero stands where one has fewer: it has no part in the
    estimate as long as the diagonal of :math:`R` is not zero.

    Args:
        gram: Twice the bound without the penalty, ``(P, F + 1, F + 1)``, the same for all classes.
        penalty: What coefficients other than intercepts are penalised with, ``(P,)``.
        classes: ``K``.
        known: Steps of every problem that the memory starts with; none where missing.
    """

    def __init__(self, gram: Tensor, penalty: Tensor, classes: int, known: Sequence[Pairs] = ()) -> None:
        bound = gram / 2
        diagonal = bound.diagonal(dim1=1, dim2=2)
        diagonal[:, :-1] += penalty.unsqueeze(1)
        diagonal += 1e-12 * diagonal.mean(dim=1, keepdim=True)  # The intercepts are not penalised.
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(bound))
        self.scale = torch.ones_like(penalty)
        count, width = gram.shape[:2]
        size = width * classes
        most = min(_MEMORY, max(_LEAST, _MEMORY_BYTES // (24 * size)))
        # The newest step takes the place of the oldest; `taken` counts all.
        self.taken = 0
        self.changes = gram.new_zeros(count, most, size)  # Y
        self.kept = gram.new_zeros(count, 2, most, size)  # S and (1/B)Y
        self.products = gram.new_zeros(2, count, most, most)  # S'Y and Y'(1/B)Y, in the order of time
        self._take_in(known)

    def _take_in(self, known: Sequence[Pairs]) -> None:
        held = self.taken = max((len(steps) for steps, _ in known), default=0)
        if held == 0:
            return
        for place, (steps, changes) in enumerate(known):
            first = held - len(steps)
            self.kept[place, 0, first:held] = steps.flatten(1)
            self.kept[place, 1, first:held] = (changes @ self.inverse[place]).flatten(1)
            self.changes[place, first:held] = changes.flatten(1)
        found = self.kept[:, :, :held] @ self.changes[:, None, :held].mT
        self.products[:, :, :held, :held] = found.transpose(0, 1)
        curvature, quadratic = self.products[:, :, held - 1, held - 1]
        self.scale = torch.where(quadratic > 0, curvature / quadratic, 1.0)
        diagonal = self.products[0].diagonal(dim1=1, dim2=2)[:, :held]
        diagonal[diagonal == 0] = 1.0

    @property
    def held(self) -> int:
        """The number of steps that are held."""
        return min(self.taken, self.changes.shape[1])

    def order(self) -> Tensor:
        """The places of the steps that are held, from the oldest to the newest."""
        most = self.changes.shape[1]
        return torch.arange(self.taken - self.held, self.taken, device=self.changes.device) % most

    def pairs(self, problem: int) -> Pairs:
        """The steps of a problem, a copy."""
        order, shape = self.order(), (self.held, *self.gradient.shape[1:])
        return Pairs(self.kept[problem, 0, order].view(shape), self.changes[problem, order].view(shape))

    def only(self, problems: Tensor) -> "Memory":
        """The memory of some of the problems, bool ``(P,)``, a copy."""
        part = object.__new__(Memory)
        part.taken, part.products = self.taken, self.products[:, problems]
        for name in ("inverse", "scale", "changes", "kept", "gradient", "first", "along"):
            setattr(part, name, getattr(self, name)[problems])
        return part

    def see(self, gradient: Tensor) -> None:
        """Take in the gradient ``(P, K, F + 1)`` at the point where the solver is."""
        self.gradient, self.first = gradient, gradient @ self.inverse
        self.along = self._along(gradient)

    def _along(self, gradient: Tensor) -> Tensor:
        """Products ``(P, 2, k)`` of a gradient with the rows of what is kept."""
        count, _, most, size = self.kept.shape
        # A row times a matrix: a matrix times a column takes several times as long where it is one of a batch.
        row = gradient.reshape(count, 1, 1, size).expand(count, 2, 1, size).reshape(2 * count, 1, size)
        found = row @ self.kept.view(2 * count, most, size)[:, : self.held].mT
        return found.view(count, 2, self.held)

    def remember(self, step: Tensor, gradient: Tensor) -> None:
        """Take in a step ``(P, K, F + 1)`` from the point seen last, and the gradient where it leads."""
        change, first = gradient - self.gradient, gradient @ self.inverse
        curvature = (step * change).sum(dim=(1, 2))
        rises = curvature > 0  # Rounding may hinder this near the end.
        pair = torch.stack([step, first - self.first], dim=1)
        if not rises.all():
            pair, change = (torch.where(rises.view(-1, *[1] * (t.dim() - 1)), t, 0.0) for t in (pair, change))
        most = self.changes.shape[1]
        place = self.taken % most
        if self.taken >= most:
            self.products[:, :, :-1, :-1] = self.products[:, :, 1:, 1:].clone()
        self.taken += 1
        self.kept[:, :, place], self.changes[:, place] = pair.flatten(2), change.flatten(1)
        before = self.along
        if self.held > before.shape[2]:
            before = torch.nn.functional.pad(before, (0, 1))
        before[:, :, place] = (pair * self.gradient.unsqueeze(1)).sum(dim=(2, 3))
        self.gradient, self.first, self.along = gradient, first, self._along(gradient)
        # Of the cross products only those of steps with later changes are read.
        found = (self.along - before).transpose(0, 1)
        if self.taken > most:
            found = found[:, :, self.order()]
        if not rises.all():
            found = torch.where(rises.unsqueeze(1), found, 0.0)
        newest = self.held - 1
        self.products[:, :, : self.held, newest] = found
        self.products[1, :, newest, : self.held] = found[1]
        self.products[0, :, newest, newest] = torch.where(rises, curvature, 1.0)
        self.scale = torch.where(rises, curvature / self.products[1, :, newest, newest], self.scale)

    def estimate(self) -> Tensor:
        """The estimates times the gradients seen last, ``(P, K, F + 1)``."""
        count, _, most, size = self.kept.shape
        held, scale = self.held, self.scale.view(-1, 1, 1)
        if held == 0:
            return scale * self.first
        along = self.along
        if self.taken > most:
            order = self.order()
            along = along[:, :, order]
        along, across = along.unsqueeze(3).unbind(dim=1)
        cross, quadratic = self.products[:, :, :held, :held]
        inner = torch.linalg.solve_triangular(cross, along, upper=True)
        outer = cross.diagonal(dim1=1, dim2=2).unsqueeze(2) * inner + scale * (quadratic @ inner - across)
        outer = torch.linalg.solve_triangular(cross.mT, outer, upper=False)
        shares = torch.stack([outer, -scale * inner], dim=1)
        if self.taken > most:
            shares[:, :, order] = shares.clone()
        corrections = shares.view(2 * count, 1, held) @ self.kept.view(2 * count, most, size)[:, :held]
        found: Tensor = scale * self.first + corrections.view(count, 2, size).sum(dim=1).view_as(self.first)
        return found
