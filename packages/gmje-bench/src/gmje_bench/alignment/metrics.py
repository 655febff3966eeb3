r"""Measures of how far a conditional is from the truth, as pure functions of log-probabilities and samples.

Every one is 0 (mode recall: 1) for a perfect model up to sampling noise; the noise is what the truth scores against
itself.
"""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

__all__ = [
    "ModeMasses",
    "conditional_kl",
    "energy_distance",
    "gaussian_kl",
    "hpd_ranks",
    "mode_masses",
    "mode_recall",
    "pit_values",
    "sliced_wasserstein",
    "uniformity_error",
    "weight_error",
]

#: The truth's mass from which on a branch counts as a mode.
LEAST_MODE = 0.1
#: Share of a mode's samples that its ball holds, and share of the truth's mass there that a model must reach.
_BALL, _RECALL = 0.9, 0.5


def conditional_kl(truth_log_prob: Tensor, model_log_prob: Tensor) -> tuple[float, float]:
    r"""KL of the truth to the model, given the context: held-out NLL of the model minus that of the truth.

    .. math:: \mathbb E_{z_c, z_t}\left[\log p(z_t \mid z_c) - \log q(z_t \mid z_c)\right]

    Args:
        truth_log_prob: ``(n,)``, log-densities under the truth of held-out pairs.
        model_log_prob: ``(n,)``, log-densities of the same pairs under the model.

    Returns:
        The estimate and its standard error, nats; both densities see the same pairs, so the error is that of the
        difference.

    Examples:
        >>> conditional_kl(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.5, 2.5]))
        (0.5, 0.0)
    """
    difference = truth_log_prob.double() - model_log_prob.double()
    return float(difference.mean()), float(difference.std()) / math.sqrt(len(difference))


def gaussian_kl(truth_log_prob: Tensor, residuals: Tensor, covariance: Tensor | None = None) -> float:
    r"""KL that theory gives a Gaussian of constant covariance, in the limit of infinite data.

    The best Gaussian around a prediction has the covariance :math:`C` of its residuals, and its KL is
    :math:`\tfrac12 \log\det(2 \pi e\, C) - h(z_t \mid z_c)`. Residuals from the conditional mean give the least that
    MSE regression can reach, residuals from the best linear prediction that of one joint Gaussian (GJE). Here both
    terms are means over given pairs, so that a model measured on the same pairs shares their noise.

    Args:
        truth_log_prob: ``(n,)``, log-densities of pairs under the truth.
        residuals: ``(n, d_t)``, the residuals of the same pairs.
        covariance: ``C``, ``(d_t, d_t)``; the second moment of these residuals where omitted.

    Returns:
        Nats.

    Examples:
        >>> x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
        >>> log_prob = torch.distributions.Normal(0.0, 1.0).log_prob(x[:, 0])
        >>> abs(round(gaussian_kl(log_prob, x), 3)), round(gaussian_kl(log_prob, x, 4 * torch.eye(1)), 3)
        (0.0, 0.318)
    """
    residuals = residuals.double()
    chosen = residuals.T @ residuals / len(residuals) if covariance is None else covariance.double()
    half_log_det = 0.5 * torch.linalg.slogdet(2 * math.pi * chosen).logabsdet
    distances = (residuals * torch.linalg.solve(chosen, residuals.T).T).sum(dim=1)
    return float(half_log_det + (0.5 * distances + truth_log_prob.double()).mean())


def energy_distance(x: Tensor, y: Tensor) -> float:
    r"""Squared energy distance :math:`2\,E|X - Y| - E|X - X'| - E|Y - Y'|`, without bias: it may be negative.

    Székely and Rizzo (2013). In units of the samples.

    Args:
        x: ``(n, d)``.
        y: ``(m, d)``.

    Examples:
        >>> energy_distance(torch.zeros(4, 1), torch.ones(3, 1))
        2.0
    """
    return float(2 * torch.cdist(x, y).mean() - _mean_distance(x) - _mean_distance(y))


def _mean_distance(x: Tensor) -> Tensor:
    return torch.pdist(x).mean()


def sliced_wasserstein(x: Tensor, y: Tensor, generator: Generator, directions: int = 128) -> float:
    """Mean over random directions of the 1-Wasserstein distance of the projections.

    Args:
        x: ``(n, d)``.
        y: ``(n, d)``, as many rows.
        generator: The source of the random directions.
        directions: The number of directions.

    Returns:
        The distance in units of the samples.

    Examples:
        >>> x = torch.randn(100, 1)
        >>> round(sliced_wasserstein(x, x + 3, torch.Generator()), 4)
        3.0
    """
    slices = torch.randn(x.shape[1], directions, generator=generator, dtype=x.dtype)
    slices = slices / slices.norm(dim=0)
    ordered = [(z @ slices).sort(dim=0).values for z in (x, y)]
    return float((ordered[0] - ordered[1]).abs().mean())


class ModeMasses(NamedTuple):
    """Samples counted by the truth's modes.

    Attributes:
        truth: ``(n, M)``, share of the truth's samples nearest to each mode's centre.
        model: ``(n, M)``, the same share of the model's samples.
        truth_near: ``(n, M)``, share of the truth's samples in the mode's ball: the ball around the centre that
            holds nine tenths of the truth's samples nearest to it.
        model_near: ``(n, M)``, the same share of the model's samples.
    """

    truth: Tensor
    model: Tensor
    truth_near: Tensor
    model_near: Tensor


