"""The recipe of the closing stage for any embeddings: it is the criteria's, and refuses what it cannot fit."""

import pytest
import torch
from criterion_cases import pairs

from gmje_core.criteria import GMJE
from gmje_core.errors import BatchSizeError, ConfigError, NonFiniteError, ScaleWarning, ShapeError
from gmje_core.estimation.consolidation import fit_density


def test_a_criterion_holds_what_it_gives():
    train, validation, held_out = pairs(600, seed=1), pairs(200, seed=2), pairs(50, seed=3)
    criterion = GMJE(3, 6, density_components=4)
    told = criterion.consolidate(*train, validation, exchangeable=True, seed=5)
    fit = fit_density(*train, validation, components=4, exchangeable=True, seed=5)
    assert torch.equal(criterion.density().log_prob(*held_out), fit.density.log_prob(*held_out))
    assert told.validation_log_prob == fit.validation_log_prob
    assert fit.validation_log_prob == pytest.approx(float(fit.density.log_prob(*validation).mean()), abs=1e-5)


def test_pairs_of_one_gaussian_have_its_entropy():
    torch.manual_seed(0)
    z = torch.randn(6000, 4, dtype=torch.float64) @ torch.tensor(
        [[1.0, 0.5, 0.2, 0], [0, 1, 0.7, 0], [0, 0, 0.5, 0.3], [0, 0, 0, 2]], dtype=torch.float64
    )
    context, target = z.split(2, dim=1)
    fit = fit_density(context[:4000], target[:4000], (context[4000:5000], target[4000:5000]), components=2)
    truth = torch.distributions.MultivariateNormal(torch.zeros(4).double(), z.T @ z / len(z))
    gap = truth.log_prob(z[5000:]).mean() - fit.density.log_prob(context[5000:].float(), target[5000:].float()).mean()
    assert abs(gap) < 0.05


def test_a_target_that_its_context_decides_is_fitted():
    """The covariance of the pairs is singular but for the ridge, which float32 does not see."""
    z = torch.randn(1200, 6, generator=torch.Generator().manual_seed(0))
    fit = fit_density(z[:1000], z[:1000], (z[1000:], z[1000:]), components=3, exchangeable=True)
    posterior = fit.density.condition(z[1000:1010])
    torch.testing.assert_close(posterior.mean, z[1000:1010], rtol=0, atol=0.02)
    assert posterior.variance.sqrt().max() < 0.02


@pytest.mark.parametrize("exchangeable", [True, False])
def test_embeddings_in_a_subspace_keep_their_prediction_and_their_spread(exchangeable):
    g = torch.Generator().manual_seed(0)
    head, z = torch.randn(8, 16, generator=g), torch.randn(2000, 8, generator=g)
    context, target = ((z + 0.1 * torch.randn(2000, 8, generator=g)) @ head for _ in range(2))
    held_out = context[1600:], target[1600:]
    fit = fit_density(context[:1600], target[:1600], held_out, components=2, exchangeable=exchangeable)
    missed = (fit.density.condition(held_out[0]).mean - held_out[1]).square().mean() / held_out[1].var()
    assert missed < 0.03, "two per cent is noise of the views"
    sample, _ = fit.density.sample((4000,))
    torch.testing.assert_close(sample.std(dim=0), context.std(dim=0), rtol=0.1, atol=0)


@pytest.mark.parametrize("deviation", [1e-2, 1e-3])
def test_a_nearly_flat_dimension_is_fitted(deviation):
    g = torch.Generator().manual_seed(0)
    size = torch.ones(8).index_fill_(0, torch.tensor(7), deviation)
    z = torch.randn(1000, 8, generator=g)
    context, target = (size * (z + 0.3 * torch.randn(1000, 8, generator=g)) for _ in range(2))
    pairs = context[:500], target[:500], (context[500:], target[500:])
    fit, plain = (
        fit_density(part[0] / by, part[1] / by, tuple(view / by for view in part[2]), components=1)
        for part, by in ((pairs, 1.0), (pairs, size))
    )
    assert fit.validation_log_prob + 2 * size.log().sum() == pytest.approx(plain.validation_log_prob, abs=0.3)
    ratio = fit.density.sample((4000,))[0].std(dim=0)[7] / context.std(dim=0)[7]
    assert 0.9 < ratio < 1.1


def test_fewer_pairs_than_dimensions_are_warned_of():
    z = torch.randn(90, 30, generator=torch.Generator().manual_seed(0))
    with pytest.warns(ScaleWarning, match="40 pairs do not fill their 60 dimensions"):
        fit = fit_density(z[:40], z[:40].flip(1), (z[40:], z[40:].flip(1)), components=1)
    assert torch.isfinite(torch.tensor(fit.validation_log_prob))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"components": 0}, "components must be an integer of at least 1, got 0"),
        ({"passes": 0}, "passes must be an integer of at least 1, got 0"),
        ({"rounds": 0}, "rounds must be an integer of at least 1, got 0"),
        ({"shrinkage": -5.0}, "shrinkage must be finite and at least 0, got -5.0"),
        ({"exchangeable": True}, "exchangeable views have one size, but these have 3 and 2"),
    ],
)
def test_bad_options_are_named(options, words):
    context, target = pairs(40)
    target = target[:, :2]
    with pytest.raises(ConfigError, match=words):
        fit_density(context, target, (context[:9], target[:9]), **options)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda c, t, v: (c, t[:-1], v), ShapeError, r"target must have shape \(40, 3\), but has \(39, 3\)"),
        (lambda c, t, v: (c, t, (v[0], v[1][:, :2])), ShapeError, r"validation\[1\] must have shape"),
        (lambda c, t, v: (c, t, (v[0][:1], v[1][:1])), BatchSizeError, r"validation\[0\] must hold at least 2 pairs"),
        (lambda c, t, v: (c.index_fill(0, torch.tensor(7), torch.nan), t, v), NonFiniteError, "context .* in row 7"),
    ],
)
def test_bad_pairs_are_named(change, error, words):
    with pytest.raises(error, match=words):
        fit_density(*change(*pairs(40), pairs(20)))
