"""The alignment benchmark: truths against independent integrals, metrics on known cases, rivals against theory."""

import math
import multiprocessing

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from gmje_bench.alignment import engine, metrics, rivals
from gmje_bench.alignment.engine import TRUTH, Picture, run, theory, units
from gmje_bench.alignment.figure import draw_alignment
from gmje_bench.alignment.rivals import RIVALS, Conditional, Rival, fit_gje, fit_gmje, fit_mdn, fit_mse
from gmje_bench.alignment.tasks import TASKS, make_truth
from gmje_bench.alignment.truths import LiftedTruth
from gmje_bench.cli import main
from gmje_bench.errors import BenchError, OptionError
from gmje_bench.runs import METRICS, read_results, write_results
from gmje_bench.suite import Synthetic
from gmje_core import ConfigError, GaussianMixture

ALL = list(TASKS)
# Kolmogorov's statistic times sqrt(n) exceeds this once in 10 000 uniform samples.
KOLMOGOROV = 2.23


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs(name: str, count: int, dim: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    context, target = make_truth(name, dim=dim).sample(count, generator(seed))
    return context.float(), target.float()


def normal(x: Tensor, mean: Tensor, deviation: float | Tensor) -> Tensor:
    return torch.distributions.Normal(mean, deviation).log_prob(x)


# Truths


@pytest.mark.parametrize("name", ALL)
def test_conditionals_integrate_to_one(name):
    truth = make_truth(name)
    context, target = truth.sample(2000, generator())
    reach = 4 * target.std(dim=0) + 1.5
    step = 0.05 if truth.target_dim == 2 else 0.004
    axes = [torch.arange(m - r, m + r, step).double() for m, r in zip(target.mean(dim=0), reach, strict=True)]
    grid = torch.cartesian_prod(*axes).view(-1, truth.target_dim)
    for row in context[: 1 if truth.target_dim == 2 else 5]:
        density = truth.log_prob(grid, row.expand(len(grid), -1)).exp()
        assert float(density.sum()) * step**truth.target_dim == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("dim", [None, 5])
@pytest.mark.parametrize("name", ALL)
def test_pairs_conditional_samples_and_log_prob_agree(name, dim):
    """Pairs are drawn from the continuous latent, conditional samples from the quadrature: ranks must be uniform."""
    truth = make_truth(name, dim=dim)
    count, draws = 300, 60
    context, target = truth.sample(count, generator(1))
    samples = truth.sample_target(context, draws, generator(2))
    assert samples.shape == (draws, count, truth.target_dim)
    pit = metrics.pit_values(target, samples, generator(3))
    for column in pit.T:
        assert metrics.uniformity_error(column) < KOLMOGOROV / math.sqrt(count)
    rows = context.repeat(draws, 1)
    sample_log_prob = truth.log_prob(samples.reshape(-1, truth.target_dim), rows).view(draws, count)
    ranks = metrics.hpd_ranks(truth.log_prob(target, context), sample_log_prob, generator(4))
    assert metrics.uniformity_error(ranks) < KOLMOGOROV / math.sqrt(count)
    error = math.hypot(float(sample_log_prob.mean(0).std()), float(truth.log_prob(target, context).std()))
    gap = float(truth.log_prob(target, context).mean() - sample_log_prob.mean())  # both are minus the entropy
    assert abs(gap) < 4 * error / math.sqrt(count)
    assert (truth.mean(context) - samples.mean(dim=0)).abs().max() < 6 * samples.std(dim=0).max() / math.sqrt(draws)


def test_a_mixture_is_its_joint_minus_its_marginal():
    truth = make_truth("mixture", seed=3)
    context, target = truth.sample(50, generator())
    joint = truth._conditional.__self__  # the joint density that conditions
    means, covariances, weights = joint.means.numpy(), joint.covariance.dense().numpy(), joint.weights.numpy()
    z = torch.cat([context, target], dim=1).numpy()

    def density(points: np.ndarray, size: int) -> np.ndarray:
        parts = zip(weights, means, covariances, strict=True)
        return sum(w * stats.multivariate_normal(m[:size], c[:size, :size]).pdf(points) for w, m, c in parts)

    expected = np.log(density(z, 4)) - np.log(density(z[:, :2], 2))
    torch.testing.assert_close(truth.log_prob(target, context), torch.from_numpy(expected))
    assert np.abs(covariances[:, :2, 2:]).max(axis=(1, 2)).min() > 0.1, "cross blocks are not zero"
    assert not torch.equal(make_truth("mixture", seed=4).sample(3, generator())[0], context[:3]), "random by seed"


def test_branches_are_what_their_formulas_say():
    context, target = pairs("crossing", 40)
    context, target = context.double(), target.double()
    branch = torch.sin(math.pi * context)
    expected = torch.logaddexp(normal(target, branch, 0.1), normal(target, -branch, 0.1)) - math.log(2)
    torch.testing.assert_close(make_truth("crossing").log_prob(target, context), expected[:, 0])
    deviation = 0.05 + 0.45 / (1 + (-3 * context).exp())
    torch.testing.assert_close(
        make_truth("band").log_prob(target, context), normal(target, torch.sin(2 * context), deviation)[:, 0]
    )


def sine_latent(c: float, t: float) -> float:
    def joint(u: float) -> float:
        return stats.norm.pdf(c, u + 0.3 * math.sin(2 * math.pi * u), 0.05) * stats.norm.pdf(t, u, 0.02)

    return integrate.quad(joint, 0, 1, points=[min(max(t, 0), 1)], limit=400, epsabs=1e-13)[0]


def sine_context(c: float) -> float:
    def density(u: float) -> float:
        return stats.norm.pdf(c, u + 0.3 * math.sin(2 * math.pi * u), 0.05)

    return integrate.quad(density, 0, 1, points=list(np.linspace(0.1, 0.9, 9)), limit=400, epsabs=1e-13)[0]


def test_the_inverse_sine_is_an_adaptive_integral():
    context, target = pairs("inverse-sine", 12)
    rows = zip(context[:, 0].tolist(), target[:, 0].tolist(), strict=True)
    expected = [sine_latent(c, t) / sine_context(c) for c, t in rows]
    found = make_truth("inverse-sine").log_prob(target, context)
    torch.testing.assert_close(found, torch.tensor(expected).double().log(), rtol=1e-6, atol=1e-6)


def test_two_moons_are_an_adaptive_integral():
    def density(y: float | None, x: float) -> float:
        total = 0.0
        for inner in (False, True):

            def point(a: float, inner: bool = inner) -> float:
                px, py = (1 - math.cos(a), 0.5 - math.sin(a)) if inner else (math.cos(a), math.sin(a))
                return stats.norm.pdf(x, px, 0.1) * (1 if y is None else stats.norm.pdf(y, py, 0.1))

            total += integrate.quad(point, 0, math.pi, points=list(np.linspace(0.3, 2.8, 6)), limit=400)[0]
        return total

    context, target = pairs("two-moons", 8)
    rows = zip(context[:, 0].tolist(), target[:, 0].tolist(), strict=True)
    expected = torch.tensor([math.log(density(y, x) / density(None, x)) for x, y in rows]).double()
    torch.testing.assert_close(make_truth("two-moons").log_prob(target, context), expected, rtol=1e-6, atol=1e-6)


def test_the_robot_arm_is_a_finer_sum():
    context, target = pairs("robot-arm", 5)
    shoulder, elbow = np.linspace(-3, 3, 601)[:, None], np.linspace(-6, 6, 1201)[None]
    prior = stats.norm.pdf(shoulder, 0, 0.5) * stats.norm.pdf(elbow, 0, 1.0)
    x = np.cos(shoulder) + 0.8 * np.cos(shoulder + elbow)
    y = np.sin(shoulder) + 0.8 * np.sin(shoulder + elbow)
    expected = []
    for c, t in zip(context.double().numpy(), target.double().numpy(), strict=True):
        weight = prior * stats.norm.pdf(c[0], x, 0.08) * stats.norm.pdf(c[1], y, 0.08)
        kernel = stats.norm.pdf(t[0], shoulder, 0.08) * stats.norm.pdf(t[1], elbow, 0.08)
        expected.append(math.log((weight * kernel).sum() / weight.sum()))
    found = make_truth("robot-arm").log_prob(target, context)
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["crossing", "ring"])
def test_lifting_adds_the_padding_and_nothing_else(name):
    base, lifted = make_truth(name), make_truth(name, dim=6)
    assert isinstance(lifted, LiftedTruth)
    context, target = lifted.sample(200, generator())
    low = lifted.project(target)
    rest = target.square().sum(dim=1) - low.square().sum(dim=1)  # a rotation keeps lengths
    size = 6 - base.target_dim
    padding = -0.5 * rest / 0.05**2 - size * math.log(0.05 * math.sqrt(2 * math.pi))
    expected = base.log_prob(low, lifted._base_context(context)) + padding
    torch.testing.assert_close(lifted.log_prob(target, context), expected)
    modes = base.modes(lifted._base_context(context))
    torch.testing.assert_close(lifted.project(lifted.modes(context)), modes, equal_nan=True)
    assert abs(float(rest.mean()) / (size * 0.05**2) - 1) < 0.2
    with pytest.raises(ValueError, match="at least 2"):
        LiftedTruth(make_truth("ring"), 1)


