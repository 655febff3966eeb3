r"""Shrinkage of covariances toward a target, so that a component with few observations does not turn singular."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gmje_core.densities.covariance import Covariance
from gmje_core.linalg import safe_cholesky

__all__ = ["CovariancePrior", "TargetKind", "isotropic_target", "shrink_covariances"]

#: What covariances are shrunk toward: the pooled covariance within components, or the isotropic one of its variance.
TargetKind = Literal["pooled", "isotropic"]


@dataclass(frozen=True)
class CovariancePrior:
    r"""Inverse-Wishart prior that each component's covariance has in EM over ``N`` rows, with a target that stays.

    Its logarithm is, up to a constant and divided by ``N`` as the mean log-density of the rows is,

    .. math::
        \frac{1}{N} \log p(\Sigma_1, \dots, \Sigma_K)
        = -\frac{\nu}{2 N} \sum_k \big( \log |\Sigma_k| + \mathrm{tr}(T \Sigma_k^{-1}) \big),

    which each component's ``nu`` further rows of covariance ``T`` about its mean would add. Its M-step is
    :func:`shrink_covariances`.

    Attributes:
        target: :math:`T`, ``(D, D)``, or its diagonal ``(D,)`` where the covariances are diagonal.
        mass: :math:`\nu / N`.
    """

    target: Tensor
    mass: float

    def log_density(self, covariance: Covariance) -> Tensor:
        """Logarithm of the prior of covariances of leading shape ``(K,)``, up to a constant and divided by ``N``.

        Examples:
            >>> from gmje_core.densities.covariance import SphericalCovariance
            >>> CovariancePrior(torch.ones(3), mass=0.5).log_density(SphericalCovariance(torch.ones(2), 3))
            tensor(-1.5000)
        """
        root = self.target.sqrt().diag() if self.target.ndim == 1 else safe_cholesky(self.target, name="target")
        origin = root.new_zeros(len(covariance.half_log_det()), len(root)).to(covariance.dtype)
        # The trace is the sum of the squared Mahalanobis norms of the columns of a root of the target.
        trace = covariance.squared_mahalanobis(root.mT.to(covariance.dtype), origin).sum(dim=0)
        return -0.5 * self.mass * (2 * covariance.half_log_det() + trace).sum()


def shrink_covariances(second: Tensor, counts: Tensor, target: Tensor, prior_count: Tensor | float) -> Tensor:
    r"""Average each component's covariance with a target that counts as a number of further observations.

    .. math::
        \hat C_k = \frac{n_k C_k + \nu_k T}{n_k + \nu_k}

    This is the mode of the posterior under an inverse-Wishart prior of scale :math:`\nu_k T` with
    :math:`\nu_k - D - 1` degrees of freedom, whose own mode is :math:`T` (the prior of Fraley and Raftery, 2007,
    "Bayesian regularization for normal mixture estimation and model-based clustering", with its degrees of freedom
    counted as observations). With :math:`n_k = 0` the target is the result, whatever :math:`\nu_k`; otherwise with
    :math:`\nu_k = 0` nothing changes.

    Args:
        second: Covariances ``(K, D, D)``, or their diagonals ``(K, D)``.
        counts: Observations :math:`n_k` of each component, ``(K,)``.
        target: :math:`T`, ``(D, D)`` or ``(D,)`` as ``second``, or a scalar in place of ``(D,)``.
        prior_count: Observations :math:`\nu_k` that the target counts as: one number, or ``(K,)``.

    Returns:
        Tensor of the shape of ``second``.

    Examples:
        >>> second = torch.tensor([[4.0, 0.0], [0.0, 0.0]])
        >>> shrink_covariances(second, torch.tensor([3.0, 0.0]), torch.tensor(2.0), 1.0)
        tensor([[3.5000, 0.5000],
                [2.0000, 2.0000]])
    """
    shape = (-1, *[1] * (second.ndim - 1))
    counts = counts.view(shape)
    if isinstance(prior_count, Tensor):
        prior_count = prior_count.view(shape)
    share = torch.where(counts > 0, prior_count / (counts + prior_count), 1.0)
    return (1 - share) * second + share * target


def isotropic_target(covariance: Tensor, *, diagonal: bool) -> Tensor:
    """Isotropic covariance with the mean variance of another one.

    Args:
        covariance: ``(D, D)``, or its diagonal ``(D,)``.
        diagonal: Whether only the diagonal is given and wanted.

    Returns:
        Tensor of the shape of ``covariance``.

    Examples:
        >>> isotropic_target(torch.tensor([[1.0, 0.5], [0.5, 3.0]]), diagonal=False)
        tensor([[2., 0.],
                [0., 2.]])
    """
    if diagonal:
        return covariance.mean().expand(covariance.shape)
    return covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
