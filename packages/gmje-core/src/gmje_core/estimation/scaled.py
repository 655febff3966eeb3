r"""EM for a joint mixture with scales, on pairs of frozen embeddings: how a criterion's density is fitted in the end.

It is stepwise EM (Cappé and Moulines, 2009): each M-step follows one pair of views of each item, and sums are averaged
with decreasing steps, so that several views of an item cost no more than one. A row is scored under its three likeliest
components. For ``n`` items of ``P`` pairs of views, with ``D = d_c + d_t``, a step costs about ``10 n D^2`` operations
for products and ``K D^3`` for factors; the search of all components costs ``2 K n D^2``. Memory is ``4 P n D`` bytes
for the whitened views, about ``50 K D^2`` for sums and factors while an M-step makes them, and at most 60 MB for the
scores of a step. With 9,000 items of 4 pairs, ``K = 60`` and ``D = 256``, a fit with its choice of the shrinkage took
16 seconds of one core of a busy machine.

Rows are whitened first, so that float32 suffices.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gmje_core.densities.scaled import ScaledJointMixture
from gmje_core.errors import BatchSizeError, CollapsedError
from gmje_core.estimation.scaled_em import (
    Components,
    Expectation,
    Sums,
    expect,
    gather,
    likeliest,
    maximise,
    mean_log_prob,
)
from gmje_core.estimation.seeding import kmeans_plus_plus, move_to_means, step_generator
from gmje_core.linalg import safe_cholesky, triangular_inverse

__all__ = ["SCALES", "SHRINKAGES", "ScaledFit", "default_rounds", "fit_scaled_mixture"]

#: Scales that context and conditional may have, about a factor of 1.35 apart.
SCALES = (0.2, 0.3, 0.42, 0.6, 0.8, 1.0, 1.3, 1.7, 2.3, 3.2, 4.5, 7.0)
#: Pseudo-observations of the pooled covariance that are tried for each dimension of a pair, where none are given. Fewer
#: are likelier on held-out pairs by a few nats of hundreds, but their samples are less precise.
SHRINKAGES = (0.25, 0.5, 2.0, 8.0)

# Rows drawn for each choice of k-means++, and items that the start sees for each component.
_TRIALS, _SEED_ROWS = 4, 100
# Components that a row is scored under, and held-out rows; the round before which all components are searched.
_CANDIDATES, _HELD_OUT, _SEARCH = 3, 5, 6
# Most rows of one step.
_ROWS = 16384
# Most rounds, and pairs that they see together; rounds after which the shrinkage is chosen, and held-out pairs for it.
_ROUNDS, _SEEN = 24, 240_000
_CHOICE, _CHOICE_ROWS = 8, 2000
# Step t of averaging is (t + 2) ** -_DECAY.
_DECAY = 0.85


@dataclass(frozen=True)
class Whitening:
    """An affine map that gives a view zero mean and unit covariance.

    Attributes:
        mean: ``(d,)`` float64.
        tril: ``(d, d)`` float64 factor of the covariance.
    """

    mean: Tensor
    tril: Tensor

    @classmethod
    def of(cls, z: Tensor) -> "Whitening":
        """The whitening of embeddings ``(N, d)``."""
        z = z.double()
        mean = z.mean(dim=0)
        covariance = (z - mean).T @ (z - mean) / len(z)
        ridge = (1e-9 * covariance.diagonal().mean()).clamp_min(1e-24)
        return cls(mean, safe_cholesky(covariance + ridge * torch.eye(len(mean)).to(covariance)))

    def apply(self, z: Tensor) -> Tensor:
        """Whitened rows ``(N, d)``, float32."""
        return ((z.double() - self.mean) @ triangular_inverse(self.tril).T).float()


@dataclass(frozen=True)
class ScaledFit:
    """A fitted density and how it came about.

    Attributes:
        density: The density, in the units of the embeddings.
        log_prob: Mean joint log-density of the training pairs of the last round, in nats, before that round.
        validation_log_prob: That of the validation pairs in the end; :func:`fit_scaled_mixture` takes 2,000 of them.
        conditional_factor: Factor that the covariances of the conditional were multiplied by to be calibrated; see
            :func:`calibrate_conditional`.
        components: Factors.
        shrinkage: Pseudo-observations of the pooled covariance, given or chosen on the validation pairs.
    """

    density: ScaledJointMixture
    log_prob: float
    validation_log_prob: float
    components: int
    shrinkage: float
    conditional_factor: float = 1.0


@torch.no_grad()
def fit_scaled_mixture(
    context: Tensor,
    target: Tensor,
    validation: tuple[Tensor, Tensor],
    *,
    components: int = 60,
    shrinkage: float | None = None,
    rounds: int | None = None,
    passes: int = 1,
    exchangeable: bool = False,
    unit_norm: bool = False,
    seed: int = 0,
) -> ScaledFit:
    r"""Fit a joint mixture with scales to pairs of embeddings by stepwise EM.

    An E-step gives every row responsibilities of the components and the expected inverse scales of its context and of
    its conditional, :math:`E[1/\alpha]` and :math:`E[1/\beta]`, which weigh the row in the M-step as in EM for
    Student's distribution (Peel and McLachlan, 2000). Context covariances and the moments of the pairs are shrunk
    toward the pooled ones of all components by ``shrinkage`` pseudo-observations (inverse-Wishart). After eight
    rounds, the shrinkage is chosen by the mean log-density of validation pairs. Distances of training pairs are a
    little small: :func:`~gmje_core.estimation.calibration.refit_scales` puts the table of scales right.

    Args:
        context: ``(N, d_c)`` training pairs.
        target: ``(N, d_t)``.
        validation: Pairs of other items, ``(M, d_c)`` and ``(M, d_t)``.
        components: ``K``, the number of factors.
        shrinkage: Pseudo-observations of the pooled covariance; ``None`` to choose one of :data:`SHRINKAGES`
            times the number of dimensions of a pair.
        rounds: Rounds of EM; in each of them every item shows one pair of views. ``None`` for
            :func:`default_rounds`.
        passes: The pairs are so many blocks of the same items in the same order; each round then pairs a context of
            an item with a target of it, from blocks that are drawn.
        exchangeable: Whether either view may be the context; the views of an item are then drawn from all.
        unit_norm: Passed on to :class:`ScaledJointMixture`.
        seed: Seed of the start and of the draws.

    Returns:
        The density, its mean log-densities and what was chosen.

    Raises:
        BatchSizeError: fewer than two pairs for a component, too few validation pairs, or passes that do not divide
            the pairs.
        CollapsedError: there are fewer distinct pairs than components.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> context = torch.randn(600, 2)
        >>> target = context + 0.1 * torch.randn(600, 2) * torch.rand(600, 1).reciprocal().clamp_max(9)   # heavy tails
        >>> fit = fit_scaled_mixture(context[:500], target[:500], (context[500:], target[500:]), components=1)
        >>> fit.density
        ScaledJointMixture(factors=1, context_scales=12, target_scales=12, context_dim=2, target_dim=2)
    """
    if len(context) < 2 * components or len(validation[0]) < 2:
        raise BatchSizeError(
            f"two pairs for each of {components} components and two validation pairs are needed, but there are "
            f"{len(context)} and {len(validation[0])}"
        )
    if len(context) % passes:
        raise BatchSizeError(f"{passes} passes over the same items do not make {len(context)} pairs")
    if exchangeable:
        whiten_context = whiten_target = Whitening.of(torch.cat([context, target]))
    else:
        whiten_context, whiten_target = Whitening.of(context), Whitening.of(target)
    views = Views(whiten_context.apply(context), whiten_target.apply(target), passes, exchangeable)
    held_out = whiten_context.apply(validation[0]), whiten_target.apply(validation[1])
    # One point an item, so that its pairs begin together.
    items = torch.cat([context, target], dim=1).float().unflatten(0, (passes, -1)).mean(dim=0)
    dim = context.shape[1] + target.shape[1]
    tried = tuple(share * dim for share in SHRINKAGES) if shrinkage is None else (shrinkage,)
    fitted = StepwiseEM(views, items, min(components, len(items)), tried[0], seed)
    rounds = default_rounds(len(views)) if rounds is None else rounds
    fitted.advance(min(_CHOICE, rounds))
    some = held_out[0][:_CHOICE_ROWS], held_out[1][:_CHOICE_ROWS]
    candidates = likeliest(fitted.model, *some, _HELD_OUT)
    fitted.shrink(max(tried, key=lambda value: mean_log_prob(fitted.at(value), *some, candidates)))
    fitted.advance(max(0, rounds - _CHOICE))
    volume = -float(whiten_context.tril.diagonal().log().sum() + whiten_target.tril.diagonal().log().sum())
    density = _in_units(fitted.model, whiten_context, whiten_target, unit_norm)
    validation_log_prob = volume + mean_log_prob(fitted.model, *some, candidates)
    return ScaledFit(density, fitted.log_prob + volume, validation_log_prob, fitted.components, fitted.shrinkage)


def default_rounds(items: int) -> int:
    """Rounds of EM where none are asked for: as many as see 240,000 pairs, at least 8 and at most 24.

    Args:
        items: Number of items, each of which shows one pair in a round.

    Examples:
        >>> [default_rounds(items) for items in (9_000, 20_000, 54_000)]
        [24, 12, 8]
    """
    return max(_CHOICE, min(_ROUNDS, _SEEN // items))


class Views:
    """Whitened views of items, of which pairs are drawn.

    Args:
        x: ``(P n, d_c)`` contexts, in ``P`` blocks of the same items.
        y: ``(P n, d_t)`` targets.
        passes: ``P``.
        exchangeable: Whether either view may be the context.
    """

    def __init__(self, x: Tensor, y: Tensor, passes: int, exchangeable: bool) -> None:
        self.pairs = len(x)
        self._context, self._target = (z.unflatten(0, (passes, -1)) for z in (x, y))
        self._exchangeable = exchangeable
        if exchangeable:
            self._context = self._target = torch.cat([self._context, self._target])

    def __len__(self) -> int:
        return len(self._context[0])

    @property
    def dims(self) -> tuple[int, int]:
        """Sizes of context and target."""
        return self._context.shape[2], self._target.shape[2]

    def draw(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A context and a target of each of these items ``(b,)``, never the same view twice."""
        count = len(self._context)
        first = torch.randint(count, rows.shape, generator=generator)
        other = torch.randint(1, count, rows.shape, generator=generator) if self._exchangeable else None
        second = torch.randint(count, rows.shape, generator=generator) if other is None else (first + other) % count
        return self._context[first, rows], self._target[second, rows]


