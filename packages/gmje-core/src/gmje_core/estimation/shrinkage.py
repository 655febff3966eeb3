r"""Shrinkage of covariances toward a target, so that a component with few observations does not turn singular."""

import torch
from torch import Tensor

__all__ = ["isotropic_target", "shrink_covariances"]


def shrink_covariances(second: Tensor, counts: Tensor, target: Tensor, prior_count: Tensor | float) -> Tensor:
    r"""Average each component's covariance with a target that counts as a number of further observations.

    .. math::
        \hat C_k = \frac{n_k C_k + \nu_k T}{n_k + \nu_k}

    This is the mode of the posterior under an inverse-Wishart prior of scale :math:`\nu_k T` with
    :math:`\nu_k - D - 1` degrees of freedom, whose own mode is :math:`T` (the prior of Fraley and Raftery, 2007,
    "Bayesian regularization for normal mixture estimation and model-based clustering", with its degrees of freedom
    counted as observations). With :math:`\nu_k = 0` nothing changes; with :math:`n_k = 0` the target is the result.

    Args:
        second: Covariances ``(K, D, D)``, or their diagonals ``(K, D)``.
        counts: Observations :math:`n_k` of each component, ``(K,)``.
        target: :math:`T`, ``(D, D)`` or ``(D,)`` as ``second``, or a scalar in place of ``(D,)``.
        prior_count: Observations :math:`\nu_k` that the target counts as: one number, or ``(K,)``.

    Returns:
        Tensor of the shape of ``second``. A component with neither observations nor prior observations is NaN.

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
    share = prior_count / (counts + prior_count)
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