@pytest.mark.parametrize(("name", "context", "modes"), [
    ("crossing", [0.5], [[-1.0], [1.0]]),
    ("band", [0.7], [[math.sin(1.4)]]),
    ("inverse-sine", [0.5], [[0.23], [0.5], [0.77]]),
    ("ring", [1.0], [[math.cos(a), math.sin(a)] for a in math.pi / 8 * (2 * np.arange(8) + 1)]),
    ("robot-arm", [1.0, 0.0], [[0.83, -1.98], [-0.83, 1.98]]),
])  # fmt: skip
def test_modes_are_where_the_branches_are(name, context, modes):
    found = make_truth(name).modes(torch.tensor([context]))[0]
    found = found[~found.isnan().any(dim=1)]
    assert len(found) == len(modes)
    assert torch.cdist(found, torch.tensor(modes).double()).min(dim=0).values.max() < 0.1


def test_an_arm_out_of_reach_has_one_mode():
    truth = make_truth("robot-arm")
    assert int((~truth.modes(torch.tensor([[2.5, 0.0]]))[0].isnan().any(dim=1)).sum()) == 1


# Metrics


def test_energy_distance_of_gaussians():
    """E|N(0, 2s^2)| = 2 s / sqrt(pi): the distance of two normals of the same mean is in closed form."""
    x, y = (s * torch.randn(3000, 1, generator=generator(i)).double() for i, s in ((0, 1.0), (1, 3.0)))
    expected = 2 * math.sqrt(2 / math.pi) * math.sqrt(10) - 2 / math.sqrt(math.pi) * (1 + 3)
    assert metrics.energy_distance(x, y) == pytest.approx(expected, abs=0.12)
    same = [metrics.energy_distance(*torch.randn(2, 200, 2, generator=generator(s))) for s in range(40)]
    assert abs(np.mean(same)) < 4 * np.std(same) / math.sqrt(40)
    assert min(same) < 0, "without bias it falls below zero too"


