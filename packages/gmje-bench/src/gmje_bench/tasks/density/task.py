"""The task measures every kind of density on test pairs, in units in which methods compare."""

import math
from dataclasses import replace

from gmje_bench.tasks.densities import Scale
from gmje_bench.tasks.density.figures import PlacedDensity, figures
from gmje_bench.tasks.density.fits import FITS, Fitted, mean_log_prob
from gmje_bench.tasks.subject import Subject, TaskResult, TrainingPairs
from gmje_core.densities.scaled import ScaledJointMixture

__all__ = ["density"]


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
    asked = {kind: PlacedDensity(fit.density, scale, raw=kind == "scaled") for kind, fit in fitted.items()}
    if subject.density is not None:
        asked["learned"] = PlacedDensity(subject.density, scale, raw=True)
    if subject.critic is not None:
        asked["critic"] = PlacedDensity(subject.critic, scale, raw=True)
    measured: dict[int, dict[str, float]] = {}
    found: dict[str, dict[str, float]] = {}
    for kind, placed in asked.items():
        key = id(placed.density)
        measured[key] = found[kind] = measured.get(key) or figures(placed, subject)
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


def _fit(pairs: TrainingPairs, scale: Scale, subject: Subject) -> dict[str, Fitted]:
    """Every kind fitted to pairs at unit mean variance, except the scaled one, which knows the sphere by its units."""
    scaled = pairs.map(lambda z: scale.apply(z).float())
    found = {kind: fit(scaled, subject.seed) for kind, fit in FITS.items() if kind != "scaled"}
    if isinstance(subject.density, ScaledJointMixture):
        fit = Fitted(subject.density, mean_log_prob(subject.density, *pairs.validation))
    else:
        fit = FITS["scaled"](pairs, subject.seed)
    volume = (pairs.context.shape[1] + pairs.target.shape[1]) * math.log(scale.factor)
    return found | {"scaled": replace(fit, validation_log_prob=fit.validation_log_prob + volume)}
