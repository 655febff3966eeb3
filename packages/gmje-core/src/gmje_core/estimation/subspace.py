r"""Mixtures whose components differ in a few directions only: how these directions are found and improved.

The model is :math:`z = m + L (U u + U_\perp v)` with :math:`L L^\top` the covariance of all rows, orthonormal columns
:math:`[U, U_\perp]`, a Gaussian mixture of :math:`u` in ``q`` dimensions, and :math:`v \sim N(0, I)` independent of it.
A component then costs parameters by ``q`` and not by ``D``, which lets many components follow a curved density that is
embedded in noise. (Heteroscedastic discriminant analysis of Kumar and Andreou, 1998, without labels.)
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gmje_core.densities.mixture import GaussianMixture
from gmje_core.linalg import half_log_det, safe_cholesky, whiten

__all__ = ["Subspace", "excess_information", "mixture_score", "subspace_parameter_count"]

# Damping of a turn, in units of the information of a whitened direction.
_DAMPING = 1e-2
# Share of its variance from which on a direction of one view takes part in the joint directions.
_LEAST_SHARE = 0.1


def mixture_score(mixture: GaussianMixture, z: Tensor) -> Tensor:
    r"""Gradient :math:`\nabla_z \log q(z) = \sum_k p(k \mid z)\, \Sigma_k^{-1} (\mu_k - z)` of a mixture.

    Args:
        mixture: Mixture of batch shape ``()``.
        z: ``(N, D)``.

    Returns:
        ``(N, D)``.

    Examples:
        >>> covariance = torch.diag(torch.tensor([1.0, 4.0]))[None]
        >>> mixture = GaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), covariance)
        >>> mixture_score(mixture, torch.tensor([[1.0, 2.0]]))
        tensor([[-1.0000, -0.5000]])
    """
    responsibilities = mixture.component_log_prob(z).softmax(dim=1)
    precision = torch.cholesky_inverse(torch.linalg.cholesky(mixture.covariance.dense()))
    precision = precision.expand(mixture.components, -1, -1)
    # Everything is taken about the mixture's mean, so that few digits cancel.
    origin = mixture.mean
    pulls = (precision @ (mixture.means - origin).unsqueeze(2)).squeeze(2)
    mean_precision = (responsibilities @ precision.flatten(1)).view(len(z), *precision.shape[1:])
    return responsibilities @ pulls - (mean_precision @ (z - origin).unsqueeze(2)).squeeze(2)


@dataclass(frozen=True)
class Subspace:
    """The directions in which components differ, in coordinates that whiten all rows.

    Attributes:
        mean: ``(D,)``, mean of all rows.
        factor: ``(D, D)``, lower Cholesky factor of their covariance.
        axes: ``(D, q)``, orthonormal columns.

    Examples:
        >>> space = Subspace(torch.zeros(2), 2 * torch.eye(2), torch.tensor([[0.0], [1.0]]))
        >>> space.coordinates(torch.tensor([[5.0, 4.0]]))
        tensor([[2.]])
        >>> mixture = GaussianMixture.from_moments(torch.ones(1), torch.ones(1, 1), torch.full((1, 1, 1), 0.25))
        >>> space.lift(mixture).mean, space.lift(mixture).variance
        (tensor([0., 2.]), tensor([4., 1.]))
    """

    mean: Tensor
    factor: Tensor
    axes: Tensor

    @classmethod
    def whole(cls, mean: Tensor, covariance: Tensor) -> "Subspace":
        """All directions, from the moments ``(D,)`` and ``(D, D)`` of all rows.

        Raises:
            NotPositiveDefiniteError: the covariance is singular.
        """
        factor = safe_cholesky(covariance, name="the covariance of all rows")
        return cls(mean, factor, torch.eye(len(mean)).to(factor))

    @property
    def size(self) -> int:
        """Number of directions ``q``."""
        return self.axes.shape[1]

    def whitened(self, z: Tensor) -> Tensor:
        """Whitened rows ``(N, D)`` of rows ``(N, D)``, in the dtype of the subspace."""
        return whiten(z.to(self.mean) - self.mean, self.factor)

    def coordinates(self, z: Tensor) -> Tensor:
        """Coordinates ``u``, ``(N, q)``, of rows ``(N, D)``."""
        return self.whitened(z) @ self.axes

    def lift(self, mixture: GaussianMixture) -> GaussianMixture:
        """The mixture of rows, with full covariances, that a mixture of the coordinates stands for."""
        embedding = self.factor @ self.axes
        rest = self.factor @ (torch.eye(len(self.mean)).to(self.axes) - self.axes @ self.axes.T) @ self.factor.T
        covariances = embedding @ mixture.covariance.dense() @ embedding.T + rest
        means = self.mean + mixture.means @ embedding.T
        covariances = 0.5 * (covariances + covariances.mT)
        return GaussianMixture.from_moments(mixture.weights, means, covariances.expand(len(means), -1, -1))

    def lifted_log_density(self, value: float, covariance: Tensor) -> float:
        """Mean log-density of rows, from that of their coordinates, ``value``, and the rows' covariance ``(D, D)``."""
        whitened = whiten(whiten(covariance, self.factor).T, self.factor)
        outside = float(whitened.trace() - (self.axes.T @ whitened @ self.axes).trace())
        beyond = len(self.mean) - self.size
        return value - 0.5 * (outside + beyond * math.log(2 * math.pi)) - float(half_log_det(self.factor))

    def views(self, context_dim: int) -> tuple["Subspace", "Subspace"]:
        """The directions within each view that take part in those of the joint rows.

        Args:
            context_dim: Size of the context, whose columns come first.

        Returns:
            Subspaces of the context and of the target. A direction of a whitened view takes part where at least a tenth
            of its variance lies in the joint directions; each view keeps one at least.
        """
        embedding = self.factor @ self.axes
        found = []
        for rows in (slice(None, context_dim), slice(context_dim, None)):
            whole = Subspace.whole(self.mean[rows], self.factor[rows] @ self.factor[rows].T)
            left, values, _ = torch.linalg.svd(
                torch.linalg.solve_triangular(whole.factor, embedding[rows], upper=False)
            )
            count = max(1, int((values.square() >= _LEAST_SHARE).sum()))
            found.append(Subspace(whole.mean, whole.factor, left[:, :count].contiguous()))
        return found[0], found[1]

    def turned(self, mixture: GaussianMixture, blocks: Iterable[Tensor]) -> "Subspace":
        r"""The subspace after one step of Fisher scoring on the likelihood of all rows.

        With :math:`y` a whitened row, :math:`u = U^\top y` and :math:`g = \nabla_u \log q(u) + u`, the gradient is
        :math:`E[y g^\top]`, and the information of every direction outside is :math:`E[g g^\top]`.

        Args:
            mixture: Mixture of the coordinates.
            blocks: All rows, block by block.
        """
        gradient, information = torch.zeros_like(self.axes), _DAMPING * torch.eye(self.size).to(self.axes)
        rows = 0
        for block in blocks:
            y = self.whitened(block)
            u = y @ self.axes
            g = mixture_score(mixture, u) + u
            gradient += y.T @ g
            information += g.T @ g
            rows += len(y)
        outside = gradient - self.axes @ (self.axes.T @ gradient)
        # The nearest orthonormal columns do not turn within the subspace, where the mixture would have to follow.
        left, _, right = torch.linalg.svd(self.axes + torch.linalg.solve(information, outside.T).T, full_matrices=False)
        return Subspace(self.mean, self.factor, left @ right)

    def narrowed(self, information: Tensor, least: float, size: int | None = None) -> "Subspace":
        """The directions of the largest information.

        Args:
            information: ``(D, D)``, from :func:`excess_information`, of a subspace of all directions.
            least: Information from which on a direction counts; at least one is kept.
            size: How many directions to keep instead.
        """
        values, vectors = torch.linalg.eigh(information)
        count = max(1, int((values > least).sum())) if size is None else size
        return Subspace(self.mean, self.factor, (self.axes @ vectors.flip(1)[:, :count]).contiguous())


