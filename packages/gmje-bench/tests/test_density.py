"""The task of densities of pairs: kinds agree where one Gaussian is true, units cancel, test pairs choose nothing."""

import math
from dataclasses import replace

import pytest
import torch

from gmje_bench.protocol import PROTOCOL
from gmje_bench.report.sections.density import gain_board
from gmje_bench.runs import KINDS, METRICS, Record
from gmje_bench.tasks.density import density
from gmje_bench.tasks.density.fits import FITS, fit_gaussian, fit_kernels, mean_log_prob
from gmje_bench.tasks.subject import Embedded, Subject, TrainingPairs
from gmje_core import JointGaussianMixture

DIM = 3
SMALL = {"density_full": (2, 3), "density_low_rank": ((1, 5), (2, 5)), "density_kernels": 300, "conditional_pairs": 200}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in SMALL.items():
        monkeypatch.setitem(PROTOCOL.__dict__, name, value)


def truth(scale: float = 1.0) -> JointGaussianMixture:
    root = torch.randn(2 * DIM, 2 * DIM, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + torch.eye(
        2 * DIM
    )
    mean = torch.arange(2 * DIM, dtype=torch.float64)[None]
    return JointGaussianMixture.from_moments(
        torch.ones(1).double(), scale * mean, scale**2 * (root @ root.T)[None], DIM
    )


def drawn(source: JointGaussianMixture, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        context, target = source.sample((count,))
    return context.float(), target.float()


def subject(source: JointGaussianMixture, test_seed: int = 2, **known: JointGaussianMixture) -> Subject:
    def embedded(count: int, seed: int) -> Embedded:
        context, target = drawn(source, count, seed)
        return Embedded(torch.zeros(count), context, context, context, context, target)

    pairs = TrainingPairs(*drawn(source, 5000, 10), drawn(source, 500, 11))
    train, test = embedded(800, 1), embedded(600, test_seed)
    return Subject("gmje", 0, ("a",), train, test, test, known.get("learned"), critic=known.get("critic"), pairs=pairs)


@pytest.fixture(scope="module")
def result():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setitem(PROTOCOL.__dict__, name, value)
        return density(subject(truth(), learned=truth(), critic=truth()))


def test_every_metric_is_declared_and_measured(result):
    assert result.metrics.keys() == {name for name, metric in METRICS.items() if metric.task == "density"}
    assert all(math.isfinite(value) for value in result.metrics.values())
    without = density(subject(truth())).metrics
    assert {name.partition(".")[2] for name in without} == KINDS.keys() - {"learned", "critic"}


def test_kinds_agree_where_one_gaussian_is_true(result):
    metrics = result.metrics
    for kind in KINDS.keys() - {"kde"}:
        assert abs(metrics[f"joint_nll.{kind}"] - metrics["joint_nll.learned"]) < 0.1, kind
        assert abs(metrics[f"conditional_nll.{kind}"] - metrics["conditional_nll.learned"]) < 0.1, kind
        assert metrics[f"calibration.{kind}"] < 0.06, kind
        assert metrics[f"sample_coverage.{kind}"] > 0.9, kind
        assert metrics[f"joint_over_gaussian.{kind}"] == metrics[f"joint_nll.{kind}"] - metrics["joint_nll.gaussian"]
    assert metrics["joint_nll.kde"] > metrics["joint_nll.gaussian"], "kernels are wider than what they are put on"


def test_the_likelihood_is_that_of_the_density_at_unit_mean_variance(result):
    asked = subject(truth())
    factor = asked.train.context.double().var(dim=0, correction=0).mean().sqrt()
    nats = -mean_log_prob(truth(), asked.test.context, asked.test.target) - 2 * DIM * float(factor.log())
    assert result.metrics["joint_nll.learned"] == pytest.approx(nats, abs=1e-6)
    marginal = -float(truth().context.log_prob(asked.test.context.double()).mean()) - DIM * float(factor.log())
    assert result.metrics["conditional_nll.learned"] == pytest.approx(nats - marginal, abs=1e-6)


def test_units_do_not_matter(result):
    """Scaled embeddings with a scaled density: every number is the same up to rounding in float32."""
    other = density(subject(truth(100.0), learned=truth(100.0), critic=truth(100.0)))
    for name, value in result.metrics.items():
        assert other.metrics[name] == pytest.approx(value, abs=0.02), name


def test_the_choice_is_made_on_validation_pairs(result):
    other = density(subject(truth(), test_seed=5))
    shared = {name: value for name, value in result.choices.items() if "learned" not in name}
    assert other.choices == shared
    scores = {kind: result.choices[f"density_{kind}_validation_nll"] for kind in FITS}
    best = result.choices["density_best"]
    assert best == min(scores, key=scores.__getitem__)
    assert result.metrics["joint_nll.best"] == result.metrics[f"joint_nll.{best}"]


def test_sizes_are_the_best_on_validation_pairs():
    pairs = subject(truth()).pairs
    for fit, name, values in (
        (fit_gaussian, "density_shrinkages", PROTOCOL.density_shrinkages),
        (fit_kernels, "density_widths", PROTOCOL.density_widths),
    ):
        scores = []
        for value in values:
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(PROTOCOL.__dict__, name, (value,))
                scores.append(fit(pairs, 0).validation_log_prob)
        assert fit(pairs, 0).validation_log_prob == max(scores)
        assert len(set(scores)) == len(scores)


def test_samples_lie_on_the_sphere_where_that_is_nearer(monkeypatch):
    def unit(z: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(z, dim=1)

    plain = subject(truth())
    train, test = (
        replace(part, context=unit(part.context), target=unit(part.target)) for part in (plain.train, plain.test)
    )
    context, target, *held_out = map(unit, (plain.pairs.context, plain.pairs.target, *plain.pairs.validation))
    pairs = TrainingPairs(context, target, (held_out[0], held_out[1]))
    on_sphere = replace(plain, train=train, test=test, pairs=pairs)
    metrics = density(on_sphere).metrics
    assert metrics["sample_precision.scaled"] > 0.9
    assert metrics["joint_nll.scaled"] < metrics["joint_nll.gaussian"]
    forced = []
    for choice in (True, False):
        monkeypatch.setattr("gmje_bench.tasks.density.figures._better_on_sphere", lambda *_, choice=choice: choice)
        forced.append(density(on_sphere).metrics)
    for kind in FITS:
        assert metrics[f"frechet_over_floor.{kind}"] in [found[f"frechet_over_floor.{kind}"] for found in forced]
    assert metrics["frechet_over_floor.gaussian"] == min(found["frechet_over_floor.gaussian"] for found in forced)


def gains(method, *best):
    """Records of a method whose own densities have 5 and 10 more with each seed; a failed seed where best is None."""
    return [
        Record(
            method=method,
            seed=seed,
            status="ok",
            metrics={
                f"{measure}.{kind}": number + 10 * seed
                for kind, number in (("learned", 5.0), ("best", value))
                for measure in ("joint_nll", "calibration")
            },
        )
        if value is not None
        else Record(method=method, seed=seed, status="failed", error="out of luck")
        for seed, value in enumerate(best)
    ]


def test_gains_are_paired_over_seeds(make_results):
    board = gain_board(make_results(*gains("gmje", 7.0, 7.1, 7.2)))
    assert [line.labels[0] for line in board.lines] == ["gmje"]
    assert board.lines[0].cells[0].text == "-2.1 ± 0.2 *"
    assert board.lines[0].cells[1].text == "–"
    assert gain_board(make_results(Record(method="simclr", seed=0, status="ok"))) is None


def test_gains_of_a_part_of_the_seeds_are_not_averaged(make_results):
    whole, part = gains("gmje", 7.0, 7.1, 7.2), gains("gje", 7.0, 7.1, None)
    assert [line.labels[0] for line in gain_board(make_results(*whole, *part)).lines] == ["gmje"]
    assert gain_board(make_results(*part)) is None
    unfinished = make_results(*whole)
    unfinished.options["seeds"] = [0, 1, 2, 3]
    assert gain_board(unfinished) is None


def test_gains_are_tested_with_the_correction_over_the_table(make_results):
    doubtful = gains("gje", 6.0, 8.0, 7.5)  # p = 0.07 alone
    two = gain_board(make_results(*gains("gmje", 7.0, 7.3, 7.7), *doubtful))
    assert [line.cells[0].text.endswith("*") for line in two.lines] == [True, False]
    ten = gain_board(
        make_results(*gains("gmje", 7.0, 7.3, 7.7), *(r for i in range(9) for r in gains(f"m{i}", 6, 8, 7)))
    )
    assert not any(line.cells[0].text.endswith("*") for line in ten.lines)
