"""EM with scales against the density that it fits, its own likelihood, and a truth that is known."""

import itertools
from dataclasses import replace

import pytest
import torch

from gmje_core.densities.scaled import ScaledJointMixture
from gmje_core.errors import BatchSizeError
from gmje_core.estimation.calibration import (
    calibrate_conditional,
    calibrate_context,
    calibrate_gain,
    refit_scales,
)
from gmje_core.estimation.conditionals import Conditionals
from gmje_core.estimation.matching import match_moments, transport_map, view_moments
from gmje_core.estimation.scaled import SCALES, SHRINKAGES, fit_scaled_mixture
from gmje_core.estimation.scaled_em import Components, Expectation, expect, gather, likeliest, maximise, mean_log_prob


def model(seed: int = 0, k: int = 3, c: int = 3, t: int = 2) -> Components:
    g = torch.Generator().manual_seed(seed)
    scales = torch.tensor([0.4, 1.0, 3.0])

    def tril(dim: int) -> torch.Tensor:
        return 0.2 * torch.randn(k, dim, dim, generator=g).tril(-1) + torch.diag_embed(
            0.4 + 0.5 * torch.rand(k, dim, generator=g)
        )

    weights = torch.randn(k, 3, 3, generator=g)
    weights = weights - weights.flatten().logsumexp(dim=0)
    means = 3 * torch.randn(k, c + t, generator=g)
    return Components(weights, scales, means[:, :c], means[:, c:], tril(c), torch.randn(k, t, c, generator=g), tril(t))


def everything(x: torch.Tensor, k: int = 3) -> torch.Tensor:
    return torch.arange(k).expand(len(x), k)


def entries(step: Expectation, values: torch.Tensor, k: int = 3) -> torch.Tensor:
    """``(N, K)`` from the values of entries that are sorted by component."""
    component = torch.arange(k).repeat_interleave(torch.tensor(step.sizes))
    return torch.zeros(len(step.log_joint), k).index_put_((step.rows, component), values)


def density(parameters: Components) -> ScaledJointMixture:
    p = parameters
    return ScaledJointMixture(
        p.log_weights, p.context_means, p.target_means, p.context_tril, p.gain, p.target_tril, p.scales, p.scales
    )