def test_sliced_wasserstein_of_a_shift():
    x = torch.randn(500, 2, generator=generator())
    shift = torch.tensor([3.0, 4.0])
    found = metrics.sliced_wasserstein(x, x + shift, generator(1), directions=2000)
    assert found == pytest.approx(5 * 2 / math.pi, rel=0.05)  # E|cos| = 2 / pi
    assert metrics.sliced_wasserstein(x, x.flip(0), generator(1)) == pytest.approx(0, abs=1e-6)


def two_modes(weight: float, deviation: float = 0.1, count: int = 2000, seed: int = 0) -> Tensor:
    source = generator(seed)
    sign = torch.where(torch.rand(count, 3, 1, generator=source) < weight, 1.0, -1.0)
    return sign + deviation * torch.randn(count, 3, 1, generator=source)


@pytest.mark.parametrize(
    ("weight", "deviation", "recall", "error"),
    [(0.5, 0.1, 1.0, 0.0), (1.0, 0.1, 0.5, 0.5), (0.7, 0.1, 1.0, 0.2), (0.1, 0.1, 0.5, 0.4), (0.5, 1.0, 0.0, 0.0)],
)
def test_mode_recall_and_weight_error(weight, deviation, recall, error):
    """A missing mode, a light mode and a blob over both; a row of NaN is no mode."""
    centers = torch.tensor([[[-1.0], [1.0], [math.nan]]]).expand(3, -1, -1)
    masses = metrics.mode_masses(centers, two_modes(0.5), two_modes(weight, deviation, seed=1))
    assert metrics.mode_recall(masses) == recall
    assert metrics.weight_error(masses) == pytest.approx(error, abs=0.03)
    assert masses.truth[:, 2].max() == masses.model[:, 2].max() == 0
    torch.testing.assert_close(masses.truth_near[:, :2], 0.9 * masses.truth[:, :2], rtol=0.01, atol=0)


