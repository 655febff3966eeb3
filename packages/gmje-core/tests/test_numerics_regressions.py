"""Mistakes that density code is prone to, one class each; every test here fails when its mistake is put in.

Their common form is a number that looks right: a mean, a loss that falls, a sample of the right shape.
"""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gmje_core.criteria import GJE, GMJE, GMJEGNG, GMJEMDN, GMJESMC
from gmje_core.criteria.smc import effective_sample_size
from gmje_core.densities.covariance import (
    DiagonalCovariance,
    FullCovariance,
    LowRankCovariance,
    SphericalCovariance,
    covariance_from_dense,
)
from gmje_core.densities.joint import JointGaussianMixture
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import JitterWarning
from gmje_core.estimation.learned import LearnedMixture
from gmje_core.estimation.moments import batch_moments
from gmje_core.estimation.online import OnlineMixture
from gmje_core.estimation.seeding import kmeans_plus_plus
from gmje_core.objectives import info_nce_mixture, pmi

TYPES = ["full", "low_rank", "diag", "spherical"]
CRITERIA = {
    "gje": lambda dim: GJE(dim),
    "gje-learned": lambda dim: GJE(dim, covariance="learned"),
    **{f"gmje-{t}": lambda dim, t=t: GMJE(dim, 5, covariance_type=t) for t in ("full", "diag", "spherical")},
    **{
        f"gmje-{t}-gradient": lambda dim, t=t: GMJE(dim, 5, covariance_type=t, update="gradient", rank=2) for t in TYPES
    },
    **{f"mdn-{t}": lambda dim, t=t: GMJEMDN(dim, 3, covariance_type=t, rank=2, hidden=8) for t in TYPES},
    "gng": lambda dim: GMJEGNG(dim, 12, insert_every=64),
    "smc": lambda dim: GMJESMC(dim, 200),
}


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def covariance(kind, components=3, dim=5, scale=1.0):
    """Float64 covariances with variances of about ``scale``, different in every component."""
    sizes = scale * torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)[torch.arange(components) % 3]
    if kind == "spherical":
        return SphericalCovariance(sizes, dim)
    variance = sizes[:, None] * (0.5 + torch.rand(components, dim, dtype=torch.float64))
    if kind == "diag":
        return DiagonalCovariance(variance)
    factor = sizes.sqrt()[:, None, None] * torch.randn(components, dim, 2, dtype=torch.float64)
    if kind == "low_rank":
        return LowRankCovariance(factor, variance)
    return FullCovariance.from_second_moments(factor @ factor.mT + torch.diag_embed(variance))


def mixture_of(kind, components=3, dim=5, scale=1.0):
    means = 2 * math.sqrt(scale) * torch.randn(components, dim, dtype=torch.float64)
    return GaussianMixture(
        torch.randn(components, dtype=torch.float64), means, covariance(kind, components, dim, scale)
    )


def normal_log_prob(x, mean, dense):
    """By the definition: an inverse and a determinant."""
    difference = x - mean
    distance = (difference @ torch.linalg.inv(dense) * difference).sum(dim=-1)
    return -0.5 * (distance + torch.logdet(2 * math.pi * dense))


