r"""How much two views tell of each other: pointwise mutual information under mixtures, Gaussians and networks."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from gmje_core.densities.covariance import FullCovariance
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError, unknown_name
from gmje_core.estimation.moments import batch_moments
from gmje_core.linalg import (
    cholesky_or_nan,
    full_precision,
    half_log_det,
    promote,
    safe_cholesky,
    whiten,
)
from gmje_core.objectives.likelihood import conditional_nll

__all__ = [
    "ComponentWeights",
    "conditional_pmi",
    "gaussian_information",
    "gaussian_mutual_information",
    "mixture_pmi",
    "pmi",
]

ComponentWeights = Literal["density", "batch"]


def pmi(
    density: JointGaussianMixture,
    z_context: Tensor,
    z_target: Tensor,
    weights: ComponentWeights = "density",
) -> Tensor:
    r"""Pointwise mutual information of the pairs; an encoder minimises minus its mean.

    .. math::
        \mathrm{pmi} = \log q(z_c, z_t) - \log q(z_c) - \log q(z_t)
        = \log \sum_k \frac{p(k \mid z_c)\, p(k \mid z_t)}{w_k} \exp \mathrm{pmi}_k(z_c, z_t)

    exactly, where :math:`\mathrm{pmi}_k` is the pmi under component ``k`` alone. With ``weights="batch"`` the
    :math:`w_k` of the denominator is the mean responsibility of the batch over both views, with gradient: the entropy
    of the assignment is then part of the objective, which keeps components in use.

    Args:
        density: The joint mixture.
        z_context: ``(B, d_c)``, the whole batch.
        z_target: ``(B, d_t)``.
        weights: ``density`` or ``batch``.

    Returns:
        ``(B,)``, nats.

    Raises:
        ConfigError: unknown ``weights``.
        ShapeError, NonFiniteError: views that do not fit the density or each other.

    Examples:
        >>> covariance = torch.tensor([[[1.0, 0.8], [0.8, 1.0]]])
        >>> density = JointGaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), covariance, 1)
        >>> pmi(density, torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [-1.0]]))
        tensor([ 0.9553, -3.4892])
    """
    if weights not in get_args(ComponentWeights):
        raise ConfigError(unknown_name("weights", weights, get_args(ComponentWeights)))
    if weights == "density":
        return density.pmi(z_context, z_target)
    return mixture_pmi(*density.view_log_probs(z_context, z_target), density.log_weights, weights)


def mixture_pmi(
    context: Tensor, target: Tensor, joint: Tensor, log_weights: Tensor, weights: ComponentWeights = "density"
) -> Tensor:
    """Pointwise mutual information from the scores of a batch, the equation of :func:`pmi`.

    Args:
        context: ``(B, K)`` log-probabilities of the contexts under each component, with the log-weight added.
        target: ``(B, K)`` the same of the targets.
        joint: ``(B, K)`` the same of the pairs.
        log_weights: ``(K,)`` log-weights of the components.
        weights: ``density`` or ``batch``.

    Returns:
        ``(B,)``, nats.

    Examples:
        >>> scores = torch.tensor([[0.1, 0.4]]).log()         # two components without structure inside
        >>> bool(mixture_pmi(scores, scores, scores * 2 - torch.log(torch.tensor(0.5)), torch.tensor([0.5, 0.5]).log())
        ...      > 0)
        True
    """
    within = joint - context - target + log_weights
    by_context, by_target = context.log_softmax(dim=-1), target.log_softmax(dim=-1)
    if weights == "density":
        return (by_context + by_target - log_weights + within).logsumexp(dim=-1)
    both = torch.cat([by_context.flatten(0, -2), by_target.flatten(0, -2)])
    log_usage = both.logsumexp(dim=0) - math.log(len(both))
    # A component that no one uses has usage 0 and numerator 0: a floor keeps their ratio and its gradient finite.
    log_usage = log_usage.clamp_min(math.log(torch.finfo(both.dtype).tiny))
    return (by_context + by_target - log_usage + within).logsumexp(dim=-1)


def gaussian_mutual_information(covariance: Tensor, context_dim: int) -> Tensor:
    r"""Mutual information of the two blocks of a Gaussian, :math:`\tfrac12 (\log|C_{cc}| + \log|C_{tt}| - \log|C|)`.

    Args:
        covariance: ``(..., D, D)``, context first.
        context_dim: ``d_c``, between 1 and ``D - 1``.

    Returns:
        ``(...)``, nats.

    Raises:
        ConfigError: ``context_dim`` out of range.
        ShapeError, NonFiniteError, NotPositiveDefiniteError: not a covariance.

    Examples:
        >>> gaussian_mutual_information(torch.tensor([[1.0, 0.8], [0.8, 1.0]]), 1)   # -log(1 - 0.8 ** 2) / 2
        tensor(0.5108)
    """
    if not 1 <= context_dim < covariance.shape[-1]:
        raise ConfigError(f"context_dim must lie between 1 and D - 1 = {covariance.shape[-1] - 1}, got {context_dim!r}")
    (covariance,) = promote(covariance)
    with full_precision(covariance.device.type):
        factor = safe_cholesky(covariance)
        target = safe_cholesky(covariance[..., context_dim:, context_dim:])
    return half_log_det(target) - half_log_det(factor[..., context_dim:, context_dim:])


def gaussian_information(
    density: JointGaussianMixture, z_context: Tensor, z_target: Tensor, noise: Tensor, ridge: Tensor
) -> Tensor:
    r"""Mutual information of the views under a joint Gaussian that was known before the batch, behind a noise channel.

    .. math::
        \tfrac12 \big[H(C_{cc} + \nu_c) + H(C_{tt} + \nu_t)\big]
        + \tfrac12 \big[\log q(z_t \mid z_c) + \log q(z_c \mid z_t)\big] - \epsilon, \qquad
        H(C) = \tfrac12 \log |2 \pi e\, C|

    with :math:`q` one Gaussian that has the noise in its covariance, :math:`C` the covariance of the batch and
    :math:`\nu` the noise and the ridge. The noise is not drawn; :math:`\epsilon` is the constant that it would add to
    the mean of the conditional NLLs. The Mahalanobis terms pull the pairs together because :math:`q` is
    constant in them; the entropies keep every dimension in use.

    Args:
        density: One joint Gaussian with full covariance, detached.
        z_context: ``(B, d_c)``, the whole batch.
        z_target: ``(B, d_t)``.
        noise: ``(D,)`` variances of the channel, which ``density`` has in it.
        ridge: ``(D,)`` variances that are added to the covariances of the batch besides the noise.

    Returns:
        Scalar, nats per pair; NaN where a covariance of the batch is singular even with noise and ridge.

    Examples:
        >>> covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
        >>> density = JointGaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), covariance[None], 1)
        >>> z_context, z_target = (torch.linalg.cholesky(covariance) @ torch.randn(2, 50_000)).split(1)
        >>> information = gaussian_information(density, z_context.T, z_target.T, torch.zeros(2), torch.zeros(2))
        >>> bool((information - gaussian_mutual_information(covariance, 1)).abs() < 0.05)
        True
    """
    added = (noise + ridge).to(z_context)
    entropy = _gaussian_entropy(z_context, added[: density.context_dim])
    entropy = 0.5 * (entropy + _gaussian_entropy(z_target, added[density.context_dim :]))
    # A conditional distance is the joint distance minus the marginal one.
    noise = noise.to(density.means)
    joint = _mean_distance_of_noise(density.joint, noise)
    context = _mean_distance_of_noise(density.context, noise[: density.context_dim])
    target = _mean_distance_of_noise(density.target, noise[density.context_dim :])
    undrawn = 0.5 * (joint - 0.5 * (context + target))
    return entropy - (conditional_nll(density, z_context, z_target, direction="both") + undrawn)


def conditional_pmi(posterior: GaussianMixture, z_target: Tensor, noise: Tensor) -> Tensor:
    r"""Dependence under a conditional density, with the batch's own conditionals as the marginal.

    .. math:: \log q(z_t^i \mid z_c^i) - \log \frac1B \sum_j q(z_t^i \mid z_c^j)

    It is at most ``log B``, as in a contrastive loss, but compares pairs by a normalised conditional mixture.

    Args:
        posterior: Mixtures of the target given the batch's contexts, of batch shape ``(B,)``.
        z_target: ``(B, d_t)``.
        noise: Scalar, variance of the channel noise of a target dimension, which is added to the covariances.

    Returns:
        ``(B,)``, nats.

    Examples:
        >>> means = torch.tensor([[[0.0]], [[5.0]]])
        >>> posterior = GaussianMixture.from_moments(torch.ones(2, 1), means, torch.ones(2, 1, 1, 1))
        >>> conditional_pmi(posterior, means[:, 0], torch.tensor(0.0)) < math.log(2)
        tensor([True, True])
    """
    smooth = posterior.covariance.add_diagonal(noise)
    batch = GaussianMixture(
        posterior.log_weights.flatten(),
        posterior.means.flatten(0, 1),
        smooth.map(lambda tensor: tensor.flatten(0, 1)),
        validate_args=False,
    )
    count = len(posterior.means)
    # Rows are targets, columns contexts; the flat mixture divides every weight by the number of contexts.
    scores = batch.component_log_prob(z_target).view(len(z_target), count, -1).logsumexp(dim=2)
    return scores.diagonal() + math.log(count) - scores.logsumexp(dim=1)


def _mean_distance_of_noise(mixture: GaussianMixture, variance: Tensor) -> Tensor:
    """Expected squared Mahalanobis norm of noise with variances ``(D,)`` under the only component of a mixture."""
    assert isinstance(mixture.covariance, FullCovariance)
    return whiten(torch.diag(variance.sqrt()), mixture.covariance.scale_tril[0]).square().sum()


def _gaussian_entropy(z: Tensor, noise: Tensor) -> Tensor:
    """Entropy in nats of the Gaussian with the moments of ``z`` (B, d) plus independent noise of variances (d,)."""
    _, _, covariance = batch_moments(z)
    factor = cholesky_or_nan(covariance + torch.diag(noise))
    return half_log_det(factor) + 0.5 * z.shape[1] * math.log(2 * math.pi * math.e)
