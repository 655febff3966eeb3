"""One grid over the criteria: values, gradients, state, densities, and what keeps an encoder from collapsing."""

import copy
import math
import warnings

import pytest
import torch
from criterion_cases import GJES, HEALTHY, allows, pairs, settle, stops_target
from torch import nn

from gmje_core import GaussianMixture
from gmje_core.criteria import GJE, GMJE, GMJEGNG, GMJEMDN, GMJESMC
from gmje_core.densities.covariance import DiagonalCovariance
from gmje_core.diagnostics import effective_rank, relative_spread
from gmje_core.errors import (
    CollapseWarning,
    ConfigError,
    TraceTrapWarning,
)
from gmje_core.estimation.moments import batch_moments
from gmje_core.objectives import gaussian_mutual_information


@pytest.mark.parametrize("dims", [(3, 3), (2, 5), (4, 1)])
@pytest.mark.parametrize("make", HEALTHY)
def test_value_and_gradient_are_finite_for_any_sizes(make, dims):
    if not allows(make, dims):
        with pytest.raises(ConfigError, match="in one space"):
            make(dims)
        return
    criterion = settle(make(dims), dims, steps=5)
    context, target = (z.requires_grad_() for z in pairs(dims=dims, seed=7))
    loss = criterion(context, target)
    loss.backward()
    assert loss.ndim == 0
    assert loss.isfinite()
    assert (target.grad is None) == stops_target(criterion)
    for gradient in (context.grad,) if stops_target(criterion) else (context.grad, target.grad):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 1e-6


