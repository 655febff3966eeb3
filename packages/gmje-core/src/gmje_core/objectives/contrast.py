r"""Contrast: dependence where the samples are components, beside a learned density or alone.

InfoNCE, NT-Xent and a queue of particles are its limits.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from gmje_core.densities.covariance import DiagonalCovariance, SphericalCovariance
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import BatchSizeError, ConfigError, ShapeError
from gmje_core.linalg import LOG_2PI, full_precision, promote, require_finite
from gmje_core.objectives.rivals import rival_scores

__all__ = ["bank_pmi", "info_nce", "info_nce_mixture", "nt_xent", "semiparametric_pmi"]


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


def bank_pmi(
    query: Tensor,
    key: Tensor,
    bank: tuple[Tensor, Tensor] | None,
    variance: Tensor,
) -> Tensor:
    r"""Dependence in the contrastive limit, with weighted particles as the marginal.

    .. math::
        \log N(x; z, \tau I) - \log \Big[ \tfrac{1}{n+1} N(x; z, \tau I)
        + \tfrac{n}{n+1} \sum_m w_m N(x; z_m, \tau I) \Big]

    The key of the same pair is one more particle beside the ``n``. With uniform weights and unit norm,
    :math:`\log(n + 1)` minus this pmi is MoCo's loss with a queue of ``n`` (He et al., 2020).

    Args:
        query: ``(B, d)`` embeddings :math:`x`.
        key: ``(B, d)`` embeddings :math:`z` of the other views.
        bank: ``(n, d)`` particles in the space of the keys and their ``(n,)`` log-weights; ``None`` for none.
        variance: Scalar :math:`\tau`, the variance of the kernels.

    Returns:
        ``(B,)``, nats, at most ``log(n + 1)``; NaN where squared distances overflow, in units of the noise.

    Examples:
        >>> z = torch.eye(4)
        >>> bank = z[1:], torch.zeros(3)
        >>> torch.allclose(math.log(4) - bank_pmi(z[:1], z[:1], bank, torch.tensor(1.0)), info_nce(z, z, 1.0))
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
    scores = torch.stack(parts)
    pmi = own - (scores.logsumexp(dim=0) - math.log(total))
    # A single score that overflows can leave the value finite, but not the gradient.
    return pmi.masked_fill(~torch.isfinite(scores.detach()).all(), math.nan)


def semiparametric_pmi(
    z_context: Tensor,
    z_target: Tensor,
    noise: tuple[Tensor, Tensor],
    share: float,
    learned: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    r"""Dependence under a learned density that the pairs of the batch join as components, each scored by the others.

    Behind a noise channel of variances :math:`\nu_c, \nu_t` every other embedding of the batch, of either view, is a
    component of the marginal, and a pair is a target of that marginal whose context lies around it:

    .. math::
        \kappa(z_c^i) = \tfrac{1}{2 (B - 1)} \sum_{j \ne i} \big[ N(z_c^i; z_t^j, \nu_c I)
        + N(z_c^i; z_c^j, \nu_c I) \big], \qquad q_\lambda(z) = \lambda\, \kappa(z) + (1 - \lambda)\, q(z)

    .. math::
        \mathrm{pmi} = \log \frac{\lambda\, \kappa(z_t)\, N(z_c; z_t, \nu_c I) + (1 - \lambda)\, q(z_c, z_t)}
        {q_\lambda(z_c)\, q_\lambda(z_t)}

    and the mean of it and of the same with the views exchanged. The gradient passes through all embeddings. No pair is
    part of the marginal that scores it. At :math:`\lambda = 0` this is the pmi of the learned density. At
    :math:`\lambda = 1` and unit norm it is that of NT-Xent without the positive pair among the candidates, which is the
    decoupled contrastive loss of Yeh et al. (2022). It can be differentiated once.

    Args:
        z_context: ``(B, d)``, the whole batch, ``B`` at least 2.
        z_target: ``(B, d)``, in the same space.
        noise: Scalars, the variances of the noise of a dimension of either view; they carry no gradient.
        share: :math:`\lambda` in ``(0, 1]``, the weight of the batch.
        learned: ``(B,)`` log-densities of contexts, targets and pairs behind the channel under a density that was known
            before the batch; ``None`` for none, which makes the share 1.

    Returns:
        ``(B,)``, nats; NaN where squared distances overflow, in units of the noise.

    Examples:
        >>> z = torch.eye(4)
        >>> semiparametric_pmi(z, z, (torch.tensor(1.0), torch.tensor(1.0)), share=1.0)
        tensor([1., 1., 1., 1.])
    """
    # Embeddings are taken in units of the noise, so that float32 can hold squares.
    unit = torch.stack(noise).mean()
    context, target = (z / unit.sqrt().to(z) for z in (z_context, z_target))
    precisions = [(unit / variance).to(context) for variance in noise]
    constants = [(-0.5 * context.shape[1] * (LOG_2PI + variance.log())).to(context) for variance in noise]
    distances = (context - target).square().sum(dim=1)
    own = [constant - 0.5 * p * distances for constant, p in zip(constants, precisions, strict=True)]
    scores = rival_scores((context, target), (precisions[0], precisions[1]))
    rivals = math.log(2 * len(context) - 2)
    others = [constant + score - rivals for constant, score in zip(constants, scores, strict=True)]
    parts = [*own, *others]
    if learned is None or share == 1:
        pmi = 0.5 * (own[0] - others[0] + own[1] - others[1])
    else:
        ours, theirs = math.log(share), math.log1p(-share)
        parts += learned
        marginals = [
            torch.logaddexp(ours + batch, theirs + known) for batch, known in zip(others, learned[:2], strict=True)
        ]
        pairs = [
            torch.logaddexp(ours + batch + pair, theirs + learned[2])
            for batch, pair in zip(others[::-1], own, strict=True)
        ]
        pmi = 0.5 * (pairs[0] + pairs[1]) - marginals[0] - marginals[1]
    # A single score that overflows can leave the value finite, but not the gradient.
    return pmi.masked_fill(~torch.isfinite(torch.stack(parts).detach()).all(), math.nan)


def _kernel_mixture(log_weights: Tensor, means: Tensor, kernel: SphericalCovariance) -> GaussianMixture:
    return GaussianMixture(log_weights, means, kernel, validate_args=False)


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
