r"""GJE: one joint Gaussian of context and target, whose covariance never scores the batch it was fitted on.

The encoder maximises a trap-free Gaussian mutual information; ``covariance="batch"`` stays available to
demonstrate the Mahalanobis Trace Trap.
"""

import math
import warnings
from typing import Literal

import torch
from torch import Tensor

from gmje_core.checks import check_at_least, check_choice, check_share
from gmje_core.criteria.base import Criterion
from gmje_core.densities.covariance import Covariance
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.diagnostics import trace_ratio
from gmje_core.errors import NotFittedError, TraceTrapWarning
from gmje_core.estimation.learned import LearnedMixture
from gmje_core.estimation.moments import MIN_VARIANCE, batch_moments, merge_moments
from gmje_core.linalg import safe_cholesky, whiten
from gmje_core.objectives import conditional_nll, joint_nll

__all__ = ["GJE", "CovarianceSource"]

CovarianceSource = Literal["running", "learned", "batch"]


class GJE(Criterion):
    r"""Gaussian Joint Embeddings (arXiv 2603.26799) with the trap removed.

    With :math:`\Sigma` the covariance of the joint, known *before* the batch is scored, and
    :math:`C` that of the batch, both with the channel noise :math:`\tau I` added, the loss is

    .. math::
        \tfrac12 \big[-\log q_\Sigma(z_t \mid z_c) - \log q_\Sigma(z_c \mid z_t)\big]
        - \tfrac12 \big[H(C_{cc}) + H(C_{tt})\big], \qquad H(C) = \tfrac12 \log |2 \pi e\, C|

    averaged over pairs: minus the Gaussian mutual information of the views, where :math:`\Sigma` is right.
    The Mahalanobis terms pull the pairs together because :math:`\Sigma` is constant in them; the entropies keep
    every dimension in use.

    Args:
        dim: Embedding size of both views, or the pair ``(d_c, d_t)``.
        covariance: ``"running"``: debiased moving moments, accumulated in float64. ``"learned"``: mean and
            Cholesky factor are parameters, trained on the likelihood of detached embeddings (add them to the
            optimiser). ``"batch"``: fitted on the batch that it scores, the naive maximum likelihood that
            collapses; warns.
        noise: Variance :math:`\tau` of the isotropic channel noise, in units of the mean square of an embedding
            dimension. It bounds the information that a dimension can carry, hence anchors the scale: neither
            shrinking around an offset nor growing pays.
        decay: Weight of the past in the running moments, in ``[0, 1)``.
        variance_floor: Added to the diagonal of every covariance, in units of the mean variance of an embedding
            dimension.
        check_every: Steps between automatic collapse checks; 0 for none.

    Raises:
        ConfigError: an argument out of range.

    Examples:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> criterion = GJE(dim=2)
        >>> z_context = torch.randn(256, 2)
        >>> z_target = z_context + 0.1 * torch.randn(256, 2)
        >>> bool(criterion(z_context, z_target) < -0.2)   # nats per pair: the views share information
        True
        >>> criterion.density().condition(z_context).mean.shape
        torch.Size([256, 2])
    """

    mean: Tensor
    second: Tensor
    weight: Tensor

    def __init__(
        self,
        dim: int | tuple[int, int],
        *,
        covariance: CovarianceSource = "running",
        noise: float = 1.0,
        decay: float = 0.95,
        variance_floor: float = 1e-3,
        check_every: int = 100,
    ) -> None:
        super().__init__(dim, check_every=check_every)
        check_choice("covariance", covariance, CovarianceSource)
        check_at_least(0, noise=noise, variance_floor=variance_floor)
        check_share(decay=decay, most=False)
        self.covariance: CovarianceSource = covariance
        self.noise, self.decay, self.variance_floor = noise, decay, variance_floor
        # Float64, because a covariance of nearly collapsed embeddings is a small difference of large numbers.
        self.register_buffer("mean", torch.zeros(self.dim, dtype=torch.float64))
        self.register_buffer("second", torch.eye(self.dim, dtype=torch.float64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))
        if covariance == "learned":
            self.mixture = LearnedMixture(
                1, self.dim, covariance_type="full", tied=False, rank=1, variance_floor=max(variance_floor, 1e-8)
            )
        if covariance == "batch":
            warnings.warn(
                "GJE(covariance='batch') scores each batch under its own covariance: the Mahalanobis Trace Trap. "
                "The encoder will collapse; use it only to show that.",
                TraceTrapWarning,
                stacklevel=2,
            )

    def density(self) -> JointGaussianMixture:
        """The joint Gaussian of the batches so far, detached."""
        return self._scored(self._dtype).detach()

    def _loss(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        z = torch.cat([z_context, z_target], dim=1)
        first = not self.weight > 0
        if first or self.covariance == "batch":
            self._update(z)
        if first and self.covariance == "learned":
            self.mixture.start(self.mean[None], 0.1 * float(self.second.diagonal().mean()), self._total(), len(z))
        loss = self._batch_nll(z) if self.covariance == "batch" else self._negative_information(z_context, z_target)
        if self.training and not first and self.covariance != "batch":
            self._update(z)
        return loss

    def _negative_information(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        """Both conditional NLLs under the density known so far, minus the entropies of the batch's marginals."""
        z = torch.cat([z_context, z_target], dim=1).detach()
        scored = self._scored(z.dtype)
        self._gauge_density(scored, z, self_scored=0.0)
        noisy = self._scored(z.dtype, noise=self._channel()).detach()
        channel = (self._channel() + self._ridge()).to(z)
        entropy = 0.5 * (
            _gaussian_entropy(z_context, channel[: self.context_dim])
            + _gaussian_entropy(z_target, channel[self.context_dim :])
        )
        nll = conditional_nll(noisy, z_context, z_target, direction="both")
        loss = nll + self._expected_noise(noisy) - entropy
        if self.covariance == "learned" and torch.is_grad_enabled():
            fit = joint_nll(scored, *z.split([self.context_dim, self.target_dim], dim=1))
            loss = loss + (fit - fit.detach())  # trains the density; the value stays the encoder's objective
        return loss

    def _expected_noise(self, noisy: JointGaussianMixture) -> Tensor:
        """What the channel noise, which is not drawn, would add to the mean of the conditional NLLs: a constant.

        A conditional distance is the joint one minus the marginal one.
        """
        channel = self._channel().to(noisy.means)
        noise_context, noise_target = channel.split([self.context_dim, self.target_dim])
        joint = _mean_distance_of_noise(noisy.covariance, channel)
        context = _mean_distance_of_noise(noisy.context.covariance, noise_context)
        target = _mean_distance_of_noise(noisy.target.covariance, noise_target)
        return 0.5 * (joint - 0.5 * (context + target))

    def _batch_nll(self, z: Tensor) -> Tensor:
        """Likelihood under the batch's own moments, with the gradient through them: the trap."""
        _, mean, second = batch_moments(z)
        density = _gaussian(mean, second, self._ridge().to(z), self.context_dim)
        self._gauge_density(density, z.detach(), self_scored=1.0)
        return joint_nll(density, *z.split([self.context_dim, self.target_dim], dim=1))

    def _scored(self, dtype: torch.dtype, noise: Tensor | None = None) -> JointGaussianMixture:
        """The density known so far, behind a channel with noise of the given variances (D,)."""
        if not self.weight > 0:
            raise NotFittedError("GJE has no moments yet: call it on a batch of embeddings first")
        if self.covariance != "learned":
            # Factored in float64 and handed on as a factor, which loses nothing that the covariance would.
            ridge = self._ridge() if noise is None else self._ridge() + noise
            return _gaussian(self.mean, self.second, ridge, self.context_dim, dtype)
        if noise is None:
            return JointGaussianMixture(
                self.mixture.log_weights().to(dtype),
                self.mixture.means.to(dtype),
                self.mixture.covariance().to(dtype),
                context_dim=self.context_dim,
            )
        learned = self.mixture.covariance().dense()[0].detach().double()
        return _gaussian(self.mixture.means[0].detach(), learned, noise, self.context_dim, dtype)

    def _ridge(self) -> Tensor:
        """``(D,)`` variances added to every covariance."""
        return self.variance_floor * self._per_view(self.second.diagonal())

    def _channel(self) -> Tensor:
        """``(D,)`` variances of the noise channel."""
        return self.noise * self._per_view(self.second.diagonal() + self.mean.square())

    def _per_view(self, squares: Tensor) -> Tensor:
        """``(D,)``: the mean over the dimensions of the view that each dimension belongs to."""
        views = squares.split([self.context_dim, self.target_dim])
        return torch.cat([view.mean().clamp_min(MIN_VARIANCE).expand(len(view)) for view in views])

    def _total(self) -> tuple[Tensor, Tensor]:
        return self.mean, self.second.diagonal()

    @torch.no_grad()
    def _update(self, z: Tensor) -> None:
        """Fold the batch into the running moments; the first step is 1, so nothing need be debiased."""
        rate = 1.0 if self.covariance == "batch" else 1 - self.decay
        self.weight.copy_((1 - rate) * self.weight + rate)
        one = torch.ones_like(self.weight)
        moments = merge_moments((one, self.mean, self.second), batch_moments(z.double()), rate / self.weight)
        self.mean.copy_(moments[1])
        self.second.copy_(moments[2])

    @torch.no_grad()
    def _gauge_density(self, density: JointGaussianMixture, z: Tensor, *, self_scored: float) -> None:
        distances = density.joint.covariance.squared_mahalanobis(z, density.joint.means)
        self._gauge(trace_ratio=trace_ratio(distances[:, 0], self.dim), self_scored=self_scored)


def _gaussian(
    mean: Tensor, covariance: Tensor, ridge: Tensor, context_dim: int, dtype: torch.dtype | None = None
) -> JointGaussianMixture:
    """One joint Gaussian, with ``ridge`` (D,) added to the diagonal of its covariance."""
    factor = safe_cholesky(covariance + torch.diag(ridge)).to(dtype or covariance.dtype)
    return JointGaussianMixture.from_scale_tril(
        factor.new_ones(1), mean.to(factor)[None], factor[None], context_dim=context_dim
    )


def _mean_distance_of_noise(covariance: Covariance, variance: Tensor) -> Tensor:
    """Expected squared Mahalanobis distance of noise with the given variances (D,), of the only component."""
    whitened = whiten(torch.diag(variance.sqrt()), torch.linalg.cholesky(covariance.dense()[0]))
    return whitened.square().sum()


def _gaussian_entropy(z: Tensor, noise: Tensor) -> Tensor:
    """Entropy in nats of the Gaussian with the moments of ``z`` (B, d) plus independent noise (d,)."""
    _, _, covariance = batch_moments(z)
    factor = safe_cholesky(covariance + torch.diag(noise))
    return factor.diagonal().log().sum() + 0.5 * z.shape[1] * math.log(2 * math.pi * math.e)
