"""Where EM begins: centres by k-means, by k-means++ or at random, and the mixture of the rows nearest to each centre.

Parameters that the user gives take the place of those found here.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gmje_core.densities.covariance import Covariance, LowRankCovariance
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError
from gmje_core.estimation.em import CovarianceForm, block_rows, maximization, moments_of
from gmje_core.estimation.factors import random_factors
from gmje_core.estimation.moments import pooled_covariance
from gmje_core.estimation.pairs import Pairs
from gmje_core.estimation.seeding import kmeans_plus_plus, move_to_means, nearest_centre
from gmje_core.estimation.shrinkage import isotropic_target, shrink_covariances
from gmje_core.estimator.arrays import covariance_from_precisions, precisions_shape, read_array

__all__ = [
    "CheckedParameters",
    "GivenParameters",
    "InitMethod",
    "covariance_about_nearest",
    "fill_up_rows",
    "starting_mixture",
    "subsample",
]

#: Ways to find the centres of the start, by scikit-learn's names.
InitMethod = Literal["k-means++", "kmeans", "random_from_data"]

# Centres are sought among at most so many rows, or so many for each component.
_MOST_ROWS, _ROWS_PER_COMPONENT = 2**14, 32
# Largest difference from 1 that the sum of the given weights may have.
_WEIGHT_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class CheckedParameters:
    """Parameters of a mixture that the user gave, as float64 tensors; ``None`` for those that were not given."""

    weights: Tensor | None
    means: Tensor | None
    covariance: Covariance | None


@dataclass(frozen=True)
class GivenParameters:
    """Parameters to start from, as the user gave them; each may be ``None``.

    Attributes:
        weights: ``(K,)``.
        means: ``(K, D)``.
        precisions: Inverse covariances, of the shape of the estimator's ``covariances_``.
    """

    weights: Any = None
    means: Any = None
    precisions: Any = None

    @property
    def complete(self) -> bool:
        """Whether all parameters are given, so that nothing is drawn."""
        return self.weights is not None and self.means is not None and self.precisions is not None

    def check(self, form: CovarianceForm, components: int, dim: int, device: torch.device) -> CheckedParameters:
        """Read the parameters as float64 tensors.

        Args:
            form: Form of the covariances.
            components: Number of components ``K``.
            dim: Dimension ``D`` of a row.
            device: Device of the result.

        Raises:
            ConfigError: a value does not hold numbers, the weights are no distribution, or the precisions are not
                positive.
            ShapeError: a value has another shape.
            NonFiniteError: a value holds NaN or infinity.
            NotPositiveDefiniteError: a matrix of precisions is not positive definite.
        """
        weights = means = covariance = None
        if self.weights is not None:
            weights = read_array("weights_init", self.weights, (components,), device)
            if bool((weights < 0).any()) or abs(float(weights.sum()) - 1) > _WEIGHT_SUM_TOLERANCE:
                raise ConfigError(
                    "weights_init must not be negative and must sum to 1, but its least is "
                    f"{float(weights.min()):.6g} and its sum {float(weights.sum()):.6g}"
                )
        if self.means is not None:
            means = read_array("means_init", self.means, (components, dim), device)
        if self.precisions is not None:
            shape = precisions_shape(form, components, dim)
            precisions = read_array("precisions_init", self.precisions, shape, device)
            covariance = covariance_from_precisions(precisions, form, dim)
        return CheckedParameters(weights, means, covariance)


def subsample(pairs: Pairs, components: int, generator: torch.Generator) -> Tensor:
    """Rows ``(m, D)`` among which centres are sought: all of them, or a random part where there are very many."""
    most = max(_MOST_ROWS, _ROWS_PER_COMPONENT * components)
    if len(pairs) <= most:
        return pairs.rows(slice(None))
    return pairs.rows(torch.randperm(len(pairs), generator=generator)[:most].sort().values)


def starting_mixture(
    pairs: Pairs,
    form: CovarianceForm,
    components: int,
    init_params: InitMethod,
    given: GivenParameters,
    generator: torch.Generator,
) -> tuple[GaussianMixture, int]:
    """The mixture that EM starts from.

    Args:
        pairs: The rows.
        form: Form of the covariances.
        components: Number of components ``K``.
        init_params: How the centres are found.
        given: Parameters that the user gives instead.
        generator: CPU generator of everything that is drawn.

    Returns:
        The mixture, and how many of its components have rows. Where the form is factored, the factors are random ones
        that explain half of each variance.
    """
    wanted = given.check(form, components, pairs.dim, pairs.device)
    if wanted.weights is not None and wanted.means is not None and wanted.covariance is not None:
        return GaussianMixture(wanted.weights.log(), wanted.means, wanted.covariance), components
    centres = wanted.means
    if centres is None:
        centres = _find_centres(subsample(pairs, components, generator).double(), components, init_params, generator)

    def belongs_to_nearest(x: Tensor) -> Tensor:
        return F.one_hot(nearest_centre(x.double(), centres), components)

    # Where there are fewer centres than components, the last components begin empty.
    about = torch.cat([centres, centres[:1].expand(components - len(centres), -1)])
    factored = form.factored(pairs.dim)
    mass, means, second = moments_of(pairs, belongs_to_nearest, about, diagonal=form.diagonal or factored)
    covariance = wanted.covariance
    if covariance is None:
        second = fill_up_rows(mass * len(pairs), second)
        if factored:
            variances = second + form.reg_covar
            factor = random_factors(variances, form.rank, generator)
            covariance = LowRankCovariance(factor, variances - factor.square().sum(dim=-1))
        else:
            covariance = maximization((mass, means, second), form).covariance
    weights = mass if wanted.weights is None else wanted.weights
    mixture = GaussianMixture(weights.log(), means if wanted.means is None else wanted.means, covariance)
    return mixture, int((weights > 0).sum())


def fill_up_rows(counts: Tensor, second: Tensor) -> Tensor:
    """Second moments in which every component has enough rows: missing ones have the isotropic pooled covariance.

    A component has enough with ``2 D`` rows, or with 4 where the moments are diagonal, and then stays as it is.

    Args:
        counts: ``(K,)`` rows of each component.
        second: ``(K, D, D)`` or ``(K, D)``.

    Returns:
        Tensor of the shape of ``second``.

    Examples:
        >>> fill_up_rows(torch.tensor([4.0, 1.0]), torch.tensor([[2.0], [0.0]]))   # the pooled variance is 1.6
        tensor([[2.0000], [1.2000]])
    """
    diagonal = second.ndim == 2
    enough = 4 if diagonal else 2 * second.shape[-1]
    target = isotropic_target(pooled_covariance(counts, second), diagonal=diagonal)
    return shrink_covariances(second, counts, target, (enough - counts).clamp_min(0))


def covariance_about_nearest(pairs: Pairs, centres: Tensor, *, diagonal: bool) -> Tensor:
    """Second moments of all rows about the nearest of some centres: the pooled covariance of their clusters.

    Args:
        pairs: The rows.
        centres: ``(K, D)``, in float64.
        diagonal: Whether to compute only the diagonal.

    Returns:
        ``(D, D)`` or ``(D,)``, in float64.

    Examples:
        >>> pairs = Pairs({"rows": [[0.0], [2.0], [9.0], [9.0]]}, torch.float64)
        >>> covariance_about_nearest(pairs, torch.tensor([[1.0], [9.0]], dtype=torch.float64), diagonal=True)
        tensor([0.5000], dtype=torch.float64)
    """
    total = centres.new_zeros(pairs.dim if diagonal else (pairs.dim, pairs.dim))
    for block in pairs.blocks(block_rows(len(centres), pairs.dim)):
        rows = block.double()
        residual = rows - centres[nearest_centre(rows, centres)]
        total += residual.square().sum(dim=0) if diagonal else residual.T @ residual
    return total / len(pairs)


def _find_centres(rows: Tensor, components: int, init_params: InitMethod, generator: torch.Generator) -> Tensor:
    """Centres ``(K, D)``, or fewer where there are fewer distinct rows."""
    if init_params == "random_from_data":
        return rows[torch.randperm(len(rows), generator=generator)[:components].to(rows.device)]
    # With a single trial for each centre, centres share clusters so often that EM ends nats lower.
    index, _ = kmeans_plus_plus(rows, components, generator=generator, trials=2 + int(math.log(components)))
    return move_to_means(rows, rows[index]) if init_params == "kmeans" else rows[index]
