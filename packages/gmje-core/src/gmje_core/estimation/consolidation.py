"""The whole recipe that makes a density of frozen embeddings: EM with scales, matched moments, calibration.

A criterion uses it in its closing stage; it serves the embeddings of any other encoder as well.
"""

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from gmje_core.checks import check_at_least, check_counts
from gmje_core.errors import BatchSizeError, ConfigError, NonFiniteError, ScaleWarning, ShapeError
from gmje_core.estimation.calibration import (
    calibrate_conditional,
    calibrate_context,
    calibrate_gain,
    refit_scales,
)
from gmje_core.estimation.matching import match_moments
from gmje_core.estimation.scaled import ScaledFit, fit_scaled_mixture
from gmje_core.estimation.seeding import step_generator

__all__ = ["DENSITY_COMPONENTS", "fit_density"]

#: Factors of a density where no number is asked for.
DENSITY_COMPONENTS = 60
# A component needs so many pairs; with fewer pairs there are fewer components.
_PAIRS_A_COMPONENT = 20
# How far norms may be from one on the unit sphere.
_UNIT_TOLERANCE = 1e-3
# Least variance of pairs in any direction, in units of their mean variance; float32 can tell it from nothing.
_LEAST_VARIANCE = 1e-8
# Pairs by which it is judged, at most.
_JUDGED = 4096


@torch.no_grad()
def fit_density(
    context: Tensor,
    target: Tensor,
    validation: tuple[Tensor, Tensor],
    *,
    components: int = DENSITY_COMPONENTS,
    shrinkage: float | None = None,
    rounds: int | None = None,
    passes: int = 1,
    exchangeable: bool = False,
    seed: int = 0,
) -> ScaledFit:
    """Fit a calibrated mixture with scales to pairs of embeddings.

    The mixture is fitted by EM (:func:`~gmje_core.estimation.scaled.fit_scaled_mixture`), its gains are brought to the
    size that predicts the validation pairs best, and it is mapped so that its views have the embeddings' moments; then
    its scales and the spreads of its contexts and of its conditional are fitted to the validation pairs. Embeddings of
    unit norm give a density whose samples have unit norm.

    Pairs that do not fill their space, because embeddings lie in a subspace or one view is a function of the other,
    have no density there. They get noise of a ten-thousandth of their mean deviation in every coordinate, and the
    density is that of the noisy pairs.

    Args:
        context: ``(N, d_c)`` embeddings of the training items, as many pairs of views as you like of each.
        target: ``(N, d_t)``.
        validation: Pairs of items that are not among those, ``(M, d_c)`` and ``(M, d_t)``.
        components: Factors of the mixture; fewer where there are less than 20 pairs for each.
        shrinkage: Pseudo-observations of the pooled covariance in each component's; ``None`` to choose them on the
            validation pairs.
        rounds: Rounds of EM, in each of which every item shows one pair of views; ``None`` for 24, and for more than
            10,000 items fewer.
        passes: The training pairs are so many blocks of the same items in the same order.
        exchangeable: Whether one encoder gives both views and either may be the context.
        seed: Seed of the start.

    Returns:
        The density, with the mean log-density of the training pairs in EM's last round and that of the validation
        pairs in the end, in nats per pair.

    Raises:
        ShapeError: the pairs differ in their numbers of rows, or the validation pairs in their sizes.
        NonFiniteError: the embeddings hold NaN or infinity.
        BatchSizeError: fewer than two pairs for training or for validation, or passes that do not divide the pairs.
        ConfigError: ``components``, ``rounds`` or ``passes`` below one, a negative shrinkage, or exchangeable views of
            different sizes.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> context = torch.nn.functional.normalize(torch.randn(600, 2), dim=1)
        >>> target = torch.nn.functional.normalize(context + 0.1 * torch.randn(600, 2), dim=1)
        >>> fit = fit_density(context[:500], target[:500], (context[500:], target[500:]), components=2)
        >>> sample, _ = fit.density.sample((3,))
        >>> torch.allclose(sample.norm(dim=1), torch.ones(3))
        True
    """
    check_counts(components=components, passes=passes, rounds=1 if rounds is None else rounds)
    check_at_least(0, shrinkage=0.0 if shrinkage is None else shrinkage)
    _check(context, target, validation)
    if exchangeable and context.shape[1] != target.shape[1]:
        raise ConfigError(f"exchangeable views have one size, but these have {context.shape[1]} and {target.shape[1]}")
    context, target, validation = _filled(context, target, validation, seed)
    norms = torch.cat([context.float().norm(dim=1), target.float().norm(dim=1)])
    fit = fit_scaled_mixture(
        context,
        target,
        validation,
        components=max(1, min(components, len(context) // _PAIRS_A_COMPONENT)),
        shrinkage=shrinkage,
        rounds=rounds,
        passes=passes,
        exchangeable=exchangeable,
        unit_norm=bool((norms - 1).abs().max() < _UNIT_TOLERANCE),
        seed=seed,
    )
    both = torch.cat([context, target]) if exchangeable else None
    matched = match_moments(calibrate_gain(fit.density, *validation), context if both is None else both, both)
    matched = calibrate_context(refit_scales(matched, *validation), validation[0], seed=seed)
    density = calibrate_conditional(matched, *validation, seed=seed)
    roots = [float(found.parameters[-1][0, 0, 0]) for found in (density, matched)]
    return replace(
        fit,
        density=density,
        validation_log_prob=float(density.log_prob(*validation).double().mean()),
        conditional_factor=round((roots[0] / roots[1]) ** 2, 4),
    )


def _filled(
    context: Tensor, target: Tensor, validation: tuple[Tensor, Tensor], seed: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The pairs as they are, or with a little noise where they do not fill their space."""
    step = max(1, len(context) // _JUDGED)
    pairs = torch.cat([context[::step], target[::step]], dim=1).double()
    covariance = torch.cov(pairs.T, correction=0)
    least = _LEAST_VARIANCE * float(covariance.diagonal().mean())
    if float(torch.linalg.eigvalsh(covariance)[0]) >= least:
        return context, target, validation
    if len(context) <= len(covariance):
        warnings.warn(
            f"{len(context)} pairs do not fill their {len(covariance)} dimensions: their density says little of others",
            ScaleWarning,
            stacklevel=4,
        )
    generator = step_generator(seed, 2)

    def noisy(z: Tensor) -> Tensor:
        noise: Tensor = least**0.5 * torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z)
        return z + noise

    return noisy(context), noisy(target), (noisy(validation[0]), noisy(validation[1]))


def _check(context: Tensor, target: Tensor, validation: tuple[Tensor, Tensor]) -> None:
    """Raise a typed error unless all pairs are matrices of finite numbers that belong together."""
    parts = {"context": context, "target": target, "validation[0]": validation[0], "validation[1]": validation[1]}
    sizes = (context.shape[-1:], target.shape[-1:]) * 2
    rows = (len(context), len(context), len(validation[0]), len(validation[0]))
    for (name, z), size, count in zip(parts.items(), sizes, rows, strict=True):
        if z.ndim != 2 or z.shape[1:] != size or len(z) != count:
            raise ShapeError(f"{name} must have shape {(count, *size)}, but has {tuple(z.shape)}")
        finite = torch.isfinite(z).all(dim=1)
        if not finite.all():
            raise NonFiniteError(f"{name} holds NaN or infinity, first in row {int((~finite).nonzero()[0])}")
        if count < 2:
            raise BatchSizeError(f"{name} must hold at least 2 pairs, but holds {count}")