class TestConditioningInAnyOrder:
    """Not only where the free dimensions come first, or last."""

    GIVEN = tuple(list(p) for n in (1, 2, 3) for p in itertools.permutations(range(4), n))

    @pytest.mark.parametrize("kind", TYPES)
    def test_every_ordered_subset_of_four_dimensions(self, kind):
        mixture = mixture_of(kind, dim=4)
        dense = mixture.covariance.dense()
        x = mixture.sample((3,))
        for given in self.GIVEN:
            free = [i for i in range(4) if i not in given]
            posterior = mixture.condition(given, x[:, given])
            # By the textbook: Schur complements of the dense matrices, component by component.
            gain = dense[:, free][:, :, given] @ torch.linalg.inv(dense[:, given][:, :, given])
            schur = dense[:, free][:, :, free] - gain @ dense[:, given][:, :, free]
            residual = x[:, None, given] - mixture.means[:, given]
            means = mixture.means[:, free] + (gain @ residual.unsqueeze(-1)).squeeze(-1)
            log_weights = mixture.log_weights + torch.stack(
                [
                    normal_log_prob(x[:, given], mean[given], matrix[given][:, given])
                    for mean, matrix in zip(mixture.means, dense, strict=True)
                ],
                dim=1,
            )
            torch.testing.assert_close(posterior.means, means, msg=lambda m, g=given: f"given {g}: {m}")
            torch.testing.assert_close(posterior.covariance.dense(), schur)
            torch.testing.assert_close(posterior.log_weights, log_weights.log_softmax(dim=1))

    @pytest.mark.parametrize("kind", TYPES)
    def test_the_order_of_the_values_is_that_of_the_indices(self, kind):
        mixture = mixture_of(kind)
        x = mixture.sample((4,))
        expected = mixture.condition([0, 2, 4], x[:, [0, 2, 4]])
        for given in itertools.permutations([0, 2, 4]):
            posterior = mixture.condition(given, x[:, list(given)])
            torch.testing.assert_close(posterior.means, expected.means)
            torch.testing.assert_close(posterior.log_weights, expected.log_weights)


