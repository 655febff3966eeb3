r"""A mixture density network and the joint density that it makes with a marginal of the context.

The network maps a context to the weights, means and covariances of a Gaussian mixture of the target (Bishop, 1994).
"""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmje_core.covariance import (
    Covariance,
    CovarianceType,
    DiagonalCovariance,
    FullCovariance,
    LowRankCovariance,
    SphericalCovariance,
)
from gmje_core.errors import ConfigError, ShapeError
from gmje_core.linalg import full_precision
from gmje_core.mixture import GaussianMixture

__all__ = ["ConditionalJointMixture", "JointDensity", "MixtureDensityNetwork"]

# Spread of the components' means at the start, in standard deviations of the target.
_START_SPREAD, _START_DEVIATION = 0.5, 0.5


class JointDensity(Protocol):
    """What every criterion's density can be asked."""

    @property
    def context_dim(self) -> int:
        """``d_c``."""

    @property
    def target_dim(self) -> int:
        """``d_t``."""

    @property
    def components(self) -> int:
        """Components of the conditional."""

    @property
    def context(self) -> GaussianMixture:
        """Marginal of the context."""

    def log_prob(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        """``(B,)`` joint log-density, nats."""

    def condition(self, z_context: Tensor | None = None, *, z_target: Tensor | None = None) -> GaussianMixture:
        """Mixture of one view given the other."""

    def sample(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Draw pairs."""


class MixtureDensityNetwork(nn.Module):
    r"""A multi-layer perceptron to :math:`q(z_t \mid z_c) = \sum_k w_k(z_c)\, N(z_t; m_k(z_c), S_k(z_c))`.

    Works in units of the first batch, which :meth:`start` takes, so that one learning rate serves embeddings of any
    scale. Standard deviations are :math:`\text{scale} \cdot (\operatorname{softplus}(\rho) + \text{floor})`; the
    means add a linear map of the context to the network's output.

    Args:
        context_dim: ``d_c``.
        target_dim: ``d_t``.
        components: ``K``.
        covariance_type: ``"full"``, ``"low_rank"``, ``"diag"`` or ``"spherical"`` covariances of the target.
        rank: Columns of the factor of ``"low_rank"``.
        hidden: Width of the hidden layers.
        layers: Number of hidden layers.
        reg_covar: Floor of the variances, in units of the variance of a target dimension.
        seed: Of the initial weights.

    Examples:
        >>> network = MixtureDensityNetwork(2, 3, components=4)
        >>> network(torch.randn(5, 2))
        GaussianMixture(diag, components=4, batch_shape=(5,), event_shape=(3,))
    """

    context_center: Tensor
    context_scale: Tensor
    target_center: Tensor
    target_scale: Tensor

    def __init__(
        self,
        context_dim: int,
        target_dim: int,
        components: int = 8,
        *,
        covariance_type: CovarianceType = "diag",
        rank: int = 8,
        hidden: int = 256,
        layers: int = 2,
        reg_covar: float = 1e-4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.covariance_type, self.rank, self.floor = covariance_type, rank, math.sqrt(reg_covar)
        self.components, self.context_dim, self.target_dim = components, context_dim, target_dim
        sizes = {"logits": components, "means": components * target_dim}
        sizes["deviations"] = components * (1 if covariance_type == "spherical" else target_dim)
        if covariance_type == "full":
            sizes["off_diagonal"] = components * (target_dim * (target_dim - 1) // 2)
        if covariance_type == "low_rank":
            sizes["factor"] = components * target_dim * rank
        self.sizes = sizes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            body: list[nn.Module] = []
            for index in range(layers):
                body += [nn.Linear(hidden if index else context_dim, hidden), nn.SiLU()]
            self.body = nn.Sequential(*body)
            self.head = nn.Linear(hidden, sum(sizes.values()))
            self.skip = nn.Linear(context_dim, target_dim, bias=False)
            self._initialise()
        self.register_buffer("context_center", torch.zeros(context_dim, dtype=torch.float64))
        self.register_buffer("context_scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("target_center", torch.zeros(target_dim, dtype=torch.float64))
        self.register_buffer("target_scale", torch.ones((), dtype=torch.float64))

    @torch.no_grad()
    def _initialise(self) -> None:
        """Nearly constant outputs; means apart from each other, around the context where sizes allow."""
        nn.init.normal_(self.head.weight, std=0.1 / math.sqrt(self.head.in_features))
        nn.init.zeros_(self.head.bias)
        nn.init.eye_(self.skip.weight) if self.context_dim == self.target_dim else nn.init.zeros_(self.skip.weight)
        biases = dict(zip(self.sizes, self.head.bias.split(list(self.sizes.values())), strict=True))
        biases["deviations"].fill_(math.log(math.expm1(_START_DEVIATION)))  # the inverse of softplus
        if self.components > 1:
            biases["means"].normal_(std=_START_SPREAD)
        if "factor" in biases:  # a factor of zeros would have no gradient
            biases["factor"].normal_(std=0.1 / math.sqrt(self.rank))

    @torch.no_grad()
    def start(self, z_context: Tensor, z_target: Tensor) -> None:
        """Take centre and scale from a first batch; the weights stay."""
        for name, z in (("context", z_context), ("target", z_target)):
            center = z.double().mean(dim=0)
            variance = (z.double() - center).square().mean()
            # A batch of one point leaves its size as the only scale there is.
            scale = torch.where(variance > 0, variance, center.square().mean()).sqrt()
            getattr(self, f"{name}_center").copy_(center)
            getattr(self, f"{name}_scale").copy_(torch.where(scale > 0, scale, 1.0).clamp_min(1e-12))

    def forward(self, z_context: Tensor) -> GaussianMixture:
        """The mixture of the target for each context.

        Args:
            z_context: ``(B, d_c)``.

        Returns:
            Mixture of batch shape ``(B,)``.

        Raises:
            ShapeError: contexts of another size.
            NonFiniteError: contexts, or parameters, that give no mixture.
        """
        if z_context.ndim != 2 or z_context.shape[1] != self.context_dim:
            raise ShapeError(f"z_context must have shape (B, {self.context_dim}), but has {tuple(z_context.shape)}")
        weight = self.head.weight
        with full_precision(z_context.device.type):
            x = ((z_context - self.context_center) / self.context_scale).to(weight.dtype)
            outputs = self.head(self.body(x)).split(list(self.sizes.values()), dim=1)
            values = dict(zip(self.sizes, outputs, strict=True))
            shape = (len(x), self.components, self.target_dim)
            scale = self.target_scale.to(weight.dtype)
            locations = self.skip(x)[:, None] + values["means"].view(shape)
            means = self.target_center.to(weight.dtype) + scale * locations
            return GaussianMixture(values["logits"], means, self._covariance(values, scale, shape))

    def _covariance(self, values: dict[str, Tensor], scale: Tensor, shape: tuple[int, int, int]) -> Covariance:
        deviations = scale * (F.softplus(values["deviations"]) + self.floor)
        if self.covariance_type == "spherical":
            return SphericalCovariance(deviations.square(), self.target_dim, validate=False)
        deviations = deviations.view(shape)
        if self.covariance_type == "diag":
            return DiagonalCovariance(deviations.square(), validate=False)
        if self.covariance_type == "low_rank":
            factor = scale * values["factor"].view(*shape, self.rank)
            return LowRankCovariance(factor, deviations.square(), validate=False)
        rows, columns = torch.tril_indices(shape[2], shape[2], offset=-1, device=deviations.device)
        lower = deviations.new_zeros(*shape, shape[2])
        lower[..., rows, columns] = scale * values["off_diagonal"].view(*shape[:2], len(rows))
        return FullCovariance(lower + torch.diag_embed(deviations), validate=False)


class ConditionalJointMixture:
    r"""Joint density :math:`q(z_c, z_t) = q(z_c)\, q(z_t \mid z_c)` of a marginal mixture and a conditional network.

    The conditional of the target is closed-form; the reverse one is not, because the network knows one way only.

    Args:
        context: Marginal of the context, of batch shape ``()``.
        network: Of the target given the context; it is used as it is, without gradient.

    Examples:
        >>> context = GaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> joint = ConditionalJointMixture(context, MixtureDensityNetwork(2, 3))
        >>> z_context, z_target = joint.sample((7,))
        >>> torch.allclose(joint.log_prob(z_context, z_target),
        ...                context.log_prob(z_context) + joint.condition(z_context).log_prob(z_target))
        True
    """

    def __init__(self, context: GaussianMixture, network: MixtureDensityNetwork) -> None:
        if context.dim != network.context_dim:
            raise ShapeError(
                f"context must have event_shape ({network.context_dim},), but has {tuple(context.event_shape)}"
            )
        self._context, self._network = context, network

    @property
    def context(self) -> GaussianMixture:
        """Marginal of the context."""
        return self._context

    @property
    def context_dim(self) -> int:
        """``d_c``."""
        return self._network.context_dim

    @property
    def target_dim(self) -> int:
        """``d_t``."""
        return self._network.target_dim

    @property
    def components(self) -> int:
        """``K`` of the conditional."""
        return self._network.components

    @torch.no_grad()
    def log_prob(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        r""":math:`\log q(z_c) + \log q(z_t \mid z_c)`, nats.

        Args:
            z_context: ``(B, d_c)``.
            z_target: ``(B, d_t)``.

        Returns:
            ``(B,)``.

        Raises:
            ShapeError, NonFiniteError: views that do not fit the density or each other.
        """
        if z_context.shape[:-1] != z_target.shape[:-1]:
            raise ShapeError(
                "z_context and z_target must hold the same rows, but have shapes "
                f"{tuple(z_context.shape)} and {tuple(z_target.shape)}"
            )
        return self._context.log_prob(z_context) + self.condition(z_context).log_prob(z_target)

    @torch.no_grad()
    def condition(self, z_context: Tensor | None = None, *, z_target: Tensor | None = None) -> GaussianMixture:
        """Mixture of the target given the context.

        Args:
            z_context: ``(B, d_c)``.
            z_target: Must be left out.

        Returns:
            Mixture of batch shape ``(B,)``.

        Raises:
            ConfigError: the reverse conditional is asked for.
            ShapeError, NonFiniteError: a context that does not fit.
        """
        if z_context is None or z_target is not None:
            raise ConfigError(
                "a conditional network gives the target from the context only: pass z_context alone, or train "
                "another with the views exchanged, or use a joint mixture (GMJE), which conditions both ways"
            )
        mixture: GaussianMixture = self._network(z_context)
        return mixture

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Draw pairs.

        Args:
            sample_shape: Leading shape of the draws.

        Returns:
            ``(*sample_shape, d_c)`` and ``(*sample_shape, d_t)``.
        """
        z_context = self._context.sample(sample_shape)
        rows = z_context.reshape(-1, self.context_dim)
        z_target: Tensor = self._network(rows).sample() if len(rows) else rows.new_zeros(0, self.target_dim)
        return z_context, z_target.view(*sample_shape, self.target_dim)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self._network.covariance_type}, components={self.components}, "
            f"context_dim={self.context_dim}, target_dim={self.target_dim})"
        )
