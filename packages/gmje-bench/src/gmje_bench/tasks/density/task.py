"""The task measures every kind of density on test pairs, in units in which methods compare."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from gmje_bench.alignment.metrics import hpd_ranks
from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.calibration import calibration_error
from gmje_bench.tasks.densities import Scale, conditional_log_prob, embedding_log_prob
from gmje_bench.tasks.density.fits import FITS, Fitted, mean_log_prob
from gmje_bench.tasks.sampling.measures import frechet_distance, manifold_measures
from gmje_bench.tasks.subject import Subject, TaskResult, TrainingPairs
from gmje_core.densities.joint import JointDensity
from gmje_core.densities.scaled import ScaledJointMixture

__all__ = ["density"]

# Draws of samples that are averaged.
_DRAWS = 3
# How far norms may be from one on the unit sphere.
_UNIT_TOLERANCE = 1e-3


def density(subject: Subject) -> TaskResult:
    r"""Likelihood, calibration and samples of the learned density and of those fitted afterwards.

    Kinds are those of :data:`~gmje_bench.tasks.density.fits.FITS`, ``best``, the one of the usual families (all but
    ``scaled``) with the largest likelihood of the validation pairs, and where the method has them ``learned`` and,
    where a closing stage followed, ``critic``. Where that stage gave the learned density, ``scaled`` is that one and
    is not fitted again; for other methods it says what the closing stage would make of their embeddings.

    - ``joint_nll`` and ``conditional_nll``: nats a pair, of embeddings at unit mean variance; ``joint_over_gaussian``
      and ``conditional_over_gaussian`` are the differences to one Gaussian, which depend on no unit.
    - ``calibration``: mean gap between nominal and actual coverage of highest-density regions of the conditional.
    - ``frechet_over_floor``, ``sample_precision``, ``sample_coverage``: samples of the context beside the test
      embeddings, mean of three draws; the floor is the distance of as many training embeddings. Where the embeddings
      have unit norm, samples of a kind are brought there if that brings them nearer to the validation embeddings.

    Args:
        subject: The encoder, with its training pairs.

    Raises:
        CollapsedError: embeddings that are all the same.
    """
    pairs = subject.pairs
    assert pairs is not None
    scale = Scale.of(subject.train.context)
    fitted = _fit(pairs, scale, subject)
    usual = [kind for kind in fitted if kind != "scaled"]
    best = max(usual, key=lambda kind: fitted[kind].validation_log_prob)
    asked = {kind: _Placed(fit.density, scale, raw=kind == "scaled") for kind, fit in fitted.items()}
    if subject.density is not None:
        asked["learned"] = _Placed(subject.density, scale, raw=True)
    if subject.critic is not None:
        asked["critic"] = _Placed(subject.critic, scale, raw=True)
    measured: dict[int, dict[str, float]] = {}
    found: dict[str, dict[str, float]] = {}
    for kind, placed in asked.items():
        key = id(placed.density)
        measured[key] = found[kind] = measured.get(key) or _measure(placed, subject)
    found["best"] = found[best]
    metrics: dict[str, float] = {}
    for kind, values in found.items():
        differences = {
            f"{part}_over_gaussian": values[f"{part}_nll"] - found["gaussian"][f"{part}_nll"]
            for part in ("joint", "conditional")
        }
        metrics |= {f"{measure}.{kind}": value for measure, value in (values | differences).items()}
    choices: dict[str, float | str] = {"density_best": best}
    for kind, fit in fitted.items():
        choices |= {f"density_{kind}_{name}": float(value) for name, value in fit.choices.items()}
        choices[f"density_{kind}_validation_nll"] = -fit.validation_log_prob
    return TaskResult(metrics, choices=choices)


@dataclass(frozen=True)
class _Placed:
    """A density with the units that it is in: those of the embeddings as they are, or at unit mean variance."""

    density: JointDensity
    scale: Scale
    raw: bool = False

    def seen(self, z: Tensor) -> Tensor:
        """Embeddings ``(n, d)`` in the density's units."""
        return z if self.raw else self.scale.apply(z)

    def nats(self, dim: int) -> float:
        """What the log-density of ``dim`` numbers gains where they are brought to unit mean variance."""
        return dim * math.log(self.scale.factor) if self.raw else 0.0

    def sample(self, count: int, seed: int, *, on_sphere: bool) -> Tensor:
        """Contexts ``(count, d)`` at unit mean variance, float64."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # PyTorch's distributions take no generator.
            z = self.density.sample((count,))[0].double()
        if not self.raw:
            z = z * self.scale.factor + self.scale.center
        return self.scale.apply(torch.nn.functional.normalize(z, dim=1) if on_sphere else z)


def _fit(pairs: TrainingPairs, scale: Scale, subject: Subject) -> dict[str, Fitted]:
    """Every kind fitted to pairs at unit mean variance, except the scaled one, which knows the sphere by its units."""
    context, target, *held_out = (scale.apply(z).float() for z in (pairs.context, pairs.target, *pairs.validation))
    scaled = replace(pairs, context=context, target=target, validation=(held_out[0], held_out[1]))
    found = {kind: fit(scaled, subject.seed) for kind, fit in FITS.items() if kind != "scaled"}
    if isinstance(subject.density, ScaledJointMixture):
        fit = Fitted(subject.density, mean_log_prob(subject.density, *pairs.validation))
    else:
        fit = FITS["scaled"](pairs, subject.seed)
    volume = (context.shape[1] + target.shape[1]) * math.log(scale.factor)
    return found | {"scaled": replace(fit, validation_log_prob=fit.validation_log_prob + volume)}


def _measure(placed: _Placed, subject: Subject) -> dict[str, float]:
    """All figures of one density, except the differences to another."""
    test, train, scale = subject.test, subject.train, placed.scale
    context, target = placed.seen(test.context), placed.seen(test.target)
    size = test.context.shape[1]
    joint = -mean_log_prob(placed.density, context, target) - placed.nats(2 * size)
    marginal = -float(embedding_log_prob(placed.density, context).mean()) - placed.nats(size)
    rows = slice(0, PROTOCOL.conditional_pairs)
    scores = conditional_log_prob(
        placed.density, context[rows], target[rows], PROTOCOL.conditional_samples, subject.seed
    )
    ranks = hpd_ranks(*scores, Generator().manual_seed(subject.seed))
    real = scale.apply(test.context[: PROTOCOL.samples])
    on_sphere = _better_on_sphere(placed, subject)
    distance, floor, precision, coverage = 0.0, 0.0, 0.0, 0.0
    for draw in range(_DRAWS):
        cloud = placed.sample(len(real), subject.seed + draw, on_sphere=on_sphere)
        order = torch.randperm(len(train.context), generator=Generator().manual_seed(subject.seed + draw))
        distance += frechet_distance(real, cloud)
        floor += frechet_distance(real, scale.apply(train.context[order[: len(real)]]))
        near = manifold_measures(real, cloud, min(PROTOCOL.neighbours, len(real) - 1))
        precision, coverage = precision + near.precision / _DRAWS, coverage + near.coverage / _DRAWS
    return {
        "joint_nll": joint,
        "conditional_nll": joint - marginal,
        "calibration": calibration_error(ranks),
        "frechet_over_floor": distance / floor,
        "sample_precision": precision,
        "sample_coverage": coverage,
    }


def _better_on_sphere(placed: _Placed, subject: Subject) -> bool:
    """Whether samples at unit norm have a smaller Fréchet distance from the validation embeddings, which have it."""
    assert subject.pairs is not None
    held_out = subject.pairs.validation[0]
    if (held_out.double().norm(dim=1) - 1).abs().max() >= _UNIT_TOLERANCE:
        return False
    real = placed.scale.apply(held_out[: PROTOCOL.samples])
    as_it_is, projected = (
        frechet_distance(real, placed.sample(len(real), subject.seed + _DRAWS, on_sphere=on_sphere))
        for on_sphere in (False, True)
    )
    return projected < as_it_is
