"""Mixtures whose components differ in a few directions: identities of the score, the frame and the turn."""

import torch

from gmje_core import GaussianMixture
from gmje_core.densities.covariance import FullCovariance
from gmje_core.estimation.subspace import Subspace, excess_information, mixture_score


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_mixture(components, dim, seed=0):
    g = generator(seed)
    factors = torch.randn(components, dim, dim, generator=g, dtype=torch.float64)
    means = 2 * torch.randn(components, dim, generator=g, dtype=torch.float64)
    covariances = factors @ factors.mT + 0.3 * torch.eye(dim, dtype=torch.float64)
    return GaussianMixture.from_moments(torch.arange(1.0, components + 1).double(), means, covariances)


def random_subspace(dim, size, seed=1):
    g = generator(seed)
    root = torch.randn(dim, dim, generator=g, dtype=torch.float64)
    axes = torch.linalg.qr(torch.randn(dim, size, generator=g, dtype=torch.float64)).Q
    space = Subspace.whole(torch.randn(dim, generator=g, dtype=torch.float64), root @ root.T + torch.eye(dim))
    return Subspace(space.mean, space.factor, axes)


def subspace_data(rows=6000, dim=6, seed=2):
    """Two crossing lines in a random plane of whitened space; its axes."""
    g = generator(seed)
    t = torch.randn(rows, generator=g, dtype=torch.float64)
    sign = torch.randint(2, (rows,), generator=g).double() * 2 - 1
    u = torch.stack([t, sign * t + 0.1 * torch.randn(rows, generator=g, dtype=torch.float64)], 1)
    rest = torch.randn(rows, dim - 2, generator=g, dtype=torch.float64)
    frame = torch.linalg.qr(torch.randn(dim, dim, generator=g, dtype=torch.float64)).Q
    return torch.cat([u, rest], 1) @ frame.T, frame[:, :2]


def angle(a, b):
    """Sine of the largest angle between two subspaces."""
    return float((a - b @ (b.T @ a)).norm(2))


def test_the_score_is_the_gradient_of_the_log_density():
    mixture = random_mixture(4, 3)
    z = torch.randn(50, 3, generator=generator(), dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.log_prob(z).sum(), z)
    torch.testing.assert_close(mixture_score(mixture, z.detach()), gradient)
    tied = GaussianMixture(
        torch.zeros(3), torch.randn(3, 2, generator=generator()), FullCovariance(torch.eye(2)[None] * 0.5)
    )
    rows = (tied.means[:1] + 1).requires_grad_()
    (gradient,) = torch.autograd.grad(tied.log_prob(rows).sum(), rows)
    torch.testing.assert_close(mixture_score(tied, rows.detach()), gradient)


def test_a_lifted_mixture_is_the_change_of_variables():
    space, mixture = random_subspace(5, 2), random_mixture(3, 2)
    z = torch.randn(40, 5, generator=generator(3), dtype=torch.float64)
    u, y = space.coordinates(z), space.whitened(z)
    outside = y.square().sum(dim=1) - u.square().sum(dim=1)
    normal = -0.5 * (outside + 3 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64)))
    expected = mixture.log_prob(u) + normal - space.factor.diagonal().log().sum()
    torch.testing.assert_close(space.lift(mixture).log_prob(z), expected)
    centred = z - space.mean
    value = space.lifted_log_density(float(mixture.log_prob(u).mean()), centred.T @ centred / len(z))
    torch.testing.assert_close(value, float(expected.mean()))


def test_information_is_zero_where_the_density_is_one_gaussian():
    mixture, space = random_mixture(1, 4), random_subspace(4, 4)
    whole = Subspace.whole(mixture.mean, mixture.covariance.dense()[0])
    z = mixture.sample((500,))
    zero = torch.zeros(4, 4).double()
    torch.testing.assert_close(excess_information((mixture, mixture), whole, z.split(200)), zero)
    lifted = random_subspace(4, 1).lift(random_mixture(2, 1))
    whole = Subspace.whole(lifted.mean, lifted.covariance_within + lifted.covariance_between)
    values = torch.linalg.eigvalsh(excess_information((lifted, lifted), whole, [lifted.sample((500,))]))
    assert float(values[-1]) > 0.1
    torch.testing.assert_close(values[:-1], torch.zeros(3).double(), atol=1e-9, rtol=0)
    assert space.size == 4


def test_turns_find_the_plane_of_the_data():
    y, plane = subspace_data()
    space = Subspace(torch.zeros(6).double(), torch.eye(6).double(), plane)
    tilt = 0.03 * torch.randn(6, 2, generator=generator(5), dtype=torch.float64)
    # Tilted out of the plane without a turn within it, which the mixture would not know.
    left, _, right = torch.linalg.svd(plane + tilt - plane @ (plane.T @ tilt), full_matrices=False)
    away = left @ right
    covariances = torch.tensor([[[1.0, 1.0], [1.0, 1.01]], [[1.0, -1.0], [-1.0, 1.01]]]).double()
    mixture = GaussianMixture.from_moments(torch.ones(2), torch.zeros(2, 2).double(), covariances)
    before = angle(away, plane)
    turned = Subspace(space.mean, space.factor, away)
    for _ in range(5):
        turned = turned.turned(mixture, y.split(1000))
    assert before > 0.06
    assert angle(turned.axes, plane) < 0.01
    torch.testing.assert_close(turned.axes.T @ turned.axes, torch.eye(2).double())


def test_narrowing_keeps_the_directions_of_most_information():
    space = random_subspace(3, 3)
    information = space.axes.T @ torch.diag(torch.tensor([0.5, 0.001, 2.0]).double()) @ space.axes
    for narrowed in (space.narrowed(information, 0.1), space.narrowed(information, 0.1, size=2)):
        assert narrowed.size == 2
        assert angle(narrowed.axes, torch.eye(3).double()[:, [0, 2]]) < 1e-9
    assert space.narrowed(0 * information, 0.1).size == 1


def test_views_hold_their_part_of_the_joint_directions():
    g = generator(4)
    frames = [torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q for d in (3, 4)]
    frame = torch.block_diag(*frames)
    # The signal takes one direction of the context and two of the target, whose noise is small and correlated.
    covariance = frame @ torch.diag(torch.tensor([1.0, 0.1, 0.2, 1.0, 2.0, 0.1, 0.3]).double()) @ frame.T
    whole = Subspace.whole(torch.arange(7.0).double(), covariance)
    signal = torch.linalg.qr(torch.linalg.solve_triangular(whole.factor, frame[:, [0, 3, 4]], upper=False)).Q
    context, target = Subspace(whole.mean, whole.factor, signal).views(3)
    assert (context.size, target.size) == (1, 2)
    torch.testing.assert_close(torch.cat([context.mean, target.mean]), whole.mean)
    for space, expected in ((context, frames[0][:, :1]), (target, frames[1][:, :2])):
        assert angle(torch.linalg.qr(space.factor @ space.axes).Q, expected) < 1e-9
