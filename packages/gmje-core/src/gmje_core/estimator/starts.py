"""Where EM begins: centres by k-means, k-means++ or at random, and the mixture of the rows nearest to each.

Parameters that the user gives take the place of what is found here.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gmje_core.densities.covariance import Covariance, DiagonalCovariance, SphericalCovariance, covariance_from_dense
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError, ShapeError
from gmje_core.estimation.em import CovarianceForm, maximization, moments_of
from gmje_core.estimation.pairs import Pairs
from gmje_core.linalg import require_finite, safe_cholesky

__all__ = ["Given", "Init", "shrink", "start", "subsample"]

Init = Literal["kmeans++", "kmeans", "random"]

# Centres are sought among at most so many rows, or so many for each component.
_ROWS, _ROWS_PER_COMPONENT = 2**14, 32
_LLOYD_ROUNDS = 50
# How far the given weights may be from summing to one.
_WEIGHT_SUM = 1e-6


@dataclass(frozen=True)
class Given:
    """Parameters to start from, where the user has them; each may be ``None``.

    Attributes:
        weights: ``(K,)``.
        means: ``(K, D)``.
        precisions: Of the shape of the estimator's ``covariances_``.
    """

    weights: Any = None
    means: Any = None
    precisions: Any = None

    @property
    def whole(self) -> bool:
        """Whether nothing is left to be found."""
        return self.weights is not None and self.means is not None and self.precisions is not None

    def read(self, form: CovarianceForm, components: int, dim: int, device: torch.device) -> "_Start":
        """The parameters as float64 tensors, checked.

        Raises:
            ConfigError: not numbers, weights that are no distribution, precisions that are not positive definite.
            ShapeError, NonFiniteError: other shapes; NaN or infinity.
        """
        weights = _read("weights_init", self.weights, (components,), device)
        means = _read("means_init", self.means, (components, dim), device)
        if weights is not None and (bool((weights < 0).any()) or abs(float(weights.sum()) - 1) > _WEIGHT_SUM):
            raise ConfigError(
                "weights_init must not be negative and must sum to 1, but its least is "
                f"{float(weights.min()):.6g} and its sum {float(weights.sum()):.6g}"
            )
        matrix = {"diag": (dim,), "spherical": ()}.get(form.covariance_type, (dim, dim))
        shape = matrix if form.tied else (components, *matrix)
        precisions = _read("precisions_init", self.precisions, shape, device)
        covariance = None if precisions is None else _invert(precisions, form, dim)
        return _Start(weights, means, covariance)


@dataclass(frozen=True)
class _Start:
    weights: Tensor | None
    means: Tensor | None
    covariance: Covariance | None


def subsample(pairs: Pairs, components: int, generator: torch.Generator) -> Tensor:
    """Rows ``(m, D)`` among which centres are sought: all, or a random part of many."""
    most = max(_ROWS, _ROWS_PER_COMPONENT * components)
    if len(pairs) <= most:
        return pairs.rows(slice(None))
    return pairs.rows(torch.randperm(len(pairs), generator=generator)[:most].sort().values)


def start(
    pairs: Pairs, form: CovarianceForm, components: int, init: Init, given: Given, generator: torch.Generator
) -> tuple[GaussianMixture, int]:
    """The mixture that EM starts from.

    Args:
        pairs: The rows.
        form: Of the covariances.
        components: ``K``.
        init: How centres are found.
        given: What the user wants instead.
        generator: CPU generator of everything drawn.

    Returns:
        It, and how many of its components have rows.
    """
    wanted = given.read(form, components, pairs.dim, pairs.device)
    if given.whole:
        assert wanted.weights is not None
        assert wanted.means is not None
        assert wanted.covariance is not None
        return GaussianMixture(wanted.weights.log(), wanted.means, wanted.covariance), components
    centres = wanted.means
    if centres is None:
        centres = _centres(subsample(pairs, components, generator).double(), components, init, generator)

    def nearest(x: Tensor) -> Tensor:
        return F.one_hot(_nearest(x.double(), centres), components)

    # Fewer centres than components leave the last ones empty.
    about = torch.cat([centres, centres[:1].expand(components - len(centres), -1)])
    mass, means, second = moments_of(pairs, nearest, about, diagonal=form.diagonal)
    second = shrink(mass * len(pairs), second)
    found = maximization((mass, means, second), form) if wanted.covariance is None else None
    covariance = wanted.covariance if found is None else found.covariance
    assert covariance is not None
    weights = mass if wanted.weights is None else wanted.weights
    mixture = GaussianMixture(weights.log(), means if wanted.means is None else wanted.means, covariance)
    return mixture, int((weights > 0).sum())


def shrink(counts: Tensor, second: Tensor) -> Tensor:
    """Second moments in which every component has enough rows: those it lacks are isotropic, of the pooled variance.

    Enough are ``2 D`` rows, or 4 where the moments are diagonals; components that have them are left as they are.

    Args:
        counts: ``(K,)`` rows of each component.
        second: ``(K, D, D)`` or ``(K, D)``.

    Examples:
        >>> shrink(torch.tensor([4.0, 1.0]), torch.tensor([[2.0], [0.0]]))   # pooled: 1.6
        tensor([[2.0000], [1.2000]])
    """
    shape = (-1, *[1] * (second.ndim - 1))
    pooled = (counts.view(shape) * second).sum(dim=0) / counts.sum()
    dim = second.shape[-1]
    if second.ndim == 2:
        prior, enough = pooled.mean().expand(dim), 4
    else:
        prior, enough = pooled.diagonal().mean() * torch.eye(dim).to(second), 2 * dim
    lacking = (enough - counts).clamp_min(0).view(shape)
    return (counts.view(shape) * second + lacking * prior) / (counts.view(shape) + lacking)


def _centres(rows: Tensor, components: int, init: Init, generator: torch.Generator) -> Tensor:
    """``(K or fewer, D)``: fewer where there are fewer distinct rows."""
    if init == "random":
        return rows[torch.randperm(len(rows), generator=generator)[:components].to(rows.device)]
    centres = _seeds(rows, components, generator)
    return _lloyd(rows, centres) if init == "kmeans" else centres


def _seeds(rows: Tensor, components: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++ (Arthur and Vassilvitskii, 2007): of several rows drawn, the one that explains most is taken.

    With a single draw each, centres share clusters so often that EM ends nats lower. Fewer than ``components`` are
    returned where there are fewer distinct rows.
    """
    trials = 2 + int(math.log(components))
    centred = rows - rows.mean(dim=0)
    norms = centred.square().sum(dim=1)
    best = int(torch.randint(len(rows), (1,), generator=generator))
    nearest = (rows - rows[best]).square().sum(dim=1)
    chosen = [best]
    while len(chosen) < components and bool((nearest > 0).any()):
        drawn = torch.multinomial((nearest / nearest.max()).cpu(), trials, replacement=True, generator=generator)
        drawn = drawn.to(rows.device)
        # The expansion of the square is good enough to rank them; the distances kept are exact, so that a row equal to
        # a centre is never drawn.
        distances = torch.addmm(norms, centred[drawn], centred.T, alpha=-2) + norms[drawn].unsqueeze(1)
        best = int(drawn[torch.minimum(nearest, distances).sum(dim=1).argmin()])
        nearest = torch.minimum(nearest, (rows - rows[best]).square().sum(dim=1))
        chosen.append(best)
    return rows[chosen]


