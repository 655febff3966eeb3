"""The batch's pairs as components beside the learned density: its definition, its limits, and no trap."""

import math

import pytest
import torch
from criterion_cases import pairs, settle
from torch.nn import functional as F

from gmje_core import GJE, GMJE, GMJEGNG, GMJESMC
from gmje_core.densities.covariance import DiagonalCovariance
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.errors import ConfigError, NonFiniteError
from gmje_core.objectives import semiparametric_pmi

NOISE = (torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64))


def views(count=7, dim=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    context = torch.randn(count, dim, generator=g, dtype=torch.float64)
    return context, context + 0.4 * torch.randn(count, dim, generator=g, dtype=torch.float64)


def learned_density(dim=3):
    g = torch.Generator().manual_seed(1)
    means = torch.randn(4, 2 * dim, generator=g, dtype=torch.float64)
    variances = torch.rand(4, 2 * dim, generator=g, dtype=torch.float64) + 0.5
    logits = torch.randn(4, generator=g, dtype=torch.float64)
    return JointGaussianMixture(logits, means, DiagonalCovariance(variances), dim)


def scores(density, context, target):
    return density.context.log_prob(context), density.target.log_prob(target), density.log_prob(context, target)


def kernel(x, mean, variance):
    return torch.distributions.MultivariateNormal(mean, variance * torch.eye(len(x)).double()).log_prob(x).exp()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_is_its_definition(share):
    """Densities written out pair by pair, in the probability domain."""
    context, target = views()
    q_context, q_target, q_pair = (s.exp() for s in scores(learned_density(), context, target))
    expected = []
    for i in range(len(context)):
        others = [z[j] for j in range(len(context)) if j != i for z in (context, target)]
        near_context = sum(kernel(context[i], z, NOISE[0]) for z in others) / len(others)
        near_target = sum(kernel(target[i], z, NOISE[1]) for z in others) / len(others)
        marginal = (share * near_context + (1 - share) * q_context[i]) * (
            share * near_target + (1 - share) * q_target[i]
        )
        forward = share * near_target * kernel(context[i], target[i], NOISE[0]) + (1 - share) * q_pair[i]
        backward = share * near_context * kernel(target[i], context[i], NOISE[1]) + (1 - share) * q_pair[i]
        expected.append(0.5 * (forward * backward / marginal.square()).log())
    found = semiparametric_pmi(context, target, NOISE, share, scores(learned_density(), context, target))
    torch.testing.assert_close(found, torch.stack(expected))


def test_little_share_is_the_pmi_of_the_learned_density():
    context, target = views()
    density = learned_density()
    found = semiparametric_pmi(context, target, NOISE, 1e-12, scores(density, context, target))
    torch.testing.assert_close(found, density.pmi(context, target), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_whole_share_is_nt_xent_without_the_pair_among_its_candidates(temperature):
    z = [F.normalize(view, dim=1) for view in views(9, 4)]
    both = torch.cat(z)
    logits = both @ both.T / temperature
    positive = torch.arange(18).roll(9)
    terms = []
    for i in range(18):
        others = [j for j in range(18) if j not in (i, int(positive[i]))]
        terms.append(logits[i, positive[i]] - logits[i, others].logsumexp(dim=0) + math.log(16))
    noise = (torch.tensor(temperature, dtype=torch.float64),) * 2
    found = semiparametric_pmi(*z, noise, share=1.0).mean()
    torch.testing.assert_close(found, torch.stack(terms).mean())


def test_gradient_is_that_of_the_value_and_reaches_the_others():
    context, target = (z.requires_grad_() for z in views(5, 2))
    density = learned_density(2)

    def value(context, target):
        return semiparametric_pmi(context, target, NOISE, 0.6, scores(density, context, target))

    assert torch.autograd.gradcheck(value, (context, target))
    (gradient,) = torch.autograd.grad(value(context, target)[0], context)
    assert gradient[1:].abs().max() > 1e-4, "candidates are pushed away too"


def test_no_pair_is_part_of_the_marginal_that_scores_it():
    """A pair far from all others: its marginal is as low as they make it, so that its pmi grows with the distance."""
    context, target = views(6, 2)
    values = []
    for distance in (5.0, 10.0):
        context[0] = target[0] = distance
        values.append(float(semiparametric_pmi(context, target, NOISE, share=1.0)[0]))
    assert values[1] > values[0] + 50


def test_the_mean_is_bounded_by_the_energy_of_the_channel():
    """At most B / ((B - 1) tau), however an encoder spreads the embeddings: the noise grows with the energy."""
    for scale in (1e-2, 1.0, 1e2):
        z = scale * torch.randn(64, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        noise = (0.1 * z.square().sum(dim=1).mean(),) * 2
        assert 0 < semiparametric_pmi(z, z, noise, share=1.0).mean() <= 64 / 63 / 0.1


def test_shrinking_around_an_offset_does_not_pay():
    z = F.normalize(torch.randn(128, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    for make in (GJE, lambda d: GMJE(d, 16), lambda d: GMJEGNG(d, 16), lambda d: GMJESMC(d, 256)):
        whole, shrunk = make(8), make(8)
        for _ in range(5):
            as_it_is, around = whole(z, z), shrunk(0.1 * z + 0.5, 0.1 * z + 0.5)
        assert around > as_it_is + 0.5


def test_the_critic_is_the_same_whatever_the_share():
    """The share changes what the encoder is trained by, never what the density learns."""
    one, other = (settle(GMJE(3, 6, batch_share=share)) for share in (0.0, 0.9))
    for key, value in one.critic.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other.critic.state_dict()[key]), key


@pytest.mark.parametrize("make", [GMJE, GMJEGNG, GMJESMC, GJE])
def test_the_critic_matters_where_it_has_a_share(make):
    alone, joined = (settle(make(3, batch_share=share), steps=5).eval() for share in (1.0, 0.5))
    batch = pairs(seed=9)
    assert abs(float(alone(*batch) - joined(*batch))) > 1e-3


def test_memory_does_not_hold_pairs_times_pairs_times_components():
    """The largest tensor of a step has a number for each two views, whatever the number of components."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    largest = 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    largest = max(largest, leaf.numel())
            return result

    batch, components = 512, 64
    criterion = GMJE(8, components)
    z = F.normalize(torch.randn(batch, 8), dim=1).requires_grad_()
    with Largest():
        criterion(z, z).backward()
    assert largest <= (2 * batch) ** 2


def test_bad_input():
    for make in (GMJE, GMJEGNG, GJE):
        with pytest.raises(ConfigError, match=r"batch_share must be 0 for views of sizes \(3, 2\), got 0.5"):
            make((3, 2), batch_share=0.5)
        assert make((3, 2)).batch_share == 0
    with pytest.raises(ConfigError, match="batch_share"):
        GMJE(3, batch_share=1.5)
    with pytest.raises(ConfigError, match="temperature above 0"):
        GJE(3, temperature=0.0)
    with pytest.raises(ConfigError, match="moments='batch' takes no share"):
        GJE(3, moments="batch", batch_share=0.9)


def test_overflow_is_an_error_and_never_a_silent_nan():
    criterion = GMJE(4, 4)
    z = torch.randn(16, 4)
    criterion(z, z)
    with pytest.raises(NonFiniteError):
        criterion(1e25 * z, z)
