r"""What EM needs of factor analysers: moments of rows and of their factors, without a ``D x D`` matrix for a component.

For components :math:`N(\mu_k, W_k W_k^\top + \mathrm{diag}(v_k))` the E-step of Ghahramani and Hinton (1996, "The EM
algorithm for mixtures of factor analyzers") needs the second moments :math:`S_k` of a component's rows only as
:math:`V_k = S_k \beta_k^\top` and as their diagonal, :math:`D (r + 1)` numbers in place of :math:`D^2`. Both are sums
over rows, so they add up over blocks, batches and processes.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from gmje_core.densities.covariance.low_rank import RELATIVE_FLOOR, LowRankCovariance, factor_step
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.estimation.moments import merge_moments
from gmje_core.estimation.shrinkage import CovariancePrior

__all__ = ["FactorMoments", "FactorSums", "random_factors"]

# Share of each variance that the factors explain at a random start.
_START_SHARE = 0.5
# A difference of squares is wrong by at most so many units in the last place of the squares.
_ROUNDINGS = 64


@dataclass(frozen=True)
class FactorMoments:
    r"""Moments of each component's share of the rows, and of the rows with their factors.

    Attributes:
        mass: Share of the rows of each component, ``(K,)``.
        means: ``(K, D)``.
        variances: Diagonals of the second moments :math:`S_k` about these means, ``(K, D)``.
        cross: :math:`V_k = S_k \beta_k^\top`, ``(K, D, r)``.
        scored: Covariance with the gains :math:`\beta_k` that the factors were inferred by.
    """

    mass: Tensor
    means: Tensor
    variances: Tensor
    cross: Tensor
    scored: LowRankCovariance

    @property
    def latent(self) -> Tensor:
        r"""Second moments of the factors, :math:`A_k = M_k^{-1} + \beta_k S_k \beta_k^\top`, ``(K, r, r)``."""
        gain, noise = self.scored.latent_posterior()
        return noise + gain @ self.cross

    def shrunk(self, prior: CovariancePrior) -> Self:
        r"""Moments with :math:`(n_k S_k + \nu T) / (n_k + \nu)` in the place of :math:`S_k`."""
        gain, _ = self.scored.latent_posterior()
        target = prior.target
        if target.ndim == 2:
            variances, cross = target.diagonal(), target @ gain.mT
        else:
            variances, cross = target, target.unsqueeze(-1) * gain.mT
        share = (self.mass / (self.mass + prior.mass)).unsqueeze(-1)
        return type(self)(
            self.mass,
            self.means,
            torch.lerp(variances.expand_as(self.variances), self.variances, share),
            torch.lerp(cross, self.cross, share.unsqueeze(-1)),
            self.scored,
        )

    def covariance(self, ridge: float = 0.0) -> LowRankCovariance:
        r"""One step of factor analysis of :math:`S_k + \epsilon I`; a component without mass keeps its covariance.

        The least diagonal variance is the ridge, and a millionth of the variance of the dimension: a component with
        fewer rows than factors has that floor in the directions that its rows do not span.

        Args:
            ridge: :math:`\epsilon`.

        Returns:
            A covariance that makes these moments no less likely than the one that they were inferred by.

        Raises:
            NonFiniteError, NotPositiveDefiniteError: a dimension of a component has no variance, or the moments have
                lost all their digits.
        """
        gain, noise = self.scored.latent_posterior()
        cross, variances = self.cross + ridge * gain.mT, self.variances + ridge
        least = (RELATIVE_FLOOR * variances).clamp_min(ridge)
        factor, variance = factor_step(cross, noise + gain @ cross, variances, least)
        kept = (self.mass <= 0).unsqueeze(-1)
        return LowRankCovariance(
            torch.where(kept.unsqueeze(-1), self.scored.factor, factor),
            torch.where(kept, self.scored.diagonal_variance, variance),
        )

    def follow(self, batch: "FactorMoments", step: float | Tensor) -> Self:
        r"""Running moments after a step of online EM; see :func:`~gmje_core.estimation.moments.merge_moments`.

        Rows and factors are merged as one vector. The factors are then whitened, which takes their covariance into
        ``cross``: that one is the factor of the next covariance, and :attr:`variances` less its squares are the noise.

        Args:
            batch: Moments of the batch, inferred at the means of these moments.
            step: :math:`\gamma` in ``(0, 1]``.
        """
        merged, means, variances = merge_moments(
            (self.mass, self.means, self.variances), (batch.mass, batch.means, batch.variances), step
        )
        gain, _ = batch.scored.latent_posterior()
        rho = (step * batch.mass / merged.clamp_min(torch.finfo(merged.dtype).tiny))[:, None, None]
        delta = (batch.means - self.means).unsqueeze(-1)
        shift = gain @ delta
        eye = torch.eye(gain.shape[-2]).to(gain)
        cross = rho * batch.cross + rho * (1 - rho) * delta @ shift.mT
        latent = rho * batch.latent + rho * (1 - rho) * shift @ shift.mT
        if len(self.cross) == 1 and len(merged) > 1:  # The components share one covariance.
            share = (merged / merged.sum())[:, None, None]
            rho, cross, latent = [(share * value).sum(dim=0, keepdim=True) for value in (rho, cross, latent)]
        factor, _ = factor_step((1 - rho) * self.cross + cross, (1 - rho) * eye + latent, variances, 0.0)
        return type(self)(merged, means, variances, factor, self.scored)


class FactorSums:
    """Sums over rows from which :class:`FactorMoments` follow, in float64, added up block by block.

    A row costs about :math:`4 K D r` operations, and the sums take :math:`K D (r + 2)` numbers. Squares are taken about
    the mean of the mixture: clusters that lie :math:`10^s` of their standard deviations apart lose :math:`2 s` of 16
    digits.

    Args:
        mixture: The mixture that infers the factors, with low-rank covariances.

    Examples:
        >>> source = LowRankCovariance(torch.ones(1, 2, 1), torch.ones(1, 2))
        >>> sums = FactorSums(GaussianMixture(torch.zeros(1), torch.zeros(1, 2), source))
        >>> for block in (torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0, 3.0]])):
        ...     sums.add(block, torch.ones(1, 1))
        >>> moments = sums.moments()
        >>> moments.means.tolist(), moments.variances.tolist(), moments.cross.round(decimals=4).tolist()
        ([[2.0, 2.0]], [[1.0, 1.0]], [[[0.6667], [0.6667]]])
    """

    def __init__(self, mixture: GaussianMixture) -> None:
        covariance = mixture.covariance
        assert isinstance(covariance, LowRankCovariance)
        means = mixture.means.double()
        self.origin = mixture.weights.double() @ means
        self.centres = means - self.origin
        self.scored = covariance.to(torch.float64)
        gain, _ = self.scored.latent_posterior()
        self.gain = gain.expand(len(means), -1, -1)
        self.offset = (self.gain @ self.centres.unsqueeze(-1)).squeeze(-1)
        self.rows = 0
        self.mass = torch.zeros_like(means[:, 0])
        self.first, self.square = torch.zeros_like(means), torch.zeros_like(means)
        self.cross = torch.zeros_like(self.gain.mT)

    def add(self, x: Tensor, responsibilities: Tensor) -> None:
        """Add a block of rows ``(b, D)`` with their responsibilities ``(b, K)``."""
        rows, share = x.double() - self.origin, responsibilities.double()
        latent = torch.addmm(-self.offset.flatten(), rows, self.gain.flatten(0, 1).T).view(len(x), *self.offset.shape)
        self.rows += len(x)
        self.mass += share.sum(dim=0)
        self.first += share.T @ rows
        self.square += share.T @ rows.square()
        weighted = latent.mul_(share.unsqueeze(-1)).flatten(1)
        self.cross += (rows.T @ weighted).view(-1, *self.offset.shape).transpose(0, 1)

    def moments(self) -> FactorMoments:
        """The moments of all rows added so far."""
        total = self.mass.clamp_min(torch.finfo(self.mass.dtype).tiny)
        mean = torch.where(self.mass.unsqueeze(-1) > 0, self.first / total.unsqueeze(-1), self.centres)
        squares = self.square / total.unsqueeze(-1)
        variances = squares - mean.square()
        # Below its rounding error a difference of squares is no variance: it counts as none, which the M-step names.
        rounding = _ROUNDINGS * torch.finfo(squares.dtype).eps * squares
        variances = torch.where(variances > rounding, variances, 0.0)
        shift = self.gain @ (mean - self.centres).unsqueeze(-1)
        cross = self.cross / total[:, None, None] - mean.unsqueeze(-1) @ shift.mT
        return FactorMoments(self.mass / self.rows, self.origin + mean, variances, cross, self.scored)


def random_factors(variances: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """Random factors that explain half of each variance: where factor analysis of unknown second moments begins.

    Args:
        variances: ``(K, D)``.
        rank: Number of columns ``r``.
        generator: CPU generator; the same state draws the same factors on every device and process.

    Returns:
        ``(K, D, r)``.

    Examples:
        >>> factors = random_factors(torch.tensor([[1.0, 4.0]]), 3, torch.Generator().manual_seed(0))
        >>> factors.square().sum(dim=-1)
        tensor([[0.5000, 2.0000]])
    """
    noise = torch.randn(*variances.shape, rank, generator=generator, dtype=torch.float64).to(variances)
    return noise * (_START_SHARE * variances / noise.square().sum(dim=-1)).sqrt().unsqueeze(-1)
