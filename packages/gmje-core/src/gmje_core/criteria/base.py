"""What all criteria share: the order of a step, its checks, how it sees the global batch, and what it reports.

A remedy subclasses :class:`Criterion` and says two things: which density is its critic, and what the encoder's loss is
under it.
"""

import warnings
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from gmje_core.counting import CountingModule
from gmje_core.criteria.channel import NoiseChannel
from gmje_core.densities.joint import JointDensity, JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.diagnostics import HEALTHY, component_usage, embedding_diagnostics, judge, trace_ratio
from gmje_core.distributed import gather_pairs
from gmje_core.errors import (
    BatchSizeError,
    CollapseWarning,
    ConfigError,
    NonFiniteError,
    NotFittedError,
    NotPositiveDefiniteError,
    ShapeError,
)
from gmje_core.estimation.consolidated import ConsolidatedDensity
from gmje_core.estimation.consolidation import DENSITY_COMPONENTS, fit_density
from gmje_core.estimation.scaled import ScaledFit
from gmje_core.estimation.trainable import TrainableDensity
from gmje_core.linalg import LOG_2PI, full_precision
from gmje_core.transfer import copy_to_host

__all__ = ["Criterion"]


class Criterion(CountingModule, ABC):
    """A loss on pairs of embeddings that owns a density of them, its critic.

    Call it on the two views' embeddings. A step always has one order: the embeddings of all ranks are gathered, the
    critic starts if it has not yet, the batch is scored by the mixture as it was before the batch, the loss is taken,
    and only then, in training mode, the critic learns from the batch. Every rank passes its own pairs and gets the
    loss of the global batch.

    Args:
        dim: Embedding size of both views, or the pair ``(d_c, d_t)``.
        check_every: Steps between automatic collapse checks, which warn at most once; 0 to make none.
        density_components: Components of the density that :meth:`consolidate` fits, whose place in the state is made
            now; 0 for 60 of them, and no place before.

    Raises:
        ConfigError: an argument is out of range.
    """

    #: The density that the encoder is trained by.
    critic: TrainableDensity
    #: The noise channel that the encoder's loss is taken behind; ``None`` for a criterion that needs no module for it.
    channel: NoiseChannel | None
    #: Whether the critic's covariance is fitted on the batch that it scores, which no remedy does.
    self_scored = False

    def __init__(self, dim: int | tuple[int, int], *, check_every: int = 100, density_components: int = 0) -> None:
        super().__init__(steps=0)
        dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim, dim)
        if len(dims) != 2 or any(not isinstance(d, int) or d < 1 for d in dims):
            raise ConfigError(f"dim must be a positive integer or a pair of them, got {dim!r}")
        if check_every < 0:
            raise ConfigError(f"check_every must be 0 (never) or a number of steps, got {check_every!r}")
        self.context_dim, self.target_dim = dims
        self.check_every = check_every
        if not isinstance(density_components, int) or density_components < 0:
            raise ConfigError(f"density_components must be 0 or a number of components, got {density_components!r}")
        self.density_components = density_components
        self.consolidated = ConsolidatedDensity(dims, density_components)
        self.register_module("channel", None)
        self._last: tuple[Tensor, Tensor] | None = None
        self._gauges: dict[str, Tensor | float] = {}
        self._warned = False

    @property
    def dim(self) -> int:
        """Size ``D = d_c + d_t`` of the joint embedding."""
        return self.context_dim + self.target_dim

    @property
    def steps(self) -> int:
        """Batches seen in training mode."""
        return self.counters["steps"]

    def forward(self, z_context: Tensor, z_target: Tensor) -> Tensor:
        """Score the global batch, take its loss and, in training mode, let the critic learn from it.

        Args:
            z_context: ``(B, d_c)``, this rank's context embeddings, any floating dtype.
            z_target: ``(B, d_t)``, this rank's target embeddings.

        Returns:
            Scalar in nats per pair, float32 or float64, the same on every rank.

        Raises:
            ShapeError: the sizes differ from ``dim`` or from each other.
            BatchSizeError: there are fewer than 2 pairs, or ranks have batches of different sizes; on every rank.
            NonFiniteError: the embeddings or the loss hold NaN or infinity.
        """
        self._check_shapes(z_context, z_target)
        with full_precision(z_context.device.type):
            dtype = torch.promote_types(torch.promote_types(z_context.dtype, z_target.dtype), torch.float32)
            z_context, z_target = gather_pairs(z_context.to(dtype), z_target.to(dtype))
            if len(z_context) < 2:
                raise BatchSizeError(
                    f"a batch must hold at least 2 pairs, but holds {len(z_context)}: the objective compares pairs"
                )
            self._last = (z_context.detach(), z_target.detach())
            pairs = torch.cat(self._last, dim=1)
            seen = self._seen_by_critic(pairs)
            new = not self.critic.started
            try:
                if new:
                    self._start(seen, pairs)
                critic = self.critic(dtype) if self.critic.started else None
                responsibilities = self._score(critic, seen)
                loss = self._loss(critic, z_context, z_target)
                rare = self.critic.rare_work(seen, responsibilities) if self.training else None
                finite, rare_work = self._read(torch.isfinite(loss.detach() + pairs.sum(dtype=torch.float64)), rare)
            except (NonFiniteError, NotPositiveDefiniteError):
                if new:
                    self.critic.forget()
                self._check_values(z_context, z_target)
                raise
            if not finite:
                if new:
                    self.critic.forget()
                self._check_values(z_context, z_target)
                raise NonFiniteError(
                    f"{type(self).__name__} gave the loss {loss.item()} at step {self.steps} on finite embeddings: "
                    "their scale has jumped, or is beyond what the density can represent"
                )
            if self.training:
                self._update(seen, pairs, responsibilities, rare_work)
        return loss

    def density(self) -> JointDensity:
        """The learned joint density of context and target, detached from any graph.

        It is the one that :meth:`consolidate` fitted, and before that the critic's.

        Raises:
            NotFittedError: no batch has been seen.
        """
        return self.consolidated() if self.consolidated.fitted else self.critic_density()

    def critic_density(self) -> JointDensity:
        """The density that the encoder is trained by, detached from any graph: a good critic, and a rough density.

        Raises:
            NotFittedError: no batch has been seen.
        """
        return self._joint(self._known()).detach()

    @torch.no_grad()
    def consolidate(
        self,
        context: Tensor,
        target: Tensor,
        validation: tuple[Tensor, Tensor],
        *,
        passes: int = 1,
        exchangeable: bool = False,
        shrinkage: float | None = None,
        rounds: int | None = None,
        seed: int = 0,
    ) -> ScaledFit:
        """Fit the density that answers users to pairs of a frozen encoder: the closing stage of training.

        What trains an encoder well, many narrow kernels behind a noise channel, describes its embeddings badly. This
        fits a calibrated mixture with scales (:func:`~gmje_core.estimation.consolidation.fit_density`). From then on
        :meth:`density` is that one; it belongs to the state. Call it on every process with the same pairs, or on the
        process that saves the model.

        Args:
            context: ``(N, d_c)`` embeddings of the training items, as many pairs of views as you like of each.
            target: ``(N, d_t)``.
            validation: Pairs of items that are not among those, ``(M, d_c)`` and ``(M, d_t)``.
            passes: The training pairs are so many blocks of the same items in the same order.
            exchangeable: Whether one encoder gives both views and either may be the context.
            shrinkage: Pseudo-observations of the pooled covariance in each component's; ``None`` to choose them on the
                validation pairs.
            rounds: Rounds of EM; ``None`` for 24, and for more than 10,000 items fewer.
            seed: Seed of the start.

        Returns:
            The density that is held from now on, with its mean log-densities in nats per pair.

        Raises:
            ShapeError, NonFiniteError: pairs that do not fit.
            BatchSizeError: fewer than two pairs for training or for validation.
        """
        for pair in ((context, target), validation):
            self._check_shapes(*pair)
            self._check_values(*pair)
        fit = fit_density(
            context,
            target,
            validation,
            components=self.density_components or DENSITY_COMPONENTS,
            shrinkage=shrinkage,
            rounds=rounds,
            passes=passes,
            exchangeable=exchangeable,
            seed=seed,
        )
        self.consolidated.hold(fit.density)
        return fit

    def diagnostics(self) -> dict[str, float | str]:
        """Report the gauges of the last batch, with the name of the verdict and its advice.

        The keys are those of :func:`gmje_core.diagnostics.embedding_diagnostics`, ``trace_ratio`` (scored before the
        update) and ``self_scored``, for mixtures ``component_usage``, and ``verdict`` and ``advice``.

        Raises:
            NotFittedError: no batch has been seen since the criterion was made or loaded.
        """
        if self._last is None:
            raise NotFittedError("no batch has been seen: call the criterion on a batch of embeddings first")
        gauges = {key: float(value) for key, value in self._gauges.items()}
        values: dict[str, float | str] = {**embedding_diagnostics(*self._last), **gauges}
        verdict = judge(values)
        return values | {"verdict": verdict.name, "advice": verdict.advice}

    @abstractmethod
    def _encoder_loss(self, critic: GaussianMixture | None, z_context: Tensor, z_target: Tensor) -> Tensor:
        """The encoder's objective on the global batch in full precision, to be minimised.

        Args:
            critic: The mixture as it was before the batch; ``None`` where the critic knows nothing yet.
            z_context: ``(B, d_c)``.
            z_target: ``(B, d_t)``.
        """

    def _fit(self, critic: GaussianMixture | None, z_context: Tensor, z_target: Tensor) -> Tensor | None:
        """The loss in nats per pair that trains parameters of the density; ``None`` where it has no parameters.

        Args:
            critic: The mixture as it was before the batch; ``None`` where the critic knows nothing yet.
            z_context: ``(B, d_c)``, detached from the encoder.
            z_target: ``(B, d_t)``, detached from the encoder.
        """
        if critic is None or not self.critic.has_gradient:
            return None
        return -critic.log_prob(torch.cat([z_context, z_target], dim=1)).mean()

    def _seen_by_critic(self, pairs: Tensor) -> Tensor:
        """The columns of the pairs ``(B, D)`` that the critic is a density of; all of them unless overridden."""
        return pairs

    def _more_gauges(self, responsibilities: Tensor | None) -> dict[str, Tensor | float]:
        """Gauges besides the trace ratio; by default they say how evenly the critic's components are used."""
        return {} if responsibilities is None else {"component_usage": component_usage(responsibilities)}

    def _loss(self, critic: GaussianMixture | None, z_context: Tensor, z_target: Tensor) -> Tensor:
        loss = self._encoder_loss(critic, z_context, z_target)
        fit = self._fit(critic, z_context.detach(), z_target.detach())
        if fit is not None:
            loss = loss + (fit - fit.detach())  # This trains the parameters; the value stays the encoder's loss.
        return loss

    def _start(self, seen: Tensor, pairs: Tensor) -> None:
        """Start the critic from ``seen`` and the channel from the pairs ``(B, D)`` of a first batch."""
        self.critic.start(seen)
        if self.channel is not None:
            self.channel.start(pairs)

    @torch.no_grad()
    def _score(self, critic: GaussianMixture | None, seen: Tensor) -> Tensor | None:
        """Responsibilities ``(B, K)`` of the batch before the critic learns it, and the gauges of that score."""
        if critic is None:
            self._gauges = {"trace_ratio": 1.0, "self_scored": 0.0, **self._more_gauges(None)}
            return None
        responsibilities = self._gauge(critic.detach(), critic.detach().component_log_prob(seen))
        self._gauges |= self._more_gauges(responsibilities)
        return responsibilities

    def _gauge(self, mixture: GaussianMixture, log_joint: Tensor) -> Tensor:
        """Keep the gauges that any mixture has, and return the responsibilities ``(B, K)`` of a scored batch.

        Args:
            mixture: The mixture that scored the batch.
            log_joint: ``(B, K)`` component log-probabilities of the batch, with the log-weights.
        """
        responsibilities = log_joint.softmax(dim=1)
        # The log-densities hold the squared Mahalanobis distances, which need not be computed again.
        constant = mixture.log_weights - mixture.covariance.half_log_det() - 0.5 * mixture.dim * LOG_2PI
        # Products of rows with rows, because a tensor like the scores takes longer to make than these sums.
        shared, constant = constant.ndim == 1, constant.to(log_joint.dtype)
        known = responsibilities @ constant if shared else torch.linalg.vecdot(responsibilities, constant)
        distances = 2 * (known - torch.linalg.vecdot(responsibilities, log_joint))
        self._gauges = {
            "trace_ratio": trace_ratio(distances, mixture.dim),
            "self_scored": float(self.self_scored),
        }
        return responsibilities

    def _read(self, finite: Tensor, rare: Tensor | None) -> tuple[bool, bool]:
        """Read the flags of a step from the device, the only wait of a step.

        Where a collapse check is due, the last batch and the gauges come along in the same transfer.
        """
        rare = torch.zeros_like(finite) if rare is None else rare
        if not self._check_is_due:
            code = int(finite.to(torch.uint8) + 2 * rare.to(torch.uint8))
            return bool(code & 1), bool(code & 2)
        assert self._last is not None
        gauges = {key: value for key, value in self._gauges.items() if isinstance(value, Tensor)}
        flags, *rest = copy_to_host(torch.stack([finite, rare]), *self._last, *gauges.values())
        self._last = rest[0], rest[1]
        self._gauges |= dict(zip(gauges, torch.stack(rest[2:]).tolist(), strict=True)) if gauges else {}
        is_finite, is_rare = flags.tolist()
        return bool(is_finite), bool(is_rare)

    @property
    def _check_is_due(self) -> bool:
        """Whether the present step of training ends with a collapse check."""
        return bool(self.training and self.check_every and (self.steps + 1) % self.check_every == 0)

    def _update(self, seen: Tensor, pairs: Tensor, responsibilities: Tensor | None, rare: bool) -> None:
        if self.channel is not None:
            self.channel.update(pairs, self.critic.next_step)
        self.critic.update(seen, responsibilities, rare=rare)
        due = self._check_is_due
        self.counters["steps"] += 1
        if due:
            self._warn_if_bad()

    def _joint(self, mixture: GaussianMixture | None) -> JointGaussianMixture:
        """Split a mixture over ``[z_c ; z_t]`` into context and target."""
        assert mixture is not None
        return JointGaussianMixture.from_mixture(mixture, self.context_dim)

    def _known(self) -> GaussianMixture:
        """The critic's mixture in the precision of the last batch; an error before the first one."""
        if not self.critic.started:
            raise NotFittedError(f"{type(self).__name__} knows nothing yet: call it on a batch of embeddings first")
        mixture: GaussianMixture = self.critic(self._dtype)
        return mixture

    @property
    def _dtype(self) -> torch.dtype:
        """Precision of the last batch's densities."""
        return torch.get_default_dtype() if self._last is None else self._last[0].dtype

    def _warn_if_bad(self) -> None:
        if self._warned:
            return
        report = self.diagnostics()
        if report["verdict"] != HEALTHY.name:
            self._warned = True
            warnings.warn(
                f"{type(self).__name__} at step {self.steps}: {report['verdict']}. {report['advice']}",
                CollapseWarning,
                stacklevel=4,
            )

    def _check_shapes(self, z_context: Tensor, z_target: Tensor) -> None:
        for name, z, size in (
            ("z_context", z_context, self.context_dim),
            ("z_target", z_target, self.target_dim),
        ):
            if z.ndim != 2 or z.shape[1] != size:
                raise ShapeError(f"{name} must have shape (B, {size}), but has {tuple(z.shape)}")
            if not z.is_floating_point():
                raise ShapeError(f"{name} must be floating point, but is {z.dtype}")
        if z_context.shape[0] != z_target.shape[0]:
            raise ShapeError(
                "context and target must hold the same number of rows, but have "
                f"{z_context.shape[0]} and {z_target.shape[0]}"
            )

    def _check_values(self, z_context: Tensor, z_target: Tensor) -> None:
        """Raise an error that names the first row that is not finite; only called after a loss has failed."""
        for name, z in (("z_context", z_context), ("z_target", z_target)):
            finite = torch.isfinite(z).all(dim=1)
            if not finite.all():
                row = int((~finite).nonzero()[0])
                raise NonFiniteError(
                    f"{name} holds NaN or infinity at step {self.steps}, first in row {row} of the global "
                    f"batch of {z.shape[0]}: the encoder has diverged (lower the learning rate)"
                )