@pytest.mark.parametrize("make", HEALTHY)
def test_gradient_is_that_of_the_value(make):
    dims = (2, 3) if allows(make, (2, 3)) else (2, 2)
    criterion = settle(make(dims).double(), dims, steps=5, dtype=torch.float64).eval()
    context, target = pairs(12, dims, seed=3, dtype=torch.float64)
    context.requires_grad_()
    target.requires_grad_(not stops_target(criterion))
    assert torch.autograd.gradcheck(criterion, (context, target), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", HEALTHY)
def test_bfloat16_embeddings_are_scored_in_float32(make):
    exact, rounded = settle(make((3, 3)), steps=5).eval(), settle(make((3, 3)), steps=5).eval()
    context, target = (z.bfloat16() for z in pairs(seed=3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = rounded(context, target)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact(context.float(), target.float()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", HEALTHY)
def test_state_dict_continues_bit_for_bit(make):
    def step(criterion, optimizer, seed):
        loss = criterion(*pairs(seed=seed))
        if optimizer:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    def optimiser(criterion):
        return torch.optim.Adam(criterion.parameters(), lr=0.01) if list(criterion.parameters()) else None

    first = make((3, 3))
    adam = optimiser(first)
    for seed in range(4):
        step(first, adam, seed)
    second = make((3, 3))
    second.load_state_dict(first.state_dict())
    other = optimiser(second)
    if adam:
        other.load_state_dict(copy.deepcopy(adam.state_dict()))
    assert [step(first, adam, s) for s in range(4, 9)] == [step(second, other, s) for s in range(4, 9)]
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


@pytest.mark.parametrize("make", HEALTHY)
def test_evaluation_leaves_the_state_alone(make):
    criterion = settle(make((3, 3)), steps=3).eval()
    before = {key: value.clone() for key, value in criterion.state_dict().items()}
    criterion(*pairs(seed=50))
    for key, value in criterion.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("make", HEALTHY)
def test_scores_before_it_updates(make):
    """The density that scores a batch has not seen it: training and evaluation mode give the same loss."""
    trained = settle(make((3, 3)), steps=5)
    batch = pairs(seed=60)
    assert trained.eval()(*batch).item() == trained.train()(*batch).item()


@pytest.mark.parametrize("make", HEALTHY)
def test_density_is_fitted_and_samples_agree_with_it(make):
    criterion = settle(make((3, 3)), steps=100)
    density = criterion.density()
    held_out = pairs(2000, seed=1234)
    nll = -density.log_prob(*held_out).mean()
    z = torch.cat(pairs(4000, seed=5), dim=1)
    single = torch.distributions.MultivariateNormal(z.mean(0), torch.cov(z.T))
    baseline = -single.log_prob(torch.cat(held_out, dim=1)).mean()
    if isinstance(criterion, GMJE):
        assert nll < baseline - 0.1, "a mixture explains clusters better than one Gaussian"
    else:
        assert nll < baseline + 0.35, "no worse than one Gaussian fitted to twice the data"
    torch.manual_seed(0)
    context, target = density.sample((20_000,))
    entropy = -density.log_prob(context, target)
    other = -density.log_prob(*density.sample((20_000,)))
    error = math.hypot(entropy.std().item(), other.std().item()) / math.sqrt(20_000)
    assert abs(entropy.mean().item() - other.mean().item()) < 4 * error
    error = context.std(0) / math.sqrt(20_000)
    assert ((context.mean(0) - density.context.mean).abs() < 4.5 * error).all()
    predicted = density.condition(context).mean
    error = (target - predicted).std(0) / math.sqrt(20_000)
    assert ((target - predicted).mean(0).abs() < 4.5 * error).all(), "the conditional's mean is that of its samples"


@pytest.mark.parametrize("make", HEALTHY)
def test_diagnostics_are_complete(make):
    criterion = settle(make((3, 3)), steps=150)
    report = criterion.diagnostics()
    keys = {"effective_rank", "log_det_per_dim", "relative_spread", "trace_ratio", "verdict", "advice"}
    assert keys <= report.keys()
    assert report["verdict"] == "healthy"
    assert all(math.isfinite(v) for v in report.values() if isinstance(v, float))
    assert 0.5 < report["trace_ratio"] < 1.5
    if isinstance(criterion, GMJE):
        assert 0.3 < report["component_usage"] <= 1


def train_encoder(criterion, steps=300):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))
    optimizer = torch.optim.Adam([*encoder.parameters(), *criterion.parameters()], lr=3e-3)
    g = torch.Generator().manual_seed(0)
    for _ in range(steps):
        x = torch.randn(128, 12, generator=g)
        views = x + 0.3 * torch.randn(2, 128, 12, generator=g)
        z = nn.functional.normalize(encoder(views.flatten(0, 1)), dim=1)
        loss = criterion(*z.chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return criterion.diagnostics()


@pytest.mark.parametrize(
    "make",
    [
        *GJES,
        pytest.param(lambda d: GMJE(d, 64), id="gmje-em"),
        pytest.param(lambda d: GMJE(d, 64, batch_share=0), id="gmje-critic-alone"),
        pytest.param(lambda d: GJE(d, batch_share=0), id="gje-critic-alone"),
        pytest.param(lambda d: GMJE(d, 64, update="gradient"), id="gmje-gradient"),
        pytest.param(lambda d: GMJE(d, 8, covariance_type="full", tied=True), id="gmje-full-tied"),
        pytest.param(lambda d: GMJE(d, 16, covariance_type="low_rank"), id="gmje-low-rank"),
        pytest.param(lambda d: GMJE(d, 16, covariance_type="low_rank", update="gradient"), id="gmje-low-rank-gradient"),
        pytest.param(lambda d: GMJEMDN(d, 4, hidden=64), id="mdn-diag"),
        pytest.param(lambda d: GMJEMDN(d, 2, covariance_type="full", hidden=32), id="mdn-full"),
        pytest.param(lambda d: GMJEGNG(d, 64), id="gng"),
        pytest.param(lambda d: GMJESMC(d, 1024), id="smc"),
        pytest.param(lambda d: GMJESMC(d, 1024, covariance_type="full", batch_share=0), id="smc-full-bank-alone"),
    ],
)
def test_encoder_does_not_collapse(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        report = train_encoder(make(16))
    assert report["verdict"] == "healthy"
    assert report["effective_rank"] > 6
    assert report["relative_spread"] > 0.3
    assert report["alignment"] > 0.5


def test_batch_covariance_collapses_and_says_so():
    with pytest.warns(TraceTrapWarning, match="Mahalanobis Trace Trap"):
        criterion = GJE(16, moments="batch")
    with pytest.warns(CollapseWarning, match="trace trap") as caught:
        report = train_encoder(criterion)
    assert len([w for w in caught if w.category is CollapseWarning]) == 1, "warns once"
    assert report["verdict"] == "trace trap"
    assert report["relative_spread"] < 1e-3
    assert report["trace_ratio"] < 1.05


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda d: GMJE(d, 8), id="gmje"),
        pytest.param(lambda d: GMJEMDN(d, 4, hidden=32, objective="nll"), id="mdn"),
        pytest.param(lambda d: GMJEGNG(d, 8), id="gng"),
        pytest.param(lambda d: GMJESMC(d, 64), id="smc"),
    ],
)
def test_naive_counterpart_of_each_remedy_collapses(make):
    """Same components, but their moments fitted on the batch that they score, and the likelihood as the objective."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    g = torch.Generator().manual_seed(0)
    for _ in range(300):
        x = torch.randn(128, 12, generator=g)
        z_context, z_target = encoder((x + 0.3 * torch.randn(2, 128, 12, generator=g)).flatten(0, 1)).chunk(2)
        criterion, z = make(16), torch.cat([z_context, z_target], dim=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            criterion(z_context.detach(), z_target.detach())
        density = criterion.density()
        if isinstance(criterion, GMJEMDN):
            share = density.condition(z_context.detach()).responsibilities(z_target.detach())
        else:
            share = density.joint.responsibilities(z.detach())
        mass, means, variances = batch_moments(z, share, diagonal=True)
        covariance = DiagonalCovariance(variances + 1e-3 * variances.detach().mean() + 1e-12)
        naive = GaussianMixture(mass.clamp_min(1e-6).log(), means, covariance)
        loss = -naive.log_prob(z).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert relative_spread(z_context) < 0.05 or effective_rank(z_context) < 3


def test_trap_has_no_data_gradient():
    """With the batch's own covariance the Mahalanobis term is constant: its gradient is zero, not small."""
    z = torch.randn(40, 6, dtype=torch.float64, requires_grad=True)
    centred = z - z.mean(0)
    covariance = centred.T @ centred / 40
    inside = (centred @ torch.linalg.inv(covariance) * centred).sum(1).mean()
    outside = (centred @ torch.linalg.inv(covariance.detach()) * centred).sum(1).mean()
    (trapped,) = torch.autograd.grad(inside, z, retain_graph=True)
    (free,) = torch.autograd.grad(outside, z)
    assert inside.item() == pytest.approx(6)
    assert trapped.abs().max() < 1e-12 < 1e-3 < free.abs().max()


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_gje_loss_is_minus_the_gaussian_mutual_information_behind_the_channel(noise):
    torch.manual_seed(0)
    # The noise is given for each dimension; the temperature is in units of the norm, of two dimensions.
    criterion = GJE(2, temperature=noise / 2, batch_share=0, variance_floor=1e-9, step=0.01).double()
    factor = torch.randn(4, 4, dtype=torch.float64)
    losses = [
        criterion(*(torch.randn(500, 4, dtype=torch.float64) @ factor.T).split(2, dim=1)).item() for _ in range(400)
    ]
    covariance = factor @ factor.T
    power = covariance.diagonal().view(2, 2).mean(dim=1).repeat_interleave(2)
    expected = gaussian_mutual_information(covariance + noise * torch.diag(power), context_dim=2)
    assert -sum(losses[200:]) / 200 == pytest.approx(expected.item(), abs=0.02)


def test_gje_has_its_ridge_in_likelihood_and_entropy():
    """On a first batch, whose moments are those known, against torch's Gaussians."""
    z = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.arange(1, 5)
    loss = GJE(2, temperature=0.0, batch_share=0, variance_floor=0.3)(*z.split(2, dim=1))
    covariance = torch.cov(z.T, correction=0)
    ridge = 0.3 * covariance.diagonal().view(2, 2).mean(dim=1).repeat_interleave(2)
    joint = torch.distributions.MultivariateNormal(z.mean(dim=0), covariance + torch.diag(ridge))
    views = [
        torch.distributions.MultivariateNormal(joint.mean[part], joint.covariance_matrix[part, part])
        for part in (slice(0, 2), slice(2, 4))
    ]
    marginal = sum(view.log_prob(part) for view, part in zip(views, z.split(2, dim=1), strict=True))
    conditional = (joint.log_prob(z) - 0.5 * marginal).mean()
    entropy = 0.5 * sum(view.entropy() for view in views)
    assert loss.item() == pytest.approx(-(entropy + conditional).item(), abs=1e-10)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
@pytest.mark.parametrize("make", HEALTHY)
def test_loss_does_not_depend_on_units(make, scale):
    one, other = make((3, 3)), make((3, 3))
    for seed in range(5):
        context, target = pairs(seed=seed, dtype=torch.float64)
        loss, scaled = one(context, target), other(scale * context, scale * target)
    if stops_target(one):  # a density of the target is per unit of its volume
        loss = loss + 3 * math.log(scale)
    torch.testing.assert_close(scaled, loss, rtol=1e-4, atol=1e-4)


def test_dead_components_are_reseeded():
    criterion = GMJE(2, 8, temperature=0.01)
    far, near = torch.randn(64, 2) + 50, torch.randn(64, 2)
    for _ in range(3):
        criterion(far, far)
    for _ in range(150):
        criterion(near, near + 0.01 * torch.randn(64, 2))
    assert criterion.diagnostics()["reseeded"] > 0
    means = criterion.density().context.means
    assert (means.norm(dim=1) < 10).all(), "components left behind have moved to where the embeddings are"
    assert criterion.density().log_prob(near, near).isfinite().all()


def test_more_components_than_samples_start_on_later_batches():
    criterion = GMJE(3, 300)
    for seed in range(40):
        criterion(*pairs(64, seed=seed))
    assert (criterion.critic.mass > 0).sum() == 300


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda t=t, tied=tied: GMJE(4, 64, covariance_type=t, tied=tied, rank=2, covariance_prior=0),
            id=f"gmje-{t}-{tied}",
        )
        for t in ("full", "low_rank", "diag", "spherical")
        for tied in (False, True)
    ]
    + [
        pytest.param(lambda t=t: GMJEGNG(4, 16, covariance_type=t, covariance_prior=0), id=f"gng-{t}")
        for t in ("full", "diag", "spherical")
    ],
)
def test_components_without_samples_need_no_prior(make):
    criterion, g = make(), torch.Generator().manual_seed(0)
    for _ in range(12):
        context, target = torch.randn(2, 32, 4, generator=g)
        loss = criterion(context.requires_grad_(), target)
        loss.backward()
        assert loss.isfinite()
        assert context.grad.isfinite().all()
    assert all(value.isfinite().all() for value in criterion.state_dict().values())
    assert criterion.density().log_prob(context.detach(), target).isfinite().all()
