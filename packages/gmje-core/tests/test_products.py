"""A round of EM by products beside the same round component by component, and where it must decline."""

import pytest
import torch

from gmje_core.densities.mixture import GaussianMixture
from gmje_core.estimation import em, products
from gmje_core.estimation.em import CovarianceForm, expectation, total_moments
from gmje_core.estimation.pairs import Pairs
from gmje_core.estimation.products import product_round

FORMS = [("full", False), ("diag", False), ("diag", True), ("spherical", False)]


def problem(kind="full", tied=False, *, rows=500, dim=5, components=6, spread=1.0, scale=1.0, seed=0):
    """Rows in clusters far from the origin, of unlike scales, and a mixture that is not the one they came from."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    factors = spread * (0.3 * normal(components, dim, dim).tril(-1) + torch.eye(dim))
    means = 2 * normal(components, dim)
    own = torch.arange(rows) % components
    x = means[own] + (factors[own] @ normal(rows, dim, 1)).squeeze(2)
    units = scale * torch.logspace(-2, 2, dim, dtype=torch.float64)
    covariances = factors @ factors.mT * units[:, None] * units
    mixture = GaussianMixture.from_moments(
        torch.rand(components, generator=g) + 0.2,
        (means + 0.2 * spread * normal(components, dim) + 30) * units,
        covariances.mean(dim=0) if tied else covariances,
        kind,
        tied=tied,
    )
    return (x + 30) * units, mixture


@pytest.mark.parametrize(("kind", "tied"), FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_products_give_what_components_give(kind, tied, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(products, "_MOST_ROWS", 128)  # several blocks, the last one shorter
    x, mixture = problem(kind, tied)
    form = CovarianceForm(kind, tied, 1, 0.0)
    total = total_moments(Pairs({"x": x}, torch.float64), diagonal=form.diagonal)
    wanted_sum, wanted = em._by_components(mixture, Pairs({"x": x}, torch.float64), form, total)
    found = product_round(mixture, Pairs({"x": x}, dtype), total, diagonal=form.diagonal)
    assert found is not None
    assert found[0] == pytest.approx(wanted_sum, rel=tolerance)
    torch.testing.assert_close(found[1][0], wanted[0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found[1][1], wanted[1], rtol=tolerance, atol=0)
    # Second moments in units of the component's own deviations.
    second, deviation = wanted[2], (wanted[2] if form.diagonal else wanted[2].diagonal(dim1=1, dim2=2)).sqrt()
    units = deviation.square() if form.diagonal else deviation.unsqueeze(2) * deviation.unsqueeze(1)
    torch.testing.assert_close(found[1][2] / units, second / units, rtol=0, atol=100 * tolerance)


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_narrow_components_are_summed_one_by_one(kind):
    # Clusters a billion times narrower than their distances: products of the rows would lose their shape.
    x, mixture = problem(kind, spread=1e-9)
    form, pairs = CovarianceForm(kind, False, 1, 0.0), Pairs({"x": x}, torch.float64)
    total = total_moments(pairs, diagonal=kind == "diag")
    assert product_round(mixture, pairs, total, diagonal=form.diagonal) is None
    value, moments = expectation(mixture, pairs, form, total)
    assert value == pytest.approx(float(mixture.log_prob(x).mean()), rel=1e-6)
    variance = moments[2] if kind == "diag" else moments[2].diagonal(dim1=1, dim2=2)
    assert bool((variance > 0).all())


def test_single_precision_is_left_where_it_would_lose_digits(monkeypatch):
    seen = []
    monkeypatch.setattr(products, "_fill_products", lambda p, *rest: seen.append(p.dtype) or fill(p, *rest))
    x, mixture = problem(spread=1e-3)
    pairs = Pairs({"x": x}, torch.float32)
    total = total_moments(Pairs({"x": x}, torch.float64), diagonal=False)
    assert product_round(mixture, pairs, total, diagonal=False) is not None
    assert set(seen) == {torch.float64}


fill = products._fill_products


def test_it_declines_where_nothing_is_saved_or_the_rows_are_flat():
    x, mixture = problem(components=3)
    pairs = Pairs({"x": x}, torch.float64)
    assert product_round(mixture, pairs, total_moments(pairs, diagonal=False), diagonal=False) is None
    x, mixture = problem()
    x[:, 2] = x[:, 1]
    x[:, 3] = 7.0
    pairs = Pairs({"x": x}, torch.float64)
    for diagonal in (False, True):
        assert product_round(mixture, pairs, total_moments(pairs, diagonal=diagonal), diagonal=diagonal) is None


@pytest.mark.parametrize("kind", ["full", "diag"])
def test_a_component_without_rows_stays_finite(kind):
    x, mixture = problem(kind)
    means = mixture.means.clone()
    means[0] += 1e3 * mixture.covariance.diagonal()[0].sqrt()
    far = GaussianMixture(mixture.log_weights, means, mixture.covariance)
    pairs, diagonal = Pairs({"x": x}, torch.float64), kind == "diag"
    found = product_round(far, pairs, total_moments(pairs, diagonal=diagonal), diagonal=diagonal)
    assert found is not None
    assert float(found[1][0][0]) == 0
    assert all(bool(part.isfinite().all()) for part in found[1])