def _lloyd(rows: Tensor, centres: Tensor) -> Tensor:
    """Lloyd's rounds until no row changes its centre; a centre without rows stays."""
    before: Tensor | None = None
    for _ in range(_LLOYD_ROUNDS):
        chosen = _nearest(rows, centres)
        if before is not None and torch.equal(chosen, before):
            break
        before = chosen
        count = torch.zeros(len(centres)).to(rows).index_add_(0, chosen, torch.ones_like(rows[:, 0]))
        total = torch.zeros_like(centres).index_add_(0, chosen, rows - rows.mean(dim=0))
        mean = total / count.clamp_min(1).unsqueeze(1) + rows.mean(dim=0)
        centres = torch.where(count.unsqueeze(1) > 0, mean, centres)
    return centres


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre of each row; the expansion of the square is safe after centring."""
    origin = centres.mean(dim=0)
    rows, centres = rows - origin, centres - origin
    return torch.addmm(centres.square().sum(dim=1), rows, centres.T, alpha=-2).argmin(dim=1)


def _read(name: str, value: Any, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
    if value is None:
        return None
    try:
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        tensor = torch.from_numpy(np.array(array, dtype=np.float64)).to(device)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{name} must be an array of numbers of shape {shape}, got {value!r}") from error
    if tuple(tensor.shape) != shape:
        raise ShapeError(f"{name} must have shape {shape}, but has {tuple(tensor.shape)}")
    require_finite(name, tensor)
    return tensor


def _invert(precisions: Tensor, form: CovarianceForm, dim: int) -> Covariance:
    """Covariance with these precisions."""
    if form.tied:
        precisions = precisions.unsqueeze(0)
    if form.diagonal:
        if bool((precisions <= 0).any()):
            raise ConfigError(f"precisions_init must be positive, but its least is {float(precisions.min()):.6g}")
        diagonal = form.covariance_type == "diag"
        return DiagonalCovariance(1 / precisions) if diagonal else SphericalCovariance(1 / precisions, dim)
    if not torch.allclose(precisions, precisions.mT):
        raise ConfigError("precisions_init must be symmetric matrices")
    if bool((precisions.diagonal(dim1=-2, dim2=-1) <= 0).any()):
        raise ConfigError("precisions_init must have positive diagonals")
    factor = safe_cholesky(precisions, name="precisions_init")
    return covariance_from_dense(torch.cholesky_inverse(factor), form.covariance_type, rank=form.rank)