def test_e_step_is_the_posterior_of_the_density():
    torch.manual_seed(0)
    p = model()
    x, y = density(p).sample((40,))
    step = expect(p, x, y, everything(x))
    torch.testing.assert_close(step.log_prob, density(p).log_prob(x, y), rtol=1e-4, atol=1e-4)
    # Against the mixture with one component for each (k, a, b).
    posterior = density(p).expanded().log_responsibilities(x, y).exp().view(40, 3, 3, 3)
    responsibilities = entries(step, step.responsibilities)
    torch.testing.assert_close(responsibilities, posterior.sum(dim=(2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(step.table.float(), posterior.sum(dim=0), rtol=1e-3, atol=1e-3)
    given = posterior / posterior.sum(dim=(2, 3), keepdim=True).clamp_min(1e-20)
    likely = responsibilities > 1e-3
    inverse = 1 / p.scales
    torch.testing.assert_close(
        entries(step, step.context_precision)[likely], (given.sum(dim=3) @ inverse)[likely], rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(
        entries(step, step.target_precision)[likely], (given.sum(dim=2) @ inverse)[likely], rtol=1e-3, atol=1e-3
    )


def test_components_that_are_no_candidates_change_nothing_where_they_do_not_matter():
    torch.manual_seed(0)
    p = model()
    x, y = density(p).sample((60,))
    whole = expect(p, x, y, everything(x))
    nearest = likeliest(p, x, y, 2)
    assert torch.equal(nearest, whole.log_joint.topk(2).indices)
    near = expect(p, x, y, nearest.flip(1))
    little = entries(whole, whole.responsibilities).gather(1, nearest).sum(dim=1) > 1 - 1e-6
    assert little.sum() > 20, "the third component must be far from most rows"
    torch.testing.assert_close(near.log_prob[little], whole.log_prob[little])
    torch.testing.assert_close(
        entries(near, near.responsibilities)[little],
        entries(whole, whole.responsibilities)[little],
        rtol=1e-4,
        atol=1e-6,
    )
    assert mean_log_prob(p, x, y, nearest) == pytest.approx(float(near.log_prob.mean()), abs=1e-4)


def test_rounds_of_em_never_lose_likelihood():
    torch.manual_seed(0)
    x, y = density(model()).sample((800,))
    p, bounds = model(seed=5), []
    zero = torch.zeros(3, 3), torch.zeros(3, 2)
    for _ in range(15):
        step = expect(p, x, y, everything(x))
        bounds.append(float(step.log_prob.double().mean()))
        p = maximise(gather(x, y, step, *zero), *zero, p.scales, 0.0)
    # The table is shared by the components and keeps a floor, and context and conditional are updated in turn.
    assert all(after > before - 2e-3 for before, after in itertools.pairwise(bounds)), bounds
    assert bounds[-1] > bounds[0] + 0.5


def test_sums_do_not_depend_on_the_reference_points():
    torch.manual_seed(0)
    p = model()
    x, y = density(p).sample((500,))
    step = expect(p, x, y, everything(x))
    one, other = (torch.zeros(3, 3), torch.zeros(3, 2)), (p.context_means, p.target_means)
    first, second = (maximise(gather(x, y, step, *about), *about, p.scales, 5.0) for about in (one, other))
    for name in ("context_means", "target_means", "context_tril", "gain", "target_tril"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=1e-3, atol=1e-3)


def test_shrinkage_without_end_ties_the_covariances_up_to_their_scale():
    torch.manual_seed(0)
    p = model()
    x, y = density(p).sample((500,))
    zero = torch.zeros(3, 3), torch.zeros(3, 2)
    tied = maximise(gather(x, y, expect(p, x, y, everything(x)), *zero), *zero, p.scales, 1e9)
    for factors in (tied.context_tril, tied.target_tril):
        volumes = factors.diagonal(dim1=1, dim2=2).log().mean(dim=1).exp()
        shapes = factors / volumes[:, None, None]
        torch.testing.assert_close(shapes, shapes[:1].expand_as(shapes), rtol=1e-3, atol=1e-3)
        assert volumes.max() > 1.05 * volumes.min(), "a component that is wider than the others stays so"
    torch.testing.assert_close(tied.gain, tied.gain[:1].expand_as(tied.gain), rtol=1e-3, atol=1e-3)


def heavy_pairs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two clusters; half of the pairs agree well and half badly, which one Gaussian cannot say."""
    g = torch.Generator().manual_seed(seed)
    context = torch.randn(count, 3, generator=g) + 4 * torch.randint(2, (count, 1), generator=g)
    spread = torch.where(torch.rand(count, 1, generator=g) < 0.5, 0.1, 0.4)
    return context, context.flip(1) + spread * torch.randn(count, 3, generator=g)


def truth(context: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    def normal(x: torch.Tensor, deviation: float) -> torch.Tensor:
        return torch.distributions.Normal(0.0, deviation).log_prob(x).sum(dim=1)

    marginal = torch.stack([normal(context, 1.0), normal(context - 4, 1.0)]).logsumexp(dim=0)
    residual = target - context.flip(1)
    conditional = torch.stack([normal(residual, 0.1), normal(residual, 0.4)]).logsumexp(dim=0)
    return marginal + conditional - 2 * torch.tensor(2.0).log()


def test_a_known_density_is_recovered():
    fit = fit_scaled_mixture(*heavy_pairs(6000, 0), heavy_pairs(1000, 1), components=2, shrinkage=10.0)
    held_out = heavy_pairs(4000, 2)
    density = refit_scales(fit.density, *heavy_pairs(1000, 1))
    gap = (truth(*held_out) - density.log_prob(*held_out)).mean()
    assert 0 <= gap < 0.05
    one = torch.cat(heavy_pairs(6000, 0), dim=1)
    gaussian = torch.distributions.MultivariateNormal(one.mean(dim=0), torch.cov(one.T))
    assert density.log_prob(*held_out).mean() > gaussian.log_prob(torch.cat(held_out, dim=1)).mean() + 1
    assert fit.validation_log_prob == pytest.approx(float(fit.density.log_prob(*heavy_pairs(1000, 1)).mean()), abs=0.01)


def test_the_chosen_shrinkage_is_that_of_the_density_though_no_rounds_follow():
    pairs, held_out = heavy_pairs(240, 0), heavy_pairs(1000, 1)
    chosen = fit_scaled_mixture(*pairs, held_out, components=8, rounds=8)
    least = min(SHRINKAGES) * 6
    assert chosen.shrinkage > least, "so few pairs must want more shrinkage"
    first = fit_scaled_mixture(*pairs, held_out, components=8, rounds=8, shrinkage=least)
    assert chosen.validation_log_prob > first.validation_log_prob + 0.01


def test_it_is_a_function_of_its_arguments():
    arguments = (*heavy_pairs(500, 0), heavy_pairs(100, 1))
    first, second = (fit_scaled_mixture(*arguments, components=4, seed=3) for _ in range(2))
    for one, other in zip(first.density.parameters, second.density.parameters, strict=True):
        assert torch.equal(one, other)


def test_exchangeable_views_have_one_marginal():
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(2000, 3, generator=g)
    context, target = (shared + 0.3 * torch.randn(2000, 3, generator=g) for _ in range(2))
    fit = fit_scaled_mixture(context, target, (context[:200], target[:200]), components=3, exchangeable=True)
    (mean_c, covariance_c), (mean_t, covariance_t) = view_moments(fit.density)
    torch.testing.assert_close(mean_c, mean_t, rtol=0, atol=0.05)
    torch.testing.assert_close(covariance_c, covariance_t, rtol=0.05, atol=0.05)


def test_too_few_pairs():
    pairs = heavy_pairs(20, 0)
    with pytest.raises(BatchSizeError, match="3 passes"):
        fit_scaled_mixture(*pairs, pairs, components=2, passes=3)
    with pytest.raises(BatchSizeError, match="two pairs for each of 60 components"):
        fit_scaled_mixture(*pairs, pairs)


class TestMatching:
    def test_moments_of_views_are_those_of_the_expanded_mixture(self):
        p = density(model())
        joint = p.expanded()
        for (mean, covariance), marginal in zip(view_moments(p), (joint.context, joint.target), strict=True):
            torch.testing.assert_close(mean.float(), marginal.mean, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(covariance.float(), marginal.covariance_matrix, rtol=1e-3, atol=1e-3)

    def test_the_density_of_mapped_embeddings(self):
        g = torch.Generator().manual_seed(0)
        p = density(model())
        maps = torch.eye(3) + 0.2 * torch.randn(3, 3, generator=g), torch.eye(2) + 0.2 * torch.randn(2, 2, generator=g)
        shifts = torch.randn(3, generator=g), torch.randn(2, generator=g)
        x, y = torch.randn(30, 3, generator=g), torch.randn(30, 2, generator=g)
        mapped = p.mapped((maps[0], shifts[0]), (maps[1], shifts[1]))
        volume = sum(torch.linalg.slogdet(m)[1] for m in maps)
        expected = p.log_prob(x, y) - volume
        torch.testing.assert_close(
            mapped.log_prob(x @ maps[0].T + shifts[0], y @ maps[1].T + shifts[1]), expected, rtol=1e-3, atol=1e-2
        )

    def test_transport(self):
        g = torch.Generator().manual_seed(0)
        a, b = (r @ r.T + torch.eye(4) for r in torch.randn(2, 4, 4, generator=g, dtype=torch.float64))
        t = transport_map(a, b)
        torch.testing.assert_close(t @ a @ t.T, b)
        torch.testing.assert_close(t, t.T)

    @pytest.mark.parametrize("variance", [1e-4, 1e-6])
    def test_transport_of_views_that_are_nearly_flat(self, variance):
        turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        a = turn @ torch.tensor([1.0, 0.5, 0.1, variance, 4 * variance], dtype=torch.float64).diag() @ turn.T
        torch.testing.assert_close(transport_map(a, a), torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-3)
        t = transport_map(a, 4 * a)
        torch.testing.assert_close(t, 2 * torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-3)

    def test_samples_get_the_moments_of_the_embeddings(self):
        context, target = heavy_pairs(3000, 0)
        fit = fit_scaled_mixture(context, target, (context[:300], target[:300]), components=3, shrinkage=400.0)
        matched = match_moments(fit.density, context, target)
        for (mean, covariance), real in zip(view_moments(matched), (context, target), strict=True):
            torch.testing.assert_close(mean.float(), real.mean(dim=0), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(covariance.float(), torch.cov(real.T, correction=0), rtol=1e-3, atol=1e-3)
        held_out = heavy_pairs(1000, 2)
        lost = fit.density.log_prob(*held_out).mean() - matched.log_prob(*held_out).mean()
        assert lost < 0.1


@pytest.mark.parametrize("wrong", [0.8, 1.25])
def test_contexts_that_are_too_wide_or_narrow_are_put_right(wrong):
    fit = fit_scaled_mixture(*heavy_pairs(3000, 0), heavy_pairs(500, 1), components=2, shrinkage=10.0)
    held_out = heavy_pairs(1000, 2)

    def factor_of(before: ScaledJointMixture) -> float:
        after = calibrate_context(before, held_out[0])
        assert torch.equal(after.parameters[-1], before.parameters[-1]), "the conditional stays"
        return float(after.parameters[3][0, 0, 0] / before.parameters[3][0, 0, 0]) ** 2

    right = factor_of(fit.density)
    found = factor_of(fit.density.with_context_factor(wrong))
    assert found * wrong == pytest.approx(right, rel=0.12)


def test_a_conditional_that_is_too_sure_is_enlarged():
    fit = fit_scaled_mixture(*heavy_pairs(3000, 0), heavy_pairs(500, 1), components=2, shrinkage=10.0)
    right = refit_scales(fit.density, *heavy_pairs(500, 1))
    sure = right.with_conditional_factor(1 / 1.3)

    def factor_of(before: ScaledJointMixture) -> float:
        after = calibrate_conditional(before, *heavy_pairs(1000, 2))
        return float(after.parameters[-1][0, 0, 0] / before.parameters[-1][0, 0, 0]) ** 2

    assert 1 <= factor_of(right) <= 1.2
    # The factors that are tried are a few percent apart.
    assert factor_of(sure) == pytest.approx(1.3 * factor_of(right), rel=0.1)
    repaired = calibrate_conditional(sure, *heavy_pairs(1000, 2))
    held_out = heavy_pairs(2000, 3)
    assert repaired.log_prob(*held_out).mean() > sure.log_prob(*held_out).mean()


@pytest.mark.parametrize("wrong", [0.5, 1.0, 1.8])
def test_a_gain_that_is_too_large_or_small_is_put_right(wrong):
    torch.manual_seed(0)
    known = density(model())
    found = calibrate_gain(known.with_gain_factor(wrong), *known.sample((3000,)))
    # It is a step of EM, whose responsibilities are those of the gain before.
    torch.testing.assert_close(found.parameters[4], known.parameters[4], rtol=0.03 if wrong == 1.0 else 0.1, atol=0)


def test_the_factor_of_the_gain_is_one_of_most_likelihood():
    torch.manual_seed(0)
    known = density(model())
    pairs = known.sample((600,))
    at = calibrate_gain(known, *pairs)
    factor = float((at.parameters[4] / known.parameters[4]).mean())
    best = at.log_prob(*pairs).mean()
    assert factor != 1
    for aside in (0.9 * factor, 1.1 * factor):
        assert known.with_gain_factor(aside).log_prob(*pairs).mean() < best


def test_conditionals_of_the_likely_factors_are_the_conditional_mixture():
    torch.manual_seed(0)
    apart = model(k=4)
    widths = torch.tensor([0.2, 0.5, 1.0, 3.0])[:, None, None]
    # Factors that lie over each other, narrow and wide.
    over = replace(
        apart, context_means=0.2 * apart.context_means, gain=0.1 * apart.gain, target_means=0.1 * apart.target_means
    )
    known = density(replace(over, target_tril=widths * apart.target_tril))
    context, target = known.sample((900,))
    conditionals = Conditionals.of(known, context, target)
    for factor in (0.5, 1.0, 2.0):
        posterior = known.with_conditional_factor(factor).condition(context)
        mine, theirs = conditionals.sample(factor, 8, seed=1), posterior.sample((8,))
        constant = 0.5 * known.target_dim * torch.tensor(2 * torch.pi).log()
        found = conditionals.log_prob(mine, factor) - constant
        torch.testing.assert_close(found, posterior.log_prob(mine.transpose(0, 1)).T, rtol=1e-4, atol=1e-3)
        rank = float((posterior.log_prob(theirs) > posterior.log_prob(target)).double().mean())
        assert conditionals.mean_rank(factor, 8, seed=1) == pytest.approx(rank, abs=0.02)


@pytest.mark.parametrize(("shift", "more"), [(0.0, True), (100.0, False)])
def test_more_than_four_factors_are_kept_where_they_lie_over_each_other(shift, more):
    torch.manual_seed(0)
    many = model(k=20)
    known = density(replace(many, context_means=shift * torch.arange(20.0)[:, None] + 0 * many.context_means))
    context, target = known.sample((200,))
    kept = Conditionals.of(known, context, target).means.shape[1]
    assert (kept > 4) == more
    assert kept >= 4


def test_the_grid_of_scales_has_one_in_it():
    assert 1.0 in SCALES