def mode_masses(centers: Tensor, truth_samples: Tensor, model_samples: Tensor) -> ModeMasses:
    """Count samples of every context by the nearest of its modes.

    Args:
        centers: ``(n, M, d)``, the centres of the modes; rows of NaN stand for no mode.
        truth_samples: ``(S, n, d)``.
        model_samples: ``(S', n, d)``.

    Examples:
        >>> centers = torch.tensor([[[-1.0], [1.0]]])
        >>> two, one = torch.tensor([-1.0, 1.0]).view(2, 1, 1), torch.tensor([-1.0, -1.0]).view(2, 1, 1)
        >>> masses = mode_masses(centers, two, one)
        >>> masses.truth.tolist(), masses.model.tolist()
        ([[0.5, 0.5]], [[1.0, 0.0]])
        >>> mode_recall(masses), weight_error(masses)
        (0.5, 0.5)
    """
    truth_nearest, truth_distance = _nearest(centers, truth_samples)
    model_nearest, model_distance = _nearest(centers, model_samples)
    distances = torch.where(truth_nearest, truth_distance.unsqueeze(-1), math.nan)
    radius = distances.nanquantile(_BALL, dim=0).nan_to_num(0.0)
    near = [
        (mask & (distance.unsqueeze(-1) <= radius)).double().mean(dim=0)
        for mask, distance in ((truth_nearest, truth_distance), (model_nearest, model_distance))
    ]
    return ModeMasses(truth_nearest.double().mean(dim=0), model_nearest.double().mean(dim=0), near[0], near[1])


def _nearest(centers: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Which centre is nearest ``(S, n, M)``, one-hot, and how far it is ``(S, n)``."""
    distances = torch.cdist(samples.transpose(0, 1), centers.to(samples.dtype)).transpose(0, 1)
    distances = torch.where(distances.isnan(), math.inf, distances)
    distance, index = distances.min(dim=2)
    return torch.nn.functional.one_hot(index, centers.shape[1]).bool(), distance


def mode_recall(masses: ModeMasses) -> float:
    """Share of the truth's modes that the model has.

    A mode is a branch with at least a tenth of the truth's mass at its context; the model has it when it puts at
    least half as much mass in the mode's ball as the truth does. A single wide Gaussian reaches over all branches
    and yet fails.

    Args:
        masses: What :func:`mode_masses` gave.

    Returns:
        Between 0 and 1; all contexts' modes count alike.
    """
    counted = masses.truth >= LEAST_MODE
    found = masses.model_near >= _RECALL * masses.truth_near
    return float(found[counted].double().mean())


def weight_error(masses: ModeMasses) -> float:
    r"""Mean over contexts of the total variation :math:`\tfrac12 \sum_m |p_m - q_m|` of the masses per mode."""
    return float(0.5 * (masses.truth - masses.model).abs().sum(dim=1).mean())


def pit_values(target: Tensor, samples: Tensor, generator: Generator) -> Tensor:
    """Probability integral transform of every coordinate, by rank among samples of the model.

    Uniform on [0, 1] where the model's conditional marginals are right (Dawid, 1984).

    Args:
        target: ``(n, d)``, targets of the truth.
        samples: ``(S, n, d)``, samples of the model at the same contexts.
        generator: The source of the numbers that spread each rank over its cell, so that the values are continuous.

    Returns:
        ``(n, d)``.

    Examples:
        >>> pit_values(torch.tensor([[0.0]]), torch.tensor([[[-1.0]], [[-2.0]], [[1.0]]]), torch.Generator()).ceil()
        tensor([[1.]], dtype=torch.float64)
    """
    below = (samples < target).double().sum(dim=0)
    return _spread(below, len(samples), generator)


def hpd_ranks(target_log_prob: Tensor, sample_log_prob: Tensor, generator: Generator) -> Tensor:
    """Mass of the model's highest-density region that just holds the target, by rank among samples of the model.

    Uniform on [0, 1] where the conditional is right, in any dimension (Hyndman, 1996).

    Args:
        target_log_prob: ``(n,)``, log-densities of the truth's targets under the model.
        sample_log_prob: ``(S, n)``, log-densities of the model's own samples at the same contexts.
        generator: The source of the numbers that spread each rank over its cell.

    Returns:
        ``(n,)``.
    """
    denser = (sample_log_prob > target_log_prob).double().sum(dim=0)
    return _spread(denser, len(sample_log_prob), generator)


def _spread(ranks: Tensor, samples: int, generator: Generator) -> Tensor:
    return (ranks + torch.rand(ranks.shape, generator=generator, dtype=torch.float64)) / (samples + 1)


def uniformity_error(values: Tensor) -> float:
    """Kolmogorov-Smirnov distance of values in [0, 1] from the uniform distribution; mean over columns.

    Args:
        values: ``(n,)`` or ``(n, d)``.

    Returns:
        Between 0 and 1: the largest gap between nominal and actual coverage. About ``0.87 / sqrt(n)`` for uniform
        values.

    Examples:
        >>> uniformity_error(torch.full((10,), 0.5))
        0.5
    """
    columns = values.double().reshape(len(values), -1).sort(dim=0).values
    steps = torch.arange(len(columns) + 1, dtype=torch.float64)[:, None] / len(columns)
    gaps = torch.maximum((steps[1:] - columns).abs(), (columns - steps[:-1]).abs())
    return float(gaps.amax(dim=0).mean())