def test_a_light_branch_is_no_mode():
    centers = torch.tensor([[[-1.0], [1.0]]]).expand(3, -1, -1)
    masses = metrics.mode_masses(centers, two_modes(0.95), two_modes(1.0, seed=1))
    assert metrics.mode_recall(masses) == 1


@pytest.mark.parametrize(("deviation", "calibrated"), [(1.0, True), (0.5, False), (2.0, False)])
def test_calibration_tells_too_narrow_and_too_wide_from_right(deviation, calibrated):
    target = torch.randn(1000, 1, generator=generator())
    samples = deviation * torch.randn(200, 1000, 1, generator=generator(1))
    pit = metrics.uniformity_error(metrics.pit_values(target, samples, generator(2)))
    zero = torch.zeros(())
    ranks = metrics.hpd_ranks(
        normal(target, zero, deviation)[:, 0], normal(samples, zero, deviation)[..., 0], generator(3)
    )
    limit = KOLMOGOROV / math.sqrt(1000)
    assert (pit < limit) == calibrated
    assert (metrics.uniformity_error(ranks) < limit) == calibrated


def test_uniformity_error_is_the_kolmogorov_statistic():
    values = torch.rand(57, 3, generator=generator()).double()
    expected = np.mean([stats.kstest(column, "uniform").statistic for column in values.T.numpy()])
    assert metrics.uniformity_error(values) == pytest.approx(expected)


def test_kl_of_gaussians():
    x = torch.randn(20000, generator=generator()).double()
    zero, one = torch.zeros(()), torch.ones(())
    kl, error = metrics.conditional_kl(normal(x, zero, 1.0), normal(x, one, 2.0))
    assert abs(kl - (math.log(2) + 2 / 8 - 0.5)) < 4 * error
    assert metrics.conditional_kl(normal(x, zero, 1.0), normal(x, zero, 1.0)) == (0, 0)


# Rivals


def crossing_kl() -> float:
    """KL of the best single Gaussian: its variance is 0.01 + E sin^2 = 0.51; the truth's entropy is an integral."""

    def entropy(context: float) -> float:
        branch = math.sin(math.pi * context)
        y = np.linspace(-2, 2, 4001)
        density = 0.5 * (stats.norm.pdf(y, branch, 0.1) + stats.norm.pdf(y, -branch, 0.1))
        return float(-integrate.trapezoid(density * np.log(density + 1e-300), y))

    mean_entropy = np.mean([entropy(c) for c in np.linspace(-1, 1, 401)[:-1]])
    return 0.5 * math.log(2 * math.pi * math.e * 0.51) - float(mean_entropy)


def test_theory_of_two_branches_is_closed_form():
    expected = crossing_kl()
    for method, kl in theory(make_truth("crossing")).items():
        assert kl == pytest.approx(expected, abs=0.03), method


@pytest.mark.parametrize(("name", "dim"), [
    *((name, None) for name in ALL if name != "robot-arm"), ("mixture", 4), ("crossing", 4), ("ring", 4)
])  # fmt: skip
def test_one_gaussian_fails_by_the_margin_of_theory(name, dim):
    truth = make_truth(name, dim=dim)
    found = engine.evaluate(truth, fit_gje(*pairs(name, 20000, dim, seed=5), 1, 0))
    limits = theory(truth)
    assert found["kl"] == pytest.approx(limits["gje"], abs=0.02)
    assert limits["mse"] <= limits["gje"] + 0.005
    assert found["kl"] > 0.4


