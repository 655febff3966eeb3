r"""A joint mixture whose components have several scales: heavy tails, of context and of conditional apart."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gmje_core.densities.blockwise import apply_matrices, over_blocks, squared_norms
from gmje_core.densities.canonical import CanonicalAxes
from gmje_core.densities.covariance import FullCovariance
from gmje_core.densities.covariance.scaled import ScaledCovariance
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.densities.parameters import check_same_rows
from gmje_core.errors import ShapeError
from gmje_core.exponentials import logsumexp
from gmje_core.linalg import full_precision, promote, require_finite, triangular_factor, triangular_inverse

__all__ = ["ScaledJointMixture"]

# Rows that are scored at a time: the scores of one block are rows x components x scales.
_ROWS = 4096
# Names of the constructor's arguments, in the order of ``parameters``.
_PARAMETERS = ("log_weights", "context_means", "target_means", "context_tril", "gain", "target_tril")


class ScaledJointMixture:
    r"""Joint density of two views in which context and conditional have scales of their own.

    .. math::
        q(z_c, z_t) = \sum_{kab} p_{kab}\, N(z_c; \mu_k^c, \alpha_a C_k)\,
        N(z_t; \mu_k^t + G_k (z_c - \mu_k^c), \beta_b S_k)

    Pairs of views differ in how hard they are: the squared distance of a target from its prediction has a far wider
    distribution than a Gaussian allows, and a mixture of scales gives it that. Component :math:`(k, a, b)` is a
    Gaussian with :math:`\Sigma_{cc} = \alpha_a C_k` and
    :math:`\Sigma_{tt} = \alpha_a G_k C_k G_k^\top + \beta_b S_k`, so the density is a Gaussian mixture with
    ``K * A * B`` components that share ``K`` factors, and all of them cost little more than ``K``.

    Args:
        log_weights: ``(K, A, B)`` logits of :math:`p_{kab}`, normalised here.
        context_means: ``(K, d_c)``.
        target_means: ``(K, d_t)``.
        context_tril: ``(K, d_c, d_c)`` lower-triangular factors of :math:`C_k`.
        gain: ``(K, d_t, d_c)``.
        target_tril: ``(K, d_t, d_t)`` lower-triangular factors of :math:`S_k`.
        context_scales: ``(A,)`` positive :math:`\alpha_a`.
        target_scales: ``(B,)`` positive :math:`\beta_b`.
        unit_norm: Whether the embeddings lie on the unit sphere. Samples are then brought there by dividing by their
            norm; densities stay those of the surrounding space, in nats of its Lebesgue measure, in which the shell
            around the sphere is thin.

    Raises:
        ShapeError, NonFiniteError, NotPositiveDefiniteError: parameters that do not fit each other.

    Examples:
        >>> eye, zero = torch.eye(2)[None], torch.zeros(1, 2)
        >>> density = ScaledJointMixture(torch.zeros(1, 1, 2), zero, zero, eye, 0.9 * eye, 0.1 * eye,
        ...                              torch.ones(1), torch.tensor([0.5, 8.0]))
        >>> density.condition(torch.ones(3, 2)).mean[0]
        tensor([0.9000, 0.9000])
        >>> density.sample((5,))[1].shape
        torch.Size([5, 2])
        >>> precise, z = density.to(torch.float64), torch.ones(1, 2, dtype=torch.float64)
        >>> torch.allclose(precise.log_prob(z, z), precise.expanded().log_prob(z, z))
        True
    """

    def __init__(
        self,
        log_weights: Tensor,
        context_means: Tensor,
        target_means: Tensor,
        context_tril: Tensor,
        gain: Tensor,
        target_tril: Tensor,
        context_scales: Tensor,
        target_scales: Tensor,
        *,
        unit_norm: bool = False,
    ) -> None:
        tensors = (log_weights, context_means, target_means, context_tril, gain, target_tril)
        log_weights, context_means, target_means, context_tril, gain, target_tril, *scales = promote(
            *tensors, context_scales, target_scales
        )
        components, (context_dim, target_dim) = len(context_means), (context_means.shape[-1], target_means.shape[-1])
        shapes = [tuple(tensor.shape) for tensor in tensors]
        wanted = [
            (components, len(context_scales), len(target_scales)),
            (components, context_dim),
            (components, target_dim),
            (components, context_dim, context_dim),
            (components, target_dim, context_dim),
            (components, target_dim, target_dim),
        ]
        if shapes != wanted:
            raise ShapeError(f"the parameters must have shapes {wanted}, but have {shapes}")
        for name, tensor in (("log_weights", log_weights), ("gain", gain), ("target_means", target_means)):
            require_finite(name, tensor.flatten(1))
        self._context_covariance = ScaledCovariance(context_tril, scales[0])
        self._target_covariance = ScaledCovariance(target_tril, scales[1])
        self._log_weights = log_weights.flatten().log_softmax(dim=0).view(log_weights.shape)
        self._context_means, self._target_means, self._gain = context_means, target_means, gain
        self._unit_norm = unit_norm

    @property
    def context_dim(self) -> int:
        """Size of the context embedding, ``d_c``."""
        return self._context_means.shape[-1]

    @property
    def target_dim(self) -> int:
        """Size of the target embedding, ``d_t``."""
        return self._target_means.shape[-1]

    @property
    def components(self) -> int:
        """Components of the conditional, ``K * B``."""
        return len(self._context_means) * self._log_weights.shape[2]

    @property
    def parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Log-weights, means of context and target, context factors, gains and target factors; scales are apart."""
        factors = (self._context_covariance.scale_tril, self._gain, self._target_covariance.scale_tril)
        return self._log_weights, self._context_means, self._target_means, *factors

    @property
    def scales(self) -> tuple[Tensor, Tensor]:
        """Scales ``(A,)`` of the context's covariances and ``(B,)`` of the conditional's."""
        return self._context_covariance.scales, self._target_covariance.scales

    @property
    def log_weights(self) -> Tensor:
        """``(K, A, B)``, normalised."""
        return self._log_weights

    @property
    def unit_norm(self) -> bool:
        """Whether samples are brought to the unit sphere."""
        return self._unit_norm

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64."""
        return self._gain.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self._gain.device

    @property
    def context(self) -> GaussianMixture:
        """Marginal of the context, a mixture of ``K * A`` components."""
        scales = len(self._context_covariance.scales)
        weights = self._log_weights.logsumexp(dim=2).flatten()
        return GaussianMixture(weights, self._context_means.repeat_interleave(scales, dim=0), self._context_covariance)

    @property
    def target(self) -> GaussianMixture:
        r"""Marginal of the target, a mixture of ``K * A * B`` components.

        Each access finds the :class:`~gmje_core.densities.canonical.CanonicalAxes` of the ``K`` factors: keep the
        mixture where it is asked often. Gradients reach what it scores, and of the parameters its weights and means.
        """
        with full_precision(self.device.type):
            return self._target_marginal(CanonicalAxes.of_channel(*self.parameters[3:]))

    def log_prob(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        r""":math:`\log q(z_c, z_t)`, nats.

        Args:
            z_context: ``(B, d_c)``.
            z_target: ``(B, d_t)``.

        Returns:
            ``(B,)``.

        Raises:
            ShapeError, NonFiniteError: views that do not fit the density or each other.
        """
        z_context, z_target = self._check("z_context", z_context), self._check("z_target", z_target)
        check_same_rows(z_context, z_target)
        with full_precision(self.device.type):
            parts = zip(z_context.split(_ROWS), z_target.split(_ROWS), strict=True)
            scores = [logsumexp(self._component_scores(c, t), dim=1) for c, t in parts]
        return torch.cat(scores) if scores else z_context.new_zeros(0)

    def condition(self, z_context: Tensor) -> GaussianMixture:
        """Mixture of the target given the context.

        Args:
            z_context: ``(B, d_c)``.

        Returns:
            Mixture of batch shape ``(B,)`` with ``K * B`` components, of which those of one factor share their mean.

        Raises:
            ShapeError, NonFiniteError: contexts that do not fit.
        """
        z_context = self._check("z_context", z_context)
        with full_precision(self.device.type):
            context, _ = self._scores(z_context, None)
            weights = logsumexp(context.unsqueeze(-1) + self._log_weights, dim=2)  # (B, K, B)
            shift = apply_matrices(self._gain, z_context.unsqueeze(-2) - self._context_means)
            means = self._target_means + shift  # (B, K, d_t)
        shared = means.unsqueeze(-2).expand(*means.shape[:-1], len(self.scales[1]), -1).flatten(-3, -2)
        return GaussianMixture(weights.flatten(-2), shared, self._target_covariance)

    def condition_on_target(self, z_target: Tensor) -> GaussianMixture:
        r"""Mixture of the context given the target.

        Args:
            z_target: ``(N, d_t)``.

        Returns:
            Mixture of batch shape ``(N,)`` with ``K * A * B`` components, each with a mean of its own: they are
            ``N * K * A * B * d_c`` numbers, so ask for few rows at a time. Covariances are shared by the rows.

        Raises:
            ShapeError, NonFiniteError: targets that do not fit.

        Examples:
            >>> eye, zero, one = torch.eye(2)[None], torch.zeros(1, 2), torch.ones(1)
            >>> density = ScaledJointMixture(torch.zeros(1, 1, 1), zero, zero, eye, eye, eye, one, one)
            >>> density.condition_on_target(torch.tensor([[2.0, 4.0]])).mean  # half of a target is noise
            tensor([[1., 2.]])
        """
        z_target = self._check("z_target", z_target)
        with full_precision(self.device.type):
            axes = CanonicalAxes.of_channel(*self.parameters[3:])
            weights = self._target_marginal(axes).component_log_prob(z_target)
            shift = axes.context_shift(z_target.unsqueeze(1) - self._target_means, *self.scales)
            means = shift.add_(self._context_means.repeat_interleave(self._log_weights[0].numel(), dim=0))
            return GaussianMixture(weights, means, axes.context_covariance(*self.scales))

    def pmi(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        r"""Pointwise mutual information :math:`\log q(z_c, z_t) - \log q(z_c) - \log q(z_t)`, nats.

        Args:
            z_context: ``(B, d_c)``.
            z_target: ``(B, d_t)``.

        Returns:
            ``(B,)``. Each call makes the marginal of the target anew, as :attr:`target` does.

        Raises:
            ShapeError, NonFiniteError: views that do not fit the density or each other.
        """
        joint = self.log_prob(z_context, z_target)
        return joint - self.context.log_prob(z_context.to(joint)) - self.target.log_prob(z_target.to(joint))

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Draw pairs.

        Args:
            sample_shape: Leading shape of the draws.

        Returns:
            ``(*sample_shape, d_c)`` and ``(*sample_shape, d_t)``, of unit norm where :attr:`unit_norm`.
        """
        count, (_, a, b) = torch.Size(sample_shape).numel(), self._log_weights.shape
        drawn = torch.multinomial(self._log_weights.flatten().exp(), max(1, count), replacement=True)[:count]
        k, scale_a, scale_b = drawn // (a * b), drawn // b % a, drawn % b
        shift = self._context_covariance.draw(k * a + scale_a)
        z_context = self._context_means[k] + shift
        moved = torch.empty_like(self._target_means[k])
        for component in k.unique().tolist():
            rows = k == component
            moved[rows] = shift[rows] @ self._gain[component].T
        z_target = self._target_means[k] + moved + self._target_covariance.draw(k * b + scale_b)
        if self._unit_norm:
            z_context, z_target = F.normalize(z_context, dim=-1), F.normalize(z_target, dim=-1)
        return z_context.view(*sample_shape, self.context_dim), z_target.view(*sample_shape, self.target_dim)

    def expanded(self) -> JointGaussianMixture:
        """The same density as a mixture with a factor for each of the ``K * A * B`` components; for small sizes."""
        root_a, root_b = self._context_covariance.scales.sqrt(), self._target_covariance.scales.sqrt()
        k, a, b = self._log_weights.shape
        context = self._context_covariance.scale_tril[:, None, None] * root_a[:, None, None, None]
        cross = self._gain[:, None, None] @ context
        target = self._target_covariance.scale_tril[:, None, None] * root_b[:, None, None]
        context, cross, target = (part.expand(k, a, b, *part.shape[-2:]) for part in (context, cross, target))
        upper = torch.cat([context, context.new_zeros(k, a, b, self.context_dim, self.target_dim)], dim=-1)
        factors = torch.cat([upper, torch.cat([cross, target], dim=-1)], dim=-2).flatten(0, 2)
        means = torch.cat([self._context_means, self._target_means], dim=1).repeat_interleave(a * b, dim=0)
        covariance = FullCovariance(factors, validate=False)
        return JointGaussianMixture(self._log_weights.flatten(), means, covariance, self.context_dim)

    def mapped(self, context: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> "ScaledJointMixture":
        r"""The density of :math:`T_c z_c + b_c` and :math:`T_t z_t + b_t`.

        Args:
            context: :math:`T_c` ``(d_c, d_c)``, invertible, and :math:`b_c` ``(d_c,)``.
            target: :math:`T_t` ``(d_t, d_t)`` and :math:`b_t` ``(d_t,)``.
        """
        (map_c, shift_c), (map_t, shift_t) = ((part.double() for part in view) for view in (context, target))
        context_tril = self._context_covariance.scale_tril.double()
        target_tril = self._target_covariance.scale_tril.double()
        mixture = self.to(torch.float64)._replace(
            context_means=self._context_means.double() @ map_c.T + shift_c,
            target_means=self._target_means.double() @ map_t.T + shift_t,
            context_tril=triangular_factor(map_c @ context_tril),
            gain=torch.linalg.solve(map_c, map_t @ self._gain.double(), left=False),
            target_tril=triangular_factor(map_t @ target_tril),
        )
        return mixture.to(self.dtype)

    def to(self, target: torch.device | torch.dtype | str) -> "ScaledJointMixture":
        """The density on another device or in another dtype (float32 at least)."""
        return self._replace(**{name: tensor.to(target) for name, tensor in self._arguments().items()})

    def detach(self) -> "ScaledJointMixture":
        """The density itself, which carries no gradient."""
        return self

    def view_scores(self, z_context: Tensor, z_target: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities of contexts ``(B, K, A)`` and of targets given them ``(B, K, B)``, without weights, in nats."""
        z_context, z_target = self._check("z_context", z_context), self._check("z_target", z_target)
        check_same_rows(z_context, z_target)
        with full_precision(self.device.type):
            context, target = self._scores(z_context, z_target)
        assert target is not None
        return context, target

    def with_log_weights(self, log_weights: Tensor) -> "ScaledJointMixture":
        """The density with other logits ``(K, A, B)``, normalised here."""
        return self._replace(log_weights=log_weights)

    def with_context_factor(self, factor: float) -> "ScaledJointMixture":
        """The density with the covariances of its contexts multiplied by a factor; the conditional stays."""
        return self._replace(context_tril=factor**0.5 * self._context_covariance.scale_tril)

    def with_gain_factor(self, factor: float) -> "ScaledJointMixture":
        """The density with its gains multiplied by a factor."""
        return self._replace(gain=factor * self._gain)

    def with_conditional_factor(self, factor: float) -> "ScaledJointMixture":
        """The density with the covariances of its conditional multiplied by a factor."""
        return self._replace(target_tril=factor**0.5 * self._target_covariance.scale_tril)

    def _arguments(self) -> dict[str, Tensor]:
        """The tensors that the constructor takes, by name."""
        return dict(zip(_PARAMETERS, self.parameters, strict=True)) | {
            "context_scales": self._context_covariance.scales,
            "target_scales": self._target_covariance.scales,
        }

    def _replace(self, **changed: Tensor) -> "ScaledJointMixture":
        """The density with some arguments of the constructor changed."""
        return ScaledJointMixture(**(self._arguments() | changed), unit_norm=self._unit_norm)

    def _scores(self, z_context: Tensor, z_target: Tensor | None) -> tuple[Tensor, Tensor | None]:
        distances = self._context_covariance.factors.squared_mahalanobis(z_context, self._context_means)
        context = self._context_covariance.log_densities(distances)
        if z_target is None:
            return context, None
        inverse = triangular_inverse(self._target_covariance.scale_tril)
        # The residual's whitened norm is one product with [-W G, W] of the pair.
        matrices = torch.cat([-inverse @ self._gain, inverse], dim=2)
        means = torch.cat([self._context_means, self._target_means], dim=1)
        offset = (matrices @ means.unsqueeze(-1)).squeeze(-1)

        def distance(rows: Tensor, matrices: Tensor, offset: Tensor) -> Tensor:
            whitened = torch.addmm(-offset.flatten(), rows, matrices.flatten(0, 1).T)
            return squared_norms(whitened.view(len(rows), *offset.shape))

        pairs = torch.cat([z_context, z_target], dim=1)
        distances = over_blocks(distance, pairs, (matrices, offset), self.target_dim)
        return context, self._target_covariance.log_densities(distances)

    def _component_scores(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        """``(B, K)`` log-densities of pairs in each component, scales summed out, with the log-weight."""
        context, target = self._scores(z_context, z_target)
        assert target is not None
        return logsumexp(context.unsqueeze(-1) + target.unsqueeze(-2) + self._log_weights, dim=(-2, -1))

    def _target_marginal(self, axes: CanonicalAxes) -> GaussianMixture:
        means = self._target_means.repeat_interleave(self._log_weights[0].numel(), dim=0)
        return GaussianMixture(self._log_weights.flatten(), means, axes.target_covariance(*self.scales))

    def _check(self, name: str, z: Tensor) -> Tensor:
        size = self.context_dim if name == "z_context" else self.target_dim
        if z.ndim != 2 or z.shape[-1] != size:
            raise ShapeError(f"{name} must have shape (B, {size}), but has {tuple(z.shape)}")
        require_finite(name, z)
        return z.to(self.dtype)

    def __repr__(self) -> str:
        k, a, b = self._log_weights.shape
        sizes = f"factors={k}, context_scales={a}, target_scales={b}"
        return f"{type(self).__name__}({sizes}, context_dim={self.context_dim}, target_dim={self.target_dim})"
