r"""The equations that score pairs of embeddings: likelihood, conditional likelihood, dependence, contrast as its limit.

All are pure functions of the whole batch and give nats; means are taken over pairs.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from gmje_core.densities.covariance import DiagonalCovariance, FullCovariance, SphericalCovariance
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import BatchSizeError, ConfigError, ShapeError, unknown_name
from gmje_core.estimation.moments import batch_moments
from gmje_core.linalg import (
    cholesky_or_nan,
    full_precision,
    half_log_det,
    promote,
    require_finite,
    safe_cholesky,
    whiten,
)

__all__ = [
    "ComponentWeights",
    "Direction",
    "bank_pmi",
    "conditional_nll",
    "conditional_pmi",
    "gaussian_information",
    "gaussian_mutual_information",
    "info_nce",
    "info_nce_mixture",
    "joint_nll",
    "mixture_pmi",
    "nt_xent",
    "pmi",
]

Direction = Literal["target", "context", "both"]
ComponentWeights = Literal["density", "batch"]


def joint_nll(density: JointGaussianMixture, z_context: Tensor, z_target: Tensor) -> Tensor:
    r"""Mean of :math:`-\log q(z_c, z_t)`.

    A likelihood alone rewards an encoder for shrinking: train densities with it, encoders with :func:`pmi`.

    Args:
        density: The joint mixture.
        z_context: ``(B, d_c)``.
        z_target: ``(B, d_t)``.

    Returns:
        Scalar, nats per pair.

    Raises:
        ShapeError, NonFiniteError: views that do not fit the density or each other.

    Examples:
        >>> density = JointGaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None], 1)
        >>> joint_nll(density, torch.zeros(3, 1), torch.zeros(3, 1))
        tensor(1.8379)
    """
    return -density.log_prob(z_context, z_target).mean()


def conditional_nll(
    density: JointGaussianMixture, z_context: Tensor, z_target: Tensor, direction: Direction = "target"
) -> Tensor:
    r"""Mean of :math:`-\log q(z_t \mid z_c)`, of :math:`-\log q(z_c \mid z_t)`, or of both.

    Args:
        density: The joint mixture.
        z_context: ``(B, d_c)``.
        z_target: ``(B, d_t)``.
        direction: The view that is predicted: ``target``, ``context``, or ``both`` for the mean of the two.

    Returns:
        Scalar, nats per pair.

    Raises:
        ConfigError: unknown direction.
        ShapeError, NonFiniteError: views that do not fit the density or each other.

    Examples:
        >>> density = JointGaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None], 1)
        >>> conditional_nll(density, torch.ones(3, 1), torch.zeros(3, 1))
        tensor(0.9189)
    """
    if direction not in get_args(Direction):
        raise ConfigError(unknown_name("direction", direction, get_args(Direction)))
    joint = density.log_prob(z_context, z_target)
    if direction == "target":
        return (density.context.log_prob(z_context) - joint).mean()
    if direction == "context":
        return (density.target.log_prob(z_target) - joint).mean()
    return (0.5 * (density.context.log_prob(z_context) + density.target.log_prob(z_target)) - joint).mean()


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


def bank_pmi(
    query: Tensor,
    key: Tensor,
    bank: tuple[Tensor, Tensor] | None,
    variance: Tensor,
    *,
    in_batch: bool = True,
) -> Tensor:
    r"""Dependence in the contrastive limit, with weighted particles as the marginal.

    .. math::
        \log N(x; z, \tau I) - \log \Big[ \tfrac{1}{n+1} N(x; z, \tau I)
        + \tfrac{n}{n+1} \sum_m w_m N(x; z_m, \tau I) \Big]

    The key of the same pair is one more particle beside the ``n``. With uniform weights, unit norm and
    ``in_batch=False``, :math:`\log(n + 1)` minus this pmi is MoCo's loss with a queue of ``n`` (He et al., 2020).

    Args:
        query: ``(B, d)`` embeddings :math:`x`.
        key: ``(B, d)`` embeddings :math:`z` of the other views.
        bank: ``(n, d)`` particles in the space of the keys and their ``(n,)`` log-weights; ``None`` for none.
        variance: Scalar :math:`\tau`, the variance of the kernels.
        in_batch: Whether the other keys of the batch count among the particles, each as heavy as the average one.

    Returns:
        ``(B,)``, nats, at most ``log(n + 1)``.

    Examples:
        >>> z = torch.eye(4)
        >>> torch.allclose(math.log(4) - bank_pmi(z, z, None, torch.tensor(1.0)).mean(), info_nce(z, z, 1.0))
        True
    """
    # Embeddings are taken in units of the noise, which is the same for every kernel, so that float32 can hold squares.
    scale = variance.sqrt().to(query)
    query, key = query / scale, key / scale
    kernel = SphericalCovariance(query.new_ones(1), query.shape[1], validate=False)
    own = _kernel_mixture(query.new_zeros(1), query.new_zeros(1, query.shape[1]), kernel).log_prob(query - key)
    total, parts = 1, [own]
    if bank is not None:
        particles, log_weights = bank
        rivals = _kernel_mixture(log_weights, particles / scale, kernel).log_prob(query)
        parts.append(rivals + math.log(len(particles)))
        total += len(particles)
    if in_batch:
        others = _kernel_mixture(query.new_zeros(len(key)), key, kernel).component_log_prob(query) + math.log(len(key))
        itself = torch.eye(len(key), dtype=torch.bool, device=key.device)
        parts.append(others.masked_fill(itself, torch.finfo(others.dtype).min).logsumexp(dim=1))
        total += len(key) - 1
    return own - (torch.stack(parts).logsumexp(dim=0) - math.log(total))


def _kernel_mixture(log_weights: Tensor, means: Tensor, kernel: SphericalCovariance) -> GaussianMixture:
    return GaussianMixture(log_weights, means, kernel, validate_args=False)


def _mean_distance_of_noise(mixture: GaussianMixture, variance: Tensor) -> Tensor:
    """Expected squared Mahalanobis norm of noise with variances ``(D,)`` under the only component of a mixture."""
    assert isinstance(mixture.covariance, FullCovariance)
    return whiten(torch.diag(variance.sqrt()), mixture.covariance.scale_tril[0]).square().sum()


def _gaussian_entropy(z: Tensor, noise: Tensor) -> Tensor:
    """Entropy in nats of the Gaussian with the moments of ``z`` (B, d) plus independent noise of variances (d,)."""
    _, _, covariance = batch_moments(z)
    factor = cholesky_or_nan(covariance + torch.diag(noise))
    return half_log_det(factor) + 0.5 * z.shape[1] * math.log(2 * math.pi * math.e)


def info_nce(z_context: Tensor, z_target: Tensor, temperature: float = 0.1) -> Tensor:
    r"""InfoNCE: each context must find its own target among those of the batch.

    .. math:: -\frac1B \sum_i \log \frac{\exp(z_c^i \cdot z_t^i / \tau)}{\sum_j \exp(z_c^i \cdot z_t^j / \tau)}

    on unit-normalised embeddings (van den Oord et al., 2018). It is the degenerate, non-parametric GMJE: see
    :func:`info_nce_mixture`.

    Args:
        z_context: ``(B, d)``, normalised here.
        z_target: ``(B, d)``, normalised here.
        temperature: :math:`\tau > 0`.

    Returns:
        Scalar, nats per pair; ``log B`` at chance.

    Raises:
        ShapeError, NonFiniteError, BatchSizeError: views that do not fit, or fewer than 2 pairs.
        ConfigError: a temperature that is not positive.

    Examples:
        >>> z = torch.eye(4)
        >>> info_nce(z, z, temperature=1.0)
        tensor(0.7437)
    """
    z_context, z_target = _unit_rows(z_context, z_target, temperature)
    with full_precision(z_context.device.type):
        logits = z_context @ z_target.T / temperature
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def nt_xent(z_context: Tensor, z_target: Tensor, temperature: float = 0.1) -> Tensor:
    """NT-Xent, the loss of SimCLR (Chen et al., 2020): InfoNCE among all ``2B`` views, both ways, self excluded.

    Args:
        z_context: ``(B, d)``, normalised here.
        z_target: ``(B, d)``, normalised here.
        temperature: Positive.

    Returns:
        Scalar, nats per view; ``log(2B - 1)`` at chance.

    Raises:
        ShapeError, NonFiniteError, BatchSizeError: views that do not fit, or fewer than 2 pairs.
        ConfigError: a temperature that is not positive.

    Examples:
        >>> z = torch.eye(4)
        >>> nt_xent(z, z, temperature=1.0)
        tensor(1.1654)
    """
    views = torch.cat(_unit_rows(z_context, z_target, temperature))
    with full_precision(views.device.type):
        logits = views @ views.T / temperature
        itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
        positive = torch.arange(len(views), device=views.device).roll(len(views) // 2)
        return F.cross_entropy(logits.masked_fill(itself, torch.finfo(logits.dtype).min), positive)


def info_nce_mixture(z_targets: Tensor, temperature: float = 0.1, target_scale: float = 1e-3) -> JointGaussianMixture:
    r"""The density whose dependence is InfoNCE: one component per sample, no structure within it.

    Weights :math:`1/B`, means :math:`[z_t^j ; z_t^j]`, covariance :math:`\mathrm{diag}(\tau I, s I)`. On
    unit-norm embeddings :math:`-\overline{\mathrm{pmi}} + \log B \to` :func:`info_nce` as :math:`s \to 0`.

    Args:
        z_targets: ``(B, d)``, normalised here.
        temperature: Variance :math:`\tau` of the context block.
        target_scale: Variance ``s`` of the target block.

    Returns:
        Density with ``B`` components and a tied diagonal covariance.

    Raises:
        ShapeError, NonFiniteError, BatchSizeError, ConfigError: as :func:`info_nce`.

    Examples:
        >>> z = torch.eye(4)
        >>> density = info_nce_mixture(z, temperature=1.0)
        >>> torch.allclose(math.log(4) - density.pmi(z, z).mean(), info_nce(z, z, temperature=1.0))
        True
    """
    if not target_scale > 0:
        raise ConfigError(f"target_scale must be positive, got {target_scale!r}")
    units, _ = _unit_rows(z_targets, z_targets, temperature)
    count, dim = units.shape
    variance = units.new_tensor([temperature, target_scale]).repeat_interleave(dim)
    return JointGaussianMixture(
        units.new_zeros(count),
        torch.cat([units, units], dim=-1),
        DiagonalCovariance(variance.unsqueeze(0)),
        context_dim=dim,
    )


def _unit_rows(z_context: Tensor, z_target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Check the arguments of a contrastive loss and normalise the embeddings."""
    if z_context.ndim != 2 or z_context.shape != z_target.shape:
        raise ShapeError(
            "z_context and z_target must have the same shape (B, d), but have "
            f"{tuple(z_context.shape)} and {tuple(z_target.shape)}"
        )
    if len(z_context) < 2:
        raise BatchSizeError(f"a contrast needs at least 2 pairs, but the batch holds {len(z_context)}")
    if not 0 < temperature < math.inf:
        raise ConfigError(f"temperature must be positive and finite, got {temperature!r}")
    require_finite("z_context", z_context)
    require_finite("z_target", z_target)
    z_context, z_target = promote(z_context, z_target)
    return F.normalize(z_context, dim=-1), F.normalize(z_target, dim=-1)