def test_regression_fails_by_the_margin_of_theory():
    found = engine.evaluate(make_truth("crossing"), fit_mse(*pairs("crossing", 4000, seed=5), 4, 0))
    assert found["kl"] == pytest.approx(crossing_kl(), abs=0.05)
    assert found["recall"] < 0.1


def test_joint_mixtures_find_a_gaussian_mixture():
    found = engine.evaluate(make_truth("mixture"), fit_gmje(*pairs("mixture", 6000, seed=5), 1, 0))
    assert -4 * found["kl_standard_error"] < found["kl"] < 0.02
    assert found["recall"] > 0.99
    assert found["hpd"] < 2 * KOLMOGOROV / math.sqrt(1000)


def test_the_density_network_finds_both_branches():
    context, target = pairs("crossing", 8000, seed=5)
    found = engine.evaluate(make_truth("crossing"), fit_mdn(context, target, 18, 0))
    assert found["kl"] < 0.1
    assert found["recall"] == 1


def test_whitened_conditionals_are_exact_changes_of_variables():
    matrix = torch.tensor([[2.0, 0.0], [1.0, 0.5]]).double()
    center = torch.tensor([1.0, -1.0]).double()

    def standard(context: Tensor) -> GaussianMixture:
        covariances = torch.eye(2).expand(len(context), 1, 2, 2).double()
        return GaussianMixture.from_moments(torch.ones(1), torch.zeros(len(context), 1, 2).double(), covariances)

    conditional = Conditional(standard, (center, matrix))
    context, target = torch.zeros(1500, 1).double(), 3 * torch.randn(1500, 2, generator=generator()).double()
    expected = torch.distributions.MultivariateNormal(center, matrix @ matrix.mT)
    torch.testing.assert_close(conditional.log_prob(target, context), expected.log_prob(target))
    samples = conditional.sample_target(context, 40, generator())
    assert samples.shape == (40, 1500, 2)
    torch.testing.assert_close(conditional.log_prob(samples, context), expected.log_prob(samples))
    torch.testing.assert_close(samples.flatten(0, 1).T.cov(), matrix @ matrix.mT, rtol=0.05, atol=0.05)
    torch.testing.assert_close(conditional.mean(context[:2]), center.expand(2, 2))


@pytest.mark.parametrize("name", list(RIVALS))
def test_every_rival_is_a_density_and_a_function_of_its_seed(name):
    context, target = pairs("ring", 400)
    fits = [RIVALS[name].fit(context, target, 1, 7) for _ in range(2)]
    grid = torch.cartesian_prod(*[torch.arange(-8, 8, 0.05)] * 2)
    first, second = (fit.log_prob(grid, torch.full((len(grid), 1), 0.3)) for fit in fits)
    assert float(first.double().exp().sum()) * 0.05**2 == pytest.approx(1, abs=2e-3)
    assert torch.equal(first, second)


# The whole


def options(**changes):
    return Synthetic(
        **{"tasks": ["crossing", "ring"], "methods": ["gje", "gmje"], "samples": 400, "epochs": 1} | changes
    )


def test_units_of_all_dimensions_and_seeds_are_measured():
    chosen = options(tasks=["crossing"], dims=[0, 16])
    work = units(chosen, [0, 1])
    assert work == [("crossing", None, 0), ("crossing", None, 1), ("crossing", 16, 0), ("crossing", 16, 1)]
    for unit, found in zip(work, run(chosen, work), strict=True):
        assert [r.method for r in found.records] == [TRUTH, "gje", "gmje"]
        assert all((r.task, r.dim, r.seed) == unit for r in found.records)
        for record in found.records:
            wanted = {name for name, metric in METRICS.items() if metric.task == "synthetic"}
            assert set(record.metrics) == wanted - ({"theory"} if record.method != "gje" else set())
        floor = found.records[0].metrics
        assert floor["kl"] == 0
        assert floor["recall"] == 1
        assert floor["weights"] < 0.1
        assert abs(floor["energy"]) < 0.02
        assert (found.picture is None) == (unit.dim is not None)
        if found.picture is not None:
            again = Picture.from_tensors("crossing", found.picture.tensors())
            assert again.samples.keys() == {TRUTH, "gje", "gmje"}
            assert all(torch.equal(again.means[name], z) for name, z in found.picture.means.items())


