r"""GMJE: a mixture of Gaussian prototypes on the joint of context and target, with no batch in its covariance.

The density follows the embeddings by online EM or by gradient; the encoder maximises the pointwise mutual
information of the pair under it. Neither ever fits what it scores.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from gmje_core.covariance import (
    Covariance,
    DiagonalCovariance,
    FullCovariance,
    LowRankCovariance,
    SphericalCovariance,
)
from gmje_core.criteria.base import MIN_VARIANCE, Criterion, NotFittedError
from gmje_core.criteria.learned import LearnedMixture
from gmje_core.criteria.online import OnlineMixture
from gmje_core.criteria.seeding import kmeans_plus_plus
from gmje_core.diagnostics import component_usage
from gmje_core.errors import ConfigError, unknown_name
from gmje_core.linalg import safe_cholesky
from gmje_core.mixture import JointGaussianMixture
from gmje_core.objectives import joint_nll, pmi

__all__ = ["GMJE", "CovarianceType", "Update"]

CovarianceType = Literal["full", "low_rank", "diag", "spherical"]
Update = Literal["em", "gradient"]

# A component is dead below this share of the mean mass, and restarts with that one.
_DEAD, _REBORN = 0.05, 0.5
# At most this share of a batch is given to dead components in one step.
_RESEED_SHARE = 1 / 8


class GMJE(Criterion):
    r"""Gaussian Mixture Joint Embeddings with prototypes (arXiv 2603.26799).

    The encoder's loss is minus the mean pointwise mutual information of the pairs,

    .. math::
        -\log \sum_k \frac{p(k \mid z_c)\, p(k \mid z_t)}{\bar w_k}\, e^{\mathrm{pmi}_k(z_c, z_t)},

    where :math:`\bar w_k` is the mean responsibility of the global batch over both views, with gradient, which
    keeps the components in use. It is taken under the density behind an isotropic noise channel of variance
    ``temperature``: the information that embeddings carry is then bounded and their scale anchored; for
    spherical components on unit-norm embeddings it is the temperature of a contrastive loss. The density
    itself is fitted without that noise, on detached embeddings, after it has scored them.

    Embeddings need no normalisation; unit norm is usual.

    Args:
        dim: Embedding size of both views, or the pair ``(d_c, d_t)``.
        components: Number of prototypes ``K``.
        covariance_type: ``"full"``, ``"low_rank"``, ``"diag"`` or ``"spherical"`` covariances of the joint.
        tied: One covariance for all components.
        rank: Columns of the factor of ``"low_rank"``.
        update: ``"em"``: online EM, state in buffers, nothing to optimise. ``"gradient"``: weights, means and
            factors are parameters, trained on ``-log q(sg[z])`` (add them to the optimiser); ``"low_rank"``
            needs it.
        temperature: Variance of the noise channel, in units of the mean squared norm of a view's
            embeddings.
        step: Step of online EM and of the running usage in ``(0, 1]``; ``None`` for ``(t + 2)^-0.6``, which
            converges where embeddings are fixed.
        weight_prior: Dirichlet pseudo-observations of each component.
        covariance_prior: Inverse-Wishart pseudo-observations of each component; ``None`` for 2, with full
            covariances for ``D``.
        reg_covar: Variance floor, in units of the mean variance of an embedding dimension.
        seed: Of the k-means++ start and of re-seeding; the same on every rank.
        check_every: Steps between automatic collapse checks; 0 for none.

    Raises:
        ConfigError: an argument out of range.

    Examples:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> criterion = GMJE(dim=2, components=4, temperature=0.02)
        >>> centers = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])[torch.arange(256) % 4]
        >>> for _ in range(10):
        ...     loss = criterion(*(centers + 0.05 * torch.randn(2, 256, 2)))
        >>> bool((loss + math.log(4)).abs() < 0.05)   # the views share log 4 nats: which of the centers
        True
        >>> criterion.density().condition(centers[:1]).mean.round(decimals=1)
        tensor([[1., 0.]])
    """

    energy: Tensor
    reseed_count: Tensor

    def __init__(
        self,
        dim: int | tuple[int, int],
        components: int = 512,
        *,
        covariance_type: CovarianceType = "spherical",
        tied: bool = False,
        rank: int = 8,
        update: Update = "em",
        temperature: float = 0.05,
        step: float | None = 0.05,
        weight_prior: float = 1.0,
        covariance_prior: float | None = None,
        reg_covar: float = 1e-4,
        seed: int = 0,
        check_every: int = 100,
    ) -> None:
        super().__init__(dim, check_every=check_every)
        if covariance_type not in get_args(CovarianceType):
            raise ConfigError(unknown_name("covariance_type", covariance_type, get_args(CovarianceType)))
        if update not in get_args(Update):
            raise ConfigError(unknown_name("update", update, get_args(Update)))
        if update == "em" and covariance_type == "low_rank":
            raise ConfigError(
                "online EM keeps no low-rank statistics: use update='gradient' with covariance_type='low_rank', "
                "or one of 'full', 'diag', 'spherical' with update='em'"
            )
        if components < 1 or rank < 1:
            raise ConfigError(f"components and rank must be at least 1, got {components!r} and {rank!r}")
        if step is not None and not 0 < step <= 1:
            raise ConfigError(f"step must lie in (0, 1] or be None, got {step!r}")
        for name, value in (
            ("temperature", temperature),
            ("reg_covar", reg_covar),
            ("weight_prior", weight_prior),
        ):
            if not value > 0 or math.isinf(value):
                raise ConfigError(f"{name} must be positive and finite, got {value!r}")
        if covariance_prior is None:
            covariance_prior = float(self.dim) if covariance_type == "full" else 2.0
        if covariance_prior < 0:
            raise ConfigError(f"covariance_prior must be at least 0, got {covariance_prior!r}")
        self.components, self.temperature, self.step, self.seed = components, temperature, step, seed
        self.mixture: OnlineMixture | LearnedMixture
        if update == "em":
            self.mixture = OnlineMixture(
                components,
                self.dim,
                covariance_type=covariance_type,
                tied=tied,
                weight_prior=weight_prior,
                covariance_prior=covariance_prior,
                reg_covar=reg_covar,
            )
        else:
            self.mixture = LearnedMixture(
                components,
                self.dim,
                covariance_type=covariance_type,
                tied=tied,
                rank=rank,
                reg_covar=reg_covar,
            )
        # The mean squared norm of each view's embeddings, which the temperature is relative to.
        self.register_buffer("energy", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("reseed_count", torch.zeros((), dtype=torch.long))

    def density(self) -> JointGaussianMixture:
        """The mixture fitted to the embeddings so far, detached."""
        return self._mixture(self._dtype).detach()

    def _loss(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        z = torch.cat([z_context, z_target], dim=1).detach()
        if not self.mixture.mass.any():
            self._start(z)
        scored = self._mixture(z.dtype)
        with torch.no_grad():
            log_joint = scored.joint.component_log_prob(z)
            responsibilities = log_joint.softmax(dim=1)
            self._gauge_density(scored, z, responsibilities)
        smoothed = self._smoothed(scored.detach())
        loss = -pmi(smoothed, z_context, z_target, weights="batch").mean()
        if isinstance(self.mixture, LearnedMixture) and torch.is_grad_enabled():
            fit = joint_nll(scored, *z.split([self.context_dim, self.target_dim], dim=1))
            loss = loss + (fit - fit.detach())  # trains the density; the value stays the encoder's objective
        if self.training:
            self._update(z, responsibilities)
        return loss

    def _mixture(self, dtype: torch.dtype) -> JointGaussianMixture:
        if not self.mixture.mass.any():
            raise NotFittedError("GMJE has no components yet: call it on a batch of embeddings first")
        return JointGaussianMixture(
            self.mixture.log_weights().to(dtype),
            self.mixture.means.to(dtype),
            self.mixture.covariance().to(dtype),
            context_dim=self.context_dim,
        )

    def _smoothed(self, density: JointGaussianMixture) -> JointGaussianMixture:
        """The density of embeddings sent through the noise channel."""
        noise = (self.temperature * self.energy).to(density.means)
        variance = torch.cat([noise[:1].expand(self.context_dim), noise[1:].expand(self.target_dim)])
        return JointGaussianMixture(
            density.log_weights,
            density.means,
            _add_noise(density.covariance, variance),
            context_dim=self.context_dim,
        )

    def _update(self, z: Tensor, responsibilities: Tensor) -> None:
        t = int(self.steps)
        step = (t + 2) ** -0.6 if self.step is None else self.step
        self.mixture.observe(z, responsibilities, step)
        self._follow_energy(z, step)
        self._reseed(z)

    def _start(self, z: Tensor) -> None:
        """k-means++ on the first batch; components that it has no sample for are re-seeded on the next ones."""
        index, distances = kmeans_plus_plus(z, min(self.components, len(z)), generator=self._generator())
        variance = z.double().var(dim=0, unbiased=False).clamp_min(MIN_VARIANCE)
        within = torch.maximum(distances.double().mean() / self.dim, 0.1 * variance.mean())
        self.mixture.start(z[index], float(within), (z.double().mean(dim=0), variance), len(z))
        self._follow_energy(z, 1.0)

    def _follow_energy(self, z: Tensor, step: float) -> None:
        squares = z.double().square().mean(dim=0).split([self.context_dim, self.target_dim])
        self.energy.lerp_(torch.stack([view.sum() for view in squares]).clamp_min(MIN_VARIANCE), step)

    def _reseed(self, z: Tensor) -> None:
        mass = self.mixture.mass
        dead = (mass < _DEAD / self.components).nonzero().flatten()
        if not len(dead):
            return
        alive = self.mixture.means.detach()[mass >= _DEAD / self.components]
        count = min(len(dead), max(1, int(_RESEED_SHARE * len(z))))
        index, _ = kmeans_plus_plus(z, count, generator=self._generator(), centers=alive)
        self.mixture.reseed(dead[: len(index)], z[index], _REBORN / self.components)
        self.reseed_count += len(index)

    def _generator(self) -> torch.Generator:
        """A fresh generator for each step, so that a run resumed from its state draws what it would have drawn."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + int(self.steps))

    def _gauge_density(self, scored: JointGaussianMixture, z: Tensor, responsibilities: Tensor) -> None:
        distances = scored.joint.covariance.squared_mahalanobis(z, scored.joint.means)
        mass = self.mixture.mass
        self._gauge(
            trace_ratio=(responsibilities * distances).sum(dim=1).mean() / self.dim,
            self_scored=0.0,
            component_usage=component_usage(mass / mass.sum()),
            reseeded=self.reseed_count,
        )


def _add_noise(covariance: Covariance, variance: Tensor) -> Covariance:
    """Covariance of the sum with independent noise of the given variances ``(D,)``."""
    if isinstance(covariance, FullCovariance):
        return FullCovariance(safe_cholesky(covariance.dense() + torch.diag(variance)))
    if isinstance(covariance, LowRankCovariance):
        return LowRankCovariance(covariance.factor, covariance.diagonal_variance + variance)
    if isinstance(covariance, SphericalCovariance) and bool((variance == variance[0]).all()):
        return SphericalCovariance(covariance.variance + variance[0], covariance.dim)
    return DiagonalCovariance(covariance.diagonal() + variance)