class TestJitterReachesEveryPart:
    """Jitter on the precision but not on its factor gives a density whose mass is not one."""

    @pytest.mark.parametrize("condition", [False, True])
    def test_mass_of_a_repaired_covariance_is_one(self, condition):
        row = torch.tensor([[1.0, 2.0, -1.0]])
        singular = (row.mT @ row)[None]
        with pytest.warns(JitterWarning):
            repaired = FullCovariance.from_second_moments(singular)
        mixture = GaussianMixture(torch.zeros(1), torch.zeros(1, 3), repaired)
        if condition:
            mixture = mixture.condition([0], torch.tensor([0.5]))
        assert_mass_is_one(mixture)

    @pytest.mark.parametrize("kind", TYPES)
    def test_mass_behind_noise_is_one(self, kind):
        mixture = mixture_of(kind, components=1, dim=2)
        noisy = mixture.covariance.add_diagonal(torch.tensor([0.3, 0.7]).double())
        expected = mixture.covariance.dense() + torch.diag(torch.tensor([0.3, 0.7]).double())
        torch.testing.assert_close(noisy.dense(), expected)
        assert_mass_is_one(GaussianMixture(mixture.log_weights, mixture.means, noisy))

    @pytest.mark.parametrize("kind", TYPES)
    def test_mass_of_a_network_s_conditional_is_one(self, kind):
        criterion = GMJEMDN((3, 2), 1, covariance_type=kind, rank=1, hidden=8, variance_floor=0.3)
        criterion(torch.randn(64, 3), torch.randn(64, 2) @ torch.tensor([[1.0, 0.9], [0.0, 0.1]]))
        posterior = criterion.condition(torch.randn(1, 3)).detach()
        assert_mass_is_one(
            GaussianMixture(posterior.log_weights[0], posterior.means[0], posterior.covariance.map(lambda t: t[0]))
        )

    def test_the_log_determinant_is_that_of_the_distances(self):
        row = torch.tensor([[1.0, 2.0, -1.0]])
        with pytest.warns(JitterWarning):
            repaired = FullCovariance.from_second_moments(torch.stack([row.mT @ row, torch.eye(3)]))
        whitening = torch.linalg.inv(repaired.scale_tril.double())
        x = torch.randn(20, 3)
        distances = (whitening @ x.double().T).square().sum(dim=1).T
        torch.testing.assert_close(
            repaired.squared_mahalanobis(x, torch.zeros(2, 3)).double(), distances, rtol=1e-3, atol=1e-5
        )
        torch.testing.assert_close(-whitening.logdet(), repaired.half_log_det().double(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(repaired.diagonal()[1], torch.ones(3), rtol=0, atol=0)


def assert_mass_is_one(mixture, points=81):
    """Integrate one Gaussian over a grid in the axes of its own dense covariance."""
    dense = mixture.covariance.dense()[0].double()
    values, vectors = torch.linalg.eigh(dense)
    axis = torch.linspace(-7, 7, points, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(*[axis] * mixture.dim, indexing="ij"), dim=-1).flatten(0, -2)
    x = mixture.means[0].double() + grid * values.sqrt() @ vectors.T
    cell = (axis[1] - axis[0]) ** mixture.dim * values.prod().sqrt()
    mass = float(mixture.to(torch.float64).log_prob(x).exp().sum() * cell)
    assert abs(mass - 1) < 1e-3


class TestVariancesAreVariances:
    """A variance taken for a standard deviation, or a log-variance for a log standard deviation, at the start."""

    @pytest.mark.parametrize("variance", [0.01, 1.0, 25.0])
    @pytest.mark.parametrize("kind", TYPES)
    def test_a_learned_mixture_starts_at_the_variance_it_is_given(self, kind, variance):
        learned = LearnedMixture(4, 3, covariance_type=kind, tied=False, rank=2, variance_floor=1e-6)
        total = (torch.zeros(3).double(), torch.full((3,), 25.0).double())
        learned.start(torch.randn(4, 3), variance, total, batch_size=64)
        got = learned.covariance().diagonal()
        torch.testing.assert_close(got, torch.full((4, 3), variance), rtol=0.03, atol=0)

    @pytest.mark.parametrize("variance", [0.01, 1.0, 25.0])
    @pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
    def test_an_online_mixture_starts_at_the_variance_it_is_given(self, kind, variance):
        online = OnlineMixture(
            4, 3, covariance_type=kind, tied=False, weight_prior=1.0, covariance_prior=2.0, variance_floor=1e-6
        )
        total = (torch.zeros(3).double(), torch.full((3,), 25.0).double())
        online.start(torch.randn(4, 3), variance, total, batch_size=64)
        expected = torch.full((4, 3), variance, dtype=torch.float64)
        torch.testing.assert_close(online.covariance().diagonal(), expected, rtol=0.01, atol=0)

    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
    @pytest.mark.parametrize("kind", TYPES)
    def test_a_network_starts_at_half_the_deviation_of_the_target(self, kind, scale):
        criterion = GMJEMDN(4, 3, covariance_type=kind, rank=2, hidden=8, objective="nll", variance_floor=1e-8)
        z_context, z_target = torch.randn(2, 512, 4)
        criterion(z_context, scale * z_target)
        deviations = criterion.condition(z_context[:50]).covariance.diagonal().sqrt()
        assert 0.4 < (deviations / scale).mean() < 0.6

    @pytest.mark.parametrize("scale", [1e-2, 1e2])
    @pytest.mark.parametrize("name", CRITERIA)
    def test_densities_follow_the_units(self, name, scale):
        draws = [torch.randn(2, 128, 3, dtype=torch.float64) + torch.arange(3) for _ in range(4)]
        densities = []
        for unit in (1.0, scale):
            criterion = CRITERIA[name](3)
            for z_context, z_target in draws:
                criterion(unit * z_context, unit * z_target)
            densities.append(criterion.density())
        z_context, z_target = draws[0]
        jacobian = 6 * math.log(scale)
        torch.testing.assert_close(
            densities[1].log_prob(scale * z_context, scale * z_target) + jacobian,
            densities[0].log_prob(z_context, z_target),
            rtol=1e-3,
            atol=1e-3,
        )


class TestSphericalIsSpherical:
    """Variances repeated and reshaped in the wrong order mix components with dimensions."""

    @pytest.mark.parametrize(("components", "dim"), [(2, 3), (3, 2), (4, 4), (1, 5), (5, 1)])
    def test_every_face_of_the_covariance(self, components, dim):
        variance = torch.arange(1.0, components + 1, dtype=torch.float64)
        spherical = SphericalCovariance(variance, dim)
        eye = torch.eye(dim, dtype=torch.float64)
        expected = torch.stack([v * eye for v in variance])
        assert torch.equal(spherical.dense(), expected)
        assert torch.equal(spherical.diagonal(), torch.stack([torch.full((dim,), v).double() for v in variance]))
        torch.testing.assert_close(spherical.half_log_det(), 0.5 * torch.logdet(expected))
        assert torch.equal(spherical.add_diagonal(torch.ones(dim).double()).dense(), expected + eye)
        assert torch.equal(spherical.marginal([0]).dense(), variance[:, None, None])
        x, means = torch.randn(7, dim, dtype=torch.float64), torch.randn(components, dim, dtype=torch.float64)
        torch.testing.assert_close(
            spherical.squared_mahalanobis(x, means), (x[:, None] - means).square().sum(dim=-1) / variance
        )

    def test_noise_that_differs_by_dimension_is_not(self):
        noise = torch.tensor([1.0, 2.0, 3.0])
        noisy = SphericalCovariance(torch.tensor([10.0, 20.0]), 3).add_diagonal(noise)
        assert noisy.dense().diagonal(dim1=-2, dim2=-1).tolist() == [[11, 12, 13], [21, 22, 23]]

    def test_draws(self):
        spherical = SphericalCovariance(torch.tensor([1.0, 100.0, 1e4]), 2)
        noise = spherical.draw(torch.arange(3).expand(20_000, 3))
        deviations = noise.std(dim=0)
        torch.testing.assert_close(deviations, torch.tensor([[1.0], [10.0], [100.0]]).expand(3, 2), rtol=0.03, atol=0)

    def test_blocks_of_the_contrastive_mixture(self):
        density = info_nce_mixture(torch.randn(4, 3), temperature=0.5, target_scale=0.25)
        torch.testing.assert_close(density.context.covariance.diagonal(), torch.full((1, 3), 0.5))
        torch.testing.assert_close(density.target.covariance.diagonal(), torch.full((1, 3), 0.25))

    @pytest.mark.parametrize("name", ["gmje-spherical", "gmje-spherical-gradient", "gng", "smc"])
    def test_fitted_components(self, name):
        criterion = CRITERIA[name](3)
        for _ in range(5):
            criterion(*(torch.randn(2, 128, 3) * torch.tensor([0.1, 1.0, 10.0])))
        dense = criterion.density().covariance.dense()
        torch.testing.assert_close(dense, dense[:, :1, :1] * torch.eye(6))

    def test_conditionals_of_a_network(self):
        criterion = CRITERIA["mdn-spherical"]((2, 3))
        criterion(torch.randn(64, 2), torch.randn(64, 3) * torch.tensor([0.1, 1.0, 10.0]))
        for parameter in criterion.network.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        dense = criterion.condition(torch.randn(5, 2)).covariance.dense()
        torch.testing.assert_close(dense, dense[..., :1, :1] * torch.eye(3))
        assert dense[:, :, 0, 0].unique().numel() == 15


class TestSeedsAreSpread:
    """k-means++ draws by the distance to the nearest centre; to the farthest, it crowds."""

    def test_distances_are_to_the_nearest_centre(self):
        x = torch.randn(60, 4, dtype=torch.float64)
        index, distances = kmeans_plus_plus(x, 7, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(distances, torch.cdist(x, x[index]).square().min(dim=1).values)

    def test_given_centres_count(self):
        x, centres = torch.randn(60, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
        index, distances = kmeans_plus_plus(x, 3, generator=torch.Generator().manual_seed(0), centers=centres)
        expected = torch.cdist(x, torch.cat([centres, x[index]])).square().min(dim=1).values
        torch.testing.assert_close(distances, expected)

    def test_the_draws_have_the_probabilities_of_the_squared_distances(self):
        x = torch.tensor([[0.0], [1.0], [2.0], [4.0]])
        centres = torch.tensor([[0.0], [100.0]])  # the far one must not matter
        drawn = torch.cat(
            [
                kmeans_plus_plus(x, 1, generator=torch.Generator().manual_seed(seed), centers=centres)[0]
                for seed in range(1500)
            ]
        )
        expected = torch.tensor([0.0, 1.0, 4.0, 16.0]) / 21
        got = drawn.bincount(minlength=4) / len(drawn)
        assert ((got - expected).abs() <= 4 * (expected * (1 - expected) / len(drawn)).sqrt()).all()

    def test_a_far_cluster_is_never_missed(self):
        x = torch.cat([torch.randn(1000, 2), 1e3 + torch.randn(3, 2)])
        for seed in range(20):
            index, _ = kmeans_plus_plus(x, 2, generator=torch.Generator().manual_seed(seed))
            assert (index >= 1000).sum() == 1


class TestSamplesHaveTheStandardDeviation:
    """A variance used as the standard deviation is invisible near one: these are far from it."""

    @pytest.mark.parametrize("scale", [1e-4, 1e4])
    @pytest.mark.parametrize("kind", TYPES)
    def test_mean_squared_distance_is_the_dimension(self, kind, scale):
        mixture = mixture_of(kind, scale=scale)
        for density in (mixture, mixture.condition([1, 3], mixture.sample((1,))[0, [1, 3]])):
            assert_calibrated(density, density.sample((20_000,)))

    @pytest.mark.parametrize("scale", [1e-3, 1e3])
    @pytest.mark.parametrize("name", CRITERIA)
    def test_pairs_of_every_criterion(self, name, scale):
        criterion = CRITERIA[name](3)
        for _ in range(4):
            criterion(*(scale * torch.randn(2, 128, 3)))
        density = criterion.density()
        z_context, z_target = density.sample((4000,))
        assert_calibrated(density.context, z_context)
        posterior = density.condition(z_context)
        distances = posterior.covariance.squared_mahalanobis(z_target, posterior.means)
        assert_mean_is((posterior.responsibilities(z_target) * distances).sum(dim=1), 3)


def assert_calibrated(mixture, x):
    """The mean squared Mahalanobis distance by responsibility is the dimension, within five standard errors."""
    distances = mixture.covariance.squared_mahalanobis(x, mixture.means)
    assert_mean_is((mixture.responsibilities(x) * distances).sum(dim=1), mixture.dim)


def assert_mean_is(values, expected):
    error = abs(float(values.mean()) - expected)
    assert error <= 5 * float(values.std()) / len(values) ** 0.5, f"{float(values.mean())} for {expected}"


class TestMomentsAreCentred:
    """E[x^2] - E[x]^2 in float32 is noise once the mean is a thousand times the deviation."""

    @pytest.mark.parametrize("diagonal", [False, True])
    def test_moments_of_a_float32_batch(self, diagonal):
        x = torch.randn(500, 4) + 3e3
        exact = batch_moments(x.double(), diagonal=diagonal)[2]
        torch.testing.assert_close(batch_moments(x, diagonal=diagonal)[2].double(), exact, rtol=1e-3, atol=1e-3)
        naive = x.square().mean(dim=0) - x.mean(dim=0).square()
        variance = exact if diagonal else exact.diagonal()
        assert (naive.double() - variance).abs().max() > 0.1  # what is avoided

    @pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
    def test_a_running_mixture_of_far_clusters(self, kind):
        online = OnlineMixture(
            2, 3, covariance_type=kind, tied=False, weight_prior=1e-6, covariance_prior=1e-6, variance_floor=1e-16
        )
        centers = torch.tensor([[-3e3], [3e3]]).expand(2, 3)
        index = torch.arange(400) % 2
        batches = [centers[index] + 0.5 * torch.randn(400, 3) for _ in range(20)]
        online.start(centers, 0.25, (batches[0].double().mean(0), batches[0].double().var(0)), 400)
        for step, z in enumerate(batches, start=1):
            online.observe(z, torch.nn.functional.one_hot(index, 2).float(), 1 / step)
        whole = torch.stack(batches).double()
        for k in range(2):
            mine = whole[:, index == k].flatten(0, 1)
            dense = online.covariance().dense()[k]
            expected = covariance_from_dense(mine.T.cov(correction=0)[None], kind).dense()[0]
            torch.testing.assert_close(dense, expected, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("name", CRITERIA)
    def test_densities_do_not_depend_on_the_origin(self, name):
        # A power of two: the float32 embeddings themselves are shifted without rounding their mean away.
        draws = [(torch.randn(2, 128, 3) * 256).round() / 256 for _ in range(4)]
        values = []
        for offset in (0.0, 1024.0):
            criterion = CRITERIA[name](3)
            for z_context, z_target in draws:
                criterion(z_context + offset, z_target + offset)
            z_context, z_target = (z + offset for z in draws[0])
            values.append(criterion.density().log_prob(z_context, z_target))
        torch.testing.assert_close(values[1], values[0], rtol=0, atol=0.02)

    def test_the_bandwidth_of_a_bank_does_not_either(self):
        bandwidths = []
        for offset in (0.0, 1024.0):
            torch.manual_seed(0)
            criterion = GMJESMC(2, 300, covariance_type="full")
            for _ in range(10):
                z = (torch.randn(2, 64, 2) * 256).round() / 256
                criterion(z[0] + offset, z[1] + offset)
            bandwidths.append(criterion.bandwidth.clone())
        torch.testing.assert_close(bandwidths[1], bandwidths[0], rtol=1e-3, atol=1e-4)


class TestEffectiveSampleSizeIsCumulative:
    """Weights that each batch moves a little are nearly equal at every step, and far from it in the end."""

    def test_many_mild_steps_are_noticed(self):
        increments = 0.1 * torch.randn(200, 1000, dtype=torch.float64)
        assert min(effective_sample_size(step) for step in increments) > 950
        cumulative = increments.cumsum(dim=0)[-1]
        assert effective_sample_size(cumulative) < 500
        weights = cumulative.exp() / cumulative.exp().sum()
        torch.testing.assert_close(effective_sample_size(cumulative), 1 / weights.square().sum())

    def test_the_size_does_not_depend_on_the_norm_of_the_weights(self):
        log_weights = torch.randn(50, dtype=torch.float64)
        size = effective_sample_size(log_weights)
        torch.testing.assert_close(effective_sample_size(log_weights + 800), size)
        torch.testing.assert_close(effective_sample_size(log_weights - 800), size)

    def test_a_bank_resamples_where_no_single_step_would(self):
        criterion = GMJESMC(2, 512, weighting=0.05, age_decay=0.0, ess_threshold=0.5)
        for _ in range(8):
            criterion(*torch.randn(2, 64, 2))  # fill the bank
        assert int(criterion.resampled) == 0
        increments = []
        for _ in range(60):
            before = criterion.log_weights.clone()
            where = criterion.born.clone()
            z = 0.2 * torch.randn(2, 8, 2) + 1.0  # from now on one corner only
            criterion(*z)
            if int(criterion.resampled):
                break
            assert effective_sample_size(criterion.log_weights) >= 256
            old = criterion.born == where
            increments.append(effective_sample_size((criterion.log_weights - before)[old]) / old.sum())
        assert int(criterion.resampled) == 1
        assert min(increments) > 0.5  # no step alone came near the threshold


class TestDeadSlots:
    """log_softmax over -inf alone has NaN gradients; a removed component must have none."""

    @pytest.mark.parametrize("kind", TYPES)
    def test_gradients_with_removed_components(self, kind):
        logits = torch.tensor([0.0, -math.inf, -math.inf], dtype=torch.float64, requires_grad=True)
        means = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
        density = JointGaussianMixture(logits, means, covariance(kind), context_dim=2)
        z_context, z_target = (z.requires_grad_() for z in density.sample((6,)))
        for value in (
            density.log_prob(z_context, z_target),
            density.condition(z_context).log_prob(z_target),
            density.condition(z_context).mean,
            density.condition(z_context).weight_entropy,
            pmi(density, z_context, z_target),
            pmi(density, z_context, z_target, weights="batch"),
        ):
            assert value.isfinite().all()
            gradients = torch.autograd.grad(
                value.sum(), [z_context, logits, means], allow_unused=True, retain_graph=True
            )
            assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)

    def test_removed_components_say_nothing(self):
        logits = torch.tensor([0.3, -math.inf, 1.0])
        mixture = mixture_of("full").to(torch.float32)
        some = GaussianMixture(logits, mixture.means, mixture.covariance)
        left = GaussianMixture(logits[[0, 2]], mixture.means[[0, 2]], mixture.covariance.map(lambda t: t[[0, 2]]))
        x = mixture.sample((9,))
        torch.testing.assert_close(some.log_prob(x), left.log_prob(x))
        torch.testing.assert_close(some.weight_entropy, left.weight_entropy)
        torch.testing.assert_close(some.covariance_matrix, left.covariance_matrix)

    @pytest.mark.parametrize("kind", TYPES)
    def test_a_point_that_every_component_gives_no_mass(self, kind):
        mixture = mixture_of(kind).to(torch.float32)
        x = torch.full((1, 5), 1e4, requires_grad=True)
        assert mixture.log_prob(x.detach()).exp() == 0
        value = mixture.log_prob(x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
        assert mixture.responsibilities(x).sum().isclose(torch.ones(()))


class Largest(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


@pytest.mark.parametrize("kind", TYPES)
def test_only_the_component_drawn_is_gathered(kind):
    count, components, dim = 2000, 400, 8
    mixture = mixture_of(kind, components, dim)
    with Largest() as largest:
        mixture.sample((count,))
    assert largest.elements <= max(2 * count * dim**2, components * dim**2)
    assert largest.elements < count * components * dim / 10  # all components, then a choice


@pytest.mark.parametrize("kind", TYPES)
def test_inference_in_float32_at_an_offset(kind):
    mixture = mixture_of(kind, scale=0.1)
    x = mixture.sample((50,))
    density = JointGaussianMixture(mixture.log_weights, mixture.means, mixture.covariance, context_dim=2)
    moved = JointGaussianMixture(
        mixture.log_weights.float(), (mixture.means + 100).float(), mixture.covariance.to(torch.float32), context_dim=2
    )
    truth = density.condition(x[:, :2]).log_prob(x[:, 2:]), density.pmi(x[:, :2], x[:, 2:])
    y = (x + 100).float()
    got = moved.condition(y[:, :2]).log_prob(y[:, 2:]), moved.pmi(y[:, :2], y[:, 2:])
    for expected, value in zip(truth, got, strict=True):
        assert (value.double() - expected).abs().max() < 0.02  # rounding of the embeddings themselves included


@pytest.mark.parametrize("name", CRITERIA)
def test_autocast_changes_no_density(name):
    values = []
    for enabled in (False, True):
        torch.manual_seed(0)
        criterion = CRITERIA[name](3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            for _ in range(3):
                z = torch.randn(2, 64, 3)
                loss = criterion(*z)
            values.append((loss, criterion.density().log_prob(*z)))
    for plain, cast in zip(*values, strict=True):
        assert cast.dtype == torch.float32
        torch.testing.assert_close(cast, plain)