def excess_information(
    mixtures: tuple[GaussianMixture, GaussianMixture], space: Subspace, blocks: Iterable[Tensor]
) -> Tensor:
    r"""By how much a density of rows differs from one Gaussian, direction by direction.

    With :math:`y` a whitened row this is the symmetric part of :math:`E[g_1 g_2^\top]`, where
    :math:`g_i = \nabla_y \log q_i(y) + y` of two mixtures that estimate the same density. It is 0 along directions that
    are Gaussian and independent of all others; where it is not, half of it bounds their share of the KL divergence from
    the Gaussian of the same moments. What two mixtures of different rows mistake for structure cancels, on average.

    Args:
        mixtures: Two mixtures of the rows, each fitted to other ones.
        space: Subspace of all directions, which whitens the rows.
        blocks: All rows, block by block.

    Returns:
        ``(D, D)``.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> means = torch.tensor([[-0.9, 0.0], [0.9, 0.0]])              # two clusters along the first direction
        >>> covariance = torch.diag(torch.tensor([0.19, 1.0])).expand(2, 2, 2)
        >>> mixture = GaussianMixture.from_moments(torch.ones(2), means, covariance)
        >>> space = Subspace.whole(torch.zeros(2), torch.eye(2))
        >>> excess_information((mixture, mixture), space, [mixture.sample((4000,))]).diagonal() > 0.01
        tensor([ True, False])
    """
    total, rows = torch.zeros_like(space.factor), 0
    for block in blocks:
        block = block.to(space.mean)
        whitened = space.whitened(block)
        first, second = (mixture_score(mixture, block) @ space.factor + whitened for mixture in mixtures)
        total += first.T @ second
        rows += len(block)
    return 0.5 * (total + total.T) / rows


def subspace_parameter_count(components: int, dim: int, size: int) -> int:
    """Number of free parameters of a mixture in a subspace: mean and covariance of all rows, directions, mixture.

    The mixture has the mean 0 and the covariance 1 of whitened rows, which takes as many parameters away.

    Args:
        components: Number of components ``K``.
        dim: Dimension ``D`` of a row.
        size: Number of directions ``q``.

    Examples:
        >>> subspace_parameter_count(5, 3, 3) == 5 * (3 + 6) + 4    # as a mixture in all directions
        True
        >>> subspace_parameter_count(1, 3, 1) == 3 + 6 + 2          # one Gaussian, and a direction
        True
    """
    each = size + size * (size + 1) // 2
    return dim + dim * (dim + 1) // 2 + size * (dim - size) + (components - 1) * (each + 1)