def test_the_suite_writes_files_and_picture(tmp_path, capsys):
    folder = tmp_path / "results"
    command = [
        "run",
        "--suite",
        "synthetic",
        "--tasks",
        "crossing",
        "--methods",
        "gje",
        "--limit",
        "400",
        "--jobs",
        "1",
    ]
    assert main([*command, "--output", str(folder)]) == 0
    results = read_results(folder)
    assert results.dataset is None
    assert [(r.dim, r.method) for r in results.alignment] == [(d, m) for d in (None, 16) for m in (TRUTH, "gje")]
    assert (folder / "alignment.png").read_bytes().startswith(b"\x89PNG")
    captured = capsys.readouterr()
    assert "crossing, 16-d" in captured.out
    assert "gje on crossing in 16 dimensions, seed 0: KL" in captured.err
    before = (folder / "alignment.png").read_bytes()
    assert main([*command, "--output", str(folder)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    results.alignment = results.alignment[:2]  # as if it had been killed there
    write_results(folder, results)
    assert main([*command, "--output", str(folder), "--resume"]) == 0
    assert "1 to do, 2 finished before" not in capsys.readouterr().err
    assert len(read_results(folder).alignment) == 4
    assert (folder / "alignment.png").read_bytes() == before


def test_processes_change_no_number():
    chosen = options(tasks=["crossing", "band"], methods=["mse", "gje"], samples=300)
    alone, together = (
        [r.model_dump(exclude={"seconds"}) for found in run(chosen, units(chosen, [0]), jobs) for r in found.records]
        for jobs in (1, 2)
    )
    assert alone == together


def test_a_killed_process_ends_the_run_with_a_reason(monkeypatch):
    chosen = options()
    found = run(chosen, units(chosen, [0, 1, 2]), 2)
    next(found)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(BenchError, match=r"was killed .*--resume"):
        list(found)


def test_a_failure_says_so_and_stops_nothing(tmp_path, capsys, monkeypatch):
    def fail(*_: object) -> Conditional:
        raise ConfigError("no such luck")

    monkeypatch.setitem(rivals.RIVALS, "gje", Rival("gje", "GJE", fail))
    command = ["run", "--suite", "synthetic", "--tasks", "crossing", "--methods", "gje,gmje", "--limit", "400"]
    status = main([*command, "--jobs", "1", "--output", str(tmp_path / "run")])
    assert status == 1
    assert "failed: gje on crossing, seed 0: ConfigError: no such luck\n" in capsys.readouterr().out
    records = read_results(tmp_path / "run").alignment
    assert [r.status for r in records] == ["ok", "failed", "ok"] * 2
    assert records[1].metrics == {}


def test_an_unknown_task_is_an_option_error():
    with pytest.raises(OptionError, match="did you mean pinwheel"):
        make_truth("pinweel")
    with pytest.raises(OptionError, match="at least 2 dimensions, got 1"):
        make_truth("ring", dim=1)


def test_the_picture_has_a_row_a_task_and_a_column_a_method(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("gmje_bench.alignment.figure.Figure.savefig", lambda figure, *_, **__: drawn.append(figure))
    chosen = options(methods=["mse", "gje"], samples=300)
    found = list(run(chosen, units(chosen, [0])))
    records = [record for unit in found for record in unit.records]
    pictures = [unit.picture for unit in found]
    del pictures[1].samples["gje"]  # as after a failure
    draw_alignment(pictures, records, tmp_path / "picture.png")
    axes = drawn[0].axes
    assert len(axes) == 6
    kl = next(r.metrics["kl"] for r in records if (r.task, r.method) == ("crossing", "mse"))
    assert axes[1].get_title() == f"MSE regression\nKL {kl:.3f} nats"
    assert axes[0].get_xlim() == axes[1].get_xlim() == axes[2].get_xlim()
    assert axes[0].get_ylabel() == "crossing branches\ntarget"
    assert axes[3].get_xlabel() == "target 1"
    assert [text.get_text() for text in axes[5].texts] == ["failed"]
