"""The mixture density network: known conditionals recovered, valid densities, a marginal that keeps entropy."""

import math

import pytest
import torch

from gmje_core import GaussianMixture, ShapeError
from gmje_core.criteria import GMJEMDN
from gmje_core.densities.conditional import ConditionalJointMixture
from gmje_core.estimation.network import MixtureDensityNetwork

TYPES = ["full", "low_rank", "diag", "spherical"]


def fit(criterion, draw, steps=400, lr=5e-3):
    optimizer = torch.optim.Adam(criterion.parameters(), lr=lr)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        loss = criterion(*draw(256))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return criterion


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("dims", [(1, 2), (3, 2), (2, 2)])
def test_conditional_has_mass_one(covariance_type, dims):
    network = MixtureDensityNetwork(*dims, components=3, covariance_type=covariance_type, rank=1, hidden=8)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4, generator=torch.Generator().manual_seed(parameter.numel()))
    grid = torch.linspace(-12, 12, 400)
    points = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        posterior = network(torch.randn(2, dims[0], generator=torch.Generator().manual_seed(0)))
        mass = posterior.log_prob(points[:, None]).exp().sum(dim=0) * (grid[1] - grid[0]) ** 2
    torch.testing.assert_close(mass, torch.ones(2), atol=5e-3, rtol=0)


@pytest.mark.parametrize("covariance_type", ["full", "low_rank"])
def test_correlated_target_is_recovered(covariance_type):
    """q(t | c) = N(A c, S(c)) with a correlation that changes sign with the context."""
    g = torch.Generator().manual_seed(0)

    def draw(count):
        context = torch.randn(count, 1, generator=g)
        noise = torch.randn(count, 2, generator=g)
        second = 0.9 * context.sign() * noise[:, :1] + math.sqrt(1 - 0.81) * noise[:, 1:]
        return context, torch.cat([noise[:, :1], second], dim=1) + context

    criterion = GMJEMDN(
        (1, 2), 2, covariance_type=covariance_type, rank=1, hidden=32, objective="nll", variance_floor=1e-4
    )
    posterior = fit(criterion, draw).density().condition(torch.tensor([[-1.0], [1.0]]))
    covariance = posterior.covariance_matrix
    correlation = covariance[:, 0, 1] / (covariance[:, 0, 0] * covariance[:, 1, 1]).sqrt()
    torch.testing.assert_close(correlation, torch.tensor([-0.9, 0.9]), atol=0.1, rtol=0)
    torch.testing.assert_close(posterior.mean, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), atol=0.15, rtol=0)


def test_both_branches_are_found_and_the_divergence_is_small():
    """t = ± c: the truth's conditional entropy is known, so the excess NLL is the divergence."""
    g = torch.Generator().manual_seed(0)

    def draw(count):
        context = 1 + 2 * torch.rand(count, 1, generator=g)
        sign = torch.randint(2, (count, 1), generator=g) * 2 - 1
        return context, sign * context + 0.1 * torch.randn(count, 1, generator=g)

    criterion = fit(GMJEMDN(1, 2, hidden=32, objective="nll"), draw, steps=600)
    context, target = draw(5000)
    truth = math.log(2) + 0.5 * math.log(2 * math.pi * math.e * 0.01)
    nll = -criterion.density().condition(context).log_prob(target).mean()
    assert nll.item() - truth < 0.05
    posterior = criterion.condition(torch.tensor([[2.0]]))
    assert sorted(round(value, 1) for value in posterior.means.flatten().tolist()) == pytest.approx([-2, 2], abs=0.1)
    assert posterior.weight_entropy.item() == pytest.approx(math.log(2), abs=0.05)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_contrast_is_that_of_the_mean_conditional(covariance_type):
    """Against a loop over the batch, and never more than log B."""
    criterion = GMJEMDN(3, 4, covariance_type=covariance_type, rank=2, hidden=8, context_components=4).double().eval()
    g = torch.Generator().manual_seed(0)
    context, target = torch.randn(2, 10, 3, generator=g, dtype=torch.float64)
    loss = criterion(context, target)
    posterior = criterion.condition(context).detach()
    noise = criterion.channel.variances()[1]
    scores = torch.empty(10, 10, dtype=torch.float64)
    for i in range(10):
        for j in range(10):
            parts = [
                torch.distributions.MultivariateNormal(
                    posterior.means[j, k],
                    posterior.covariance.dense()[j, k] + noise * torch.eye(3, dtype=torch.float64),
                ).log_prob(target[i])
                for k in range(4)
            ]
            scores[i, j] = (torch.stack(parts) + posterior.log_weights[j]).logsumexp(dim=0)
    expected = (scores.diagonal() - scores.logsumexp(dim=1) + math.log(10)).mean()
    assert -loss.item() == pytest.approx(expected.item(), abs=1e-9)
    assert -loss.item() <= math.log(10)


def test_encoder_gradient_leaves_the_network_to_the_likelihood():
    """The network is trained on the NLL alone: the contrast's gradient does not reach it."""
    criterion, context, target = GMJEMDN(2, 2, hidden=8), torch.randn(16, 2), torch.randn(16, 2)
    criterion(context, target).backward()
    actual = [p.grad.clone() for p in criterion.network.parameters()]
    criterion.zero_grad()
    (-criterion.condition(context).log_prob(target).mean()).backward()
    for grad, p in zip(actual, criterion.network.parameters(), strict=True):
        torch.testing.assert_close(grad, p.grad)


class TestConditionalJoint:
    def joint(self):
        context = GaussianMixture.from_moments(torch.ones(2), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1, 1))
        return ConditionalJointMixture(context, MixtureDensityNetwork(1, 2, components=3, hidden=8))

    def test_there_is_no_reverse_conditional(self):
        assert not hasattr(self.joint(), "condition_on_target")

    def test_rows_must_agree(self):
        with pytest.raises(ShapeError, match="same rows"):
            self.joint().log_prob(torch.zeros(3, 1), torch.zeros(4, 2))

    def test_marginal_must_fit_the_network(self):
        with pytest.raises(ShapeError, match=r"event_shape \(1,\)"):
            ConditionalJointMixture(
                GaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None]),
                MixtureDensityNetwork(1, 2),
            )

    @pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,)])
    def test_sample_shapes(self, shape):
        z_context, z_target = self.joint().sample(shape)
        assert z_context.shape == (*shape, 1)
        assert z_target.shape == (*shape, 2)

    def test_density_is_a_copy(self):
        criterion = GMJEMDN(2, 2, hidden=8)
        criterion(torch.randn(16, 2), torch.randn(16, 2))
        density, z = criterion.density(), torch.randn(4, 2)
        before = density.log_prob(z, z)
        for p in criterion.parameters():
            p.data.add_(1.0)
        assert torch.equal(density.log_prob(z, z), before)