class StepwiseEM:
    """The state of a fit in progress.

    Args:
        views: The training pairs.
        items: ``(n, D)`` one point for each item, whose clusters are the start.
        components: ``K``.
        shrinkage: Pseudo-observations of the pooled covariance.
        seed: Seed of the start and of the draws.
    """

    def __init__(self, views: Views, items: Tensor, components: int, shrinkage: float, seed: int) -> None:
        self.shrinkage, self.log_prob = shrinkage, 0.0
        self._views, self._rounds, self._steps = views, 0, 0
        self._generator = step_generator(seed, 1)
        starting = step_generator(seed, 0)
        some = items[torch.randperm(len(items), generator=starting)[: _SEED_ROWS * components]]
        index, _ = kmeans_plus_plus(some, components, generator=starting, trials=_TRIALS)
        if len(index) < components:
            raise CollapsedError(
                f"the embeddings hold only {len(index)} distinct pairs: no density of {components} components can be "
                "fitted to them"
            )
        centres = move_to_means(some, some[index])
        near = torch.cdist(items, centres).topk(min(_CANDIDATES, components), dim=1, largest=False)
        self._candidates = near.indices
        self._scales = torch.tensor(SCALES).to(items)
        # Counts of a table that is spread about scale one.
        spread = torch.exp(-(self._scales.log()[:, None].square() + self._scales.log().square()))
        start = Expectation.of_clusters(self._candidates[:, 0], spread.expand(components, -1, -1))
        context_dim, target_dim = views.dims
        self._about = items.new_zeros(components, context_dim), items.new_zeros(components, target_dim)
        every = torch.arange(len(items))
        self.sums = self._gather(*views.draw(every, self._generator), start)
        self.model = self.at(shrinkage)
        # Sums about the means lose fewer digits; the first step replaces those of the start.
        self._about = self.model.context_means, self.model.target_means

    @property
    def components(self) -> int:
        """``K``."""
        return len(self.sums.mass)

    def at(self, shrinkage: float) -> Components:
        """The parameters that the sums give at another shrinkage."""
        return maximise(self.sums, *self._about, self._scales, shrinkage)

    def shrink(self, shrinkage: float) -> None:
        """Go over to another shrinkage, with the parameters that the sums give at it."""
        self.shrinkage, self.model = shrinkage, self.at(shrinkage)

    def advance(self, rounds: int) -> None:
        """Go on for so many rounds over the items."""
        for _ in range(rounds):
            order = torch.randperm(len(self._views), generator=self._generator)
            parts = order.tensor_split(-(-len(order) // _ROWS))
            scores = [float(self._step(rows).sum()) for rows in parts]
            self.log_prob = sum(scores) / len(order)
            self._rounds += 1

    def _step(self, rows: Tensor) -> Tensor:
        x, y = self._views.draw(rows, self._generator)
        if self._rounds == _SEARCH:
            self._candidates[rows] = likeliest(self.model, x, y, _CANDIDATES)
        step = expect(self.model, x, y, self._candidates[rows])
        fresh = self._gather(x, y, step)
        self.sums = fresh if self._steps == 0 else self.sums.mixed(fresh, (self._steps + 2) ** -_DECAY)
        self.model = self.at(self.shrinkage)
        self._steps += 1
        return step.log_prob.double()

    def _gather(self, x: Tensor, y: Tensor, step: Expectation) -> Sums:
        # Sums stand for all the pairs, whatever the number of rows in a step.
        return gather(x, y, step, *self._about, weight=self._views.pairs / len(x))


def _in_units(model: Components, context: Whitening, target: Whitening, unit_norm: bool) -> ScaledJointMixture:
    """The density of the embeddings from that of the whitened rows."""
    parts = [part.double() for part in (model.context_means, model.target_means, model.context_tril)]
    gain = target.tril @ model.gain.double() @ triangular_inverse(context.tril)
    density = ScaledJointMixture(
        model.log_weights.double(),
        parts[0] @ context.tril.T + context.mean,
        parts[1] @ target.tril.T + target.mean,
        context.tril @ parts[2],
        gain,
        target.tril @ model.target_tril.double(),
        model.scales.double(),
        model.scales.double(),
        unit_norm=unit_norm,
    )
    return density.to(torch.float32)
