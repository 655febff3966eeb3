r"""One joint Gaussian that follows a stream of batches, by running moments or by an optimiser's steps."""

import torch
from torch import Tensor

from gmje_core.densities.covariance import FullCovariance
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.estimation.learned import LearnedMixture
from gmje_core.estimation.moments import MIN_VARIANCE, batch_moments, merge_moments
from gmje_core.estimation.trainable import TrainableDensity
from gmje_core.linalg import cholesky_or_nan, safe_cholesky

__all__ = ["LearnedGaussian", "RunningGaussian", "gaussian"]


class RunningGaussian(TrainableDensity):
    r"""Moving moments of two views side by side, debiased and kept in float64.

    With step :math:`\gamma`, a batch seen ``t`` steps ago has the weight :math:`\gamma (1-\gamma)^t`, and the weights
    are normalised. The covariance has a ridge of ``variance_floor`` times the mean variance of the view's dimensions.

    Args:
        dims: Sizes of the views.
        step: :math:`\gamma` in ``(0, 1]``; 1 for the moments of the last batch alone.
        variance_floor: Size of the ridge, in units of the mean variance of an embedding dimension.
    """

    mean: Tensor
    second: Tensor
    weight: Tensor

    def __init__(self, dims: tuple[int, int], *, step: float, variance_floor: float) -> None:
        super().__init__(step)
        self.dims, self.variance_floor = dims, variance_floor
        # Float64, because a covariance of nearly collapsed embeddings is a small difference of large numbers.
        self.register_buffer("mean", torch.zeros(sum(dims), dtype=torch.float64))
        self.register_buffer("second", torch.eye(sum(dims), dtype=torch.float64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))

    @property
    def ridge(self) -> Tensor:
        """``(D,)`` variances that are added to the diagonal of the covariance."""
        return self.ridge_of(self.second)

    def ridge_of(self, second: Tensor) -> Tensor:
        """``(D,)`` variances that are added to the diagonal of a covariance ``(D, D)``."""
        return self.variance_floor * self._mean_of_view(second.diagonal())

    def noise(self, temperature: float | None) -> Tensor:
        """``(D,)`` variances of the noise channel.

        Args:
            temperature: Variance of the noise in units of the mean squared norm of a view; ``None`` for one
                dimension's share of it.
        """
        squares = self.second.diagonal() + self.mean.square()
        if temperature is None:
            return self._mean_of_view(squares)
        sizes = torch.cat([squares.new_full((dim,), dim) for dim in self.dims])
        return temperature * sizes * self._mean_of_view(squares)

    def forward(self, dtype: torch.dtype | None = None) -> GaussianMixture:
        """The Gaussian of the moments so far; see :class:`TrainableDensity`."""
        return gaussian(self.mean, self.second, self.ridge, dtype)

    def behind(self, noise: Tensor, dtype: torch.dtype) -> GaussianMixture:
        """The Gaussian of embeddings with independent noise of variances ``(D,)`` added, without gradient."""
        # A factor taken in float64 keeps digits that the covariance would lose in a lower precision.
        return gaussian(self.mean, self.second, self.ridge + noise, dtype)

    def _begin(self, z: Tensor) -> None:
        _, mean, second = batch_moments(z.double())
        self.mean.copy_(mean)
        self.second.copy_(second)
        self.weight.zero_()

    def _learn(self, z: Tensor, responsibilities: Tensor | None, rare: bool) -> None:
        step = self.next_step
        self.weight.copy_((1 - step) * self.weight + step)
        one = torch.ones_like(self.weight)
        # The first step is 1, so nothing needs to be debiased.
        moments = merge_moments((one, self.mean, self.second), batch_moments(z.double()), step / self.weight)
        self.mean.copy_(moments[1])
        self.second.copy_(moments[2])

    def _mean_of_view(self, values: Tensor) -> Tensor:
        """``(D,)``: for each dimension, the mean of the values over the view that it belongs to."""
        views = values.split(list(self.dims))
        return torch.cat([view.mean().clamp_min(MIN_VARIANCE).expand(len(view)) for view in views])


class LearnedGaussian(RunningGaussian):
    """A Gaussian whose mean and Cholesky factor are parameters; running moments give the units of ridge and noise.

    Args:
        dims: Sizes of the views.
        step: Step of the running moments.
        variance_floor: Size of the ridge, in units of the mean variance of an embedding dimension.
    """

    has_gradient = True

    def __init__(self, dims: tuple[int, int], *, step: float, variance_floor: float) -> None:
        super().__init__(dims, step=step, variance_floor=variance_floor)
        self.mixture = LearnedMixture(
            1, sum(dims), covariance_type="full", tied=False, rank=1, variance_floor=max(variance_floor, 1e-8)
        )

    def forward(self, dtype: torch.dtype | None = None) -> GaussianMixture:
        """The Gaussian of the parameters, with gradient; see :class:`TrainableDensity`."""
        mixture: GaussianMixture = self.mixture(dtype)
        return mixture

    def behind(self, noise: Tensor, dtype: torch.dtype) -> GaussianMixture:
        """The Gaussian of embeddings with independent noise of variances ``(D,)`` added, without gradient."""
        mixture: GaussianMixture = self.mixture().detach()
        return gaussian(mixture.means[0], mixture.covariance.dense()[0].double(), noise, dtype)

    def _begin(self, z: Tensor) -> None:
        super()._begin(z)
        self.mixture.start(z)


def gaussian(
    mean: Tensor, covariance: Tensor, ridge: Tensor, dtype: torch.dtype | None = None, *, careful: bool = False
) -> GaussianMixture:
    """One Gaussian as a mixture of one component, with ``ridge`` (D,) added to the diagonal of its covariance.

    Args:
        mean: ``(D,)``.
        covariance: ``(D, D)``.
        ridge: ``(D,)``.
        dtype: Floating dtype of the mixture; ``None`` for that of the covariance.
        careful: Whether to read from the device if the covariance is positive definite and to add jitter where it is
            not; otherwise its factor is then NaN.
    """
    factorise = safe_cholesky if careful else cholesky_or_nan
    factor = factorise(covariance + torch.diag(ridge)).to(dtype or covariance.dtype)
    single = FullCovariance(factor[None], validate=False)
    return GaussianMixture(factor.new_zeros(1), mean.to(factor)[None], single, validate_args=False)
