"""The option ``subspace`` of the estimator: what it finds, its likelihood, its file, and what it refuses."""

import numpy as np
import pytest
import torch
from test_subspace import angle

from gmje_core.errors import ConfigError
from gmje_core.estimation.pairs import Pairs
from gmje_core.estimator import JointEmbeddingMixture
from gmje_core.estimator.subspace import find_subspace


def ring(rows=3000, noise_dims=5, seed=0):
    """A circle, one coordinate in each view, rotated into dimensions of noise; the plane of the circle."""
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * rng.random(rows)
    frames, views = [], []
    for coordinate in (np.cos(angle), np.sin(angle)):
        frame = np.linalg.qr(rng.normal(size=(noise_dims + 1, noise_dims + 1)))[0]
        signal = coordinate + 0.05 * rng.normal(size=rows)
        views.append(np.column_stack([signal, 0.3 * rng.normal(size=(rows, noise_dims))]) @ frame.T)
        frames.append(frame[:, 0])
    return views, frames


def test_the_plane_of_a_ring_is_found():
    views, frames = ring()
    space = find_subspace(
        Pairs(dict(zip("ct", views, strict=True)), torch.float64),
        1e-6,
        "auto",
        "k-means++",
        torch.Generator().manual_seed(0),
    )
    plane = torch.block_diag(*[torch.from_numpy(frame)[:, None] for frame in frames])
    spanned = torch.linalg.qr(space.factor @ space.axes).Q
    assert space.size == 2
    assert angle(spanned, plane) < 0.1


def test_held_out_pairs_are_likelier_than_without():
    rows, _ = ring(rows=6000)
    views, held_out = [view[:3000] for view in rows], [view[3000:] for view in rows]
    options = {"n_components": 16, "random_state": 0, "max_iter": 60}
    within = JointEmbeddingMixture(**options, subspace="auto").fit(*views)
    without = JointEmbeddingMixture(**options).fit(*views)
    assert within.subspace_ == 2
    assert without.subspace_ is None
    assert within.score(*held_out) > without.score(*held_out) + 0.1
    assert within.bic(*views) < without.bic(*views)
    # The bound of a round is the mean log-density before its update, so the last bound is just below the density's.
    assert 0 <= within.score(*views) - within.lower_bound_ < 0.01


def test_all_directions_are_an_ordinary_mixture():
    views, _ = ring(rows=500, noise_dims=1)
    whole = JointEmbeddingMixture(1, subspace=4, random_state=0, reg_covar=0.0).fit(*views)
    one = JointEmbeddingMixture(1, random_state=0, reg_covar=0.0).fit(*views)
    np.testing.assert_allclose(whole.covariances_, one.covariances_, atol=1e-9)
    assert whole.bic(*views) > one.bic(*views) - 1e-6
    assert whole._fit.subspace == 4


def test_a_file_keeps_the_directions(tmp_path):
    views, _ = ring(rows=500, noise_dims=1)
    fitted = JointEmbeddingMixture(3, subspace=2, random_state=0).fit(*views)
    fitted.save(tmp_path / "density.safetensors")
    loaded = JointEmbeddingMixture.load(tmp_path / "density.safetensors")
    assert loaded.subspace == loaded.subspace_ == 2
    assert loaded.bic(*views) == fitted.bic(*views)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subspace": 5}, r"subspace must lie between 1 and d_c \+ d_t = 4, got 5"),
        ({"subspace": 0}, "subspace"),
        ({"subspace": "some"}, "subspace"),
        ({"subspace": 2, "covariance_type": "diag"}, "subspace=2 needs covariance_type='full', got 'diag'"),
        ({"subspace": "auto", "tied": True}, "subspace='auto' needs tied=False, got True"),
        ({"subspace": 2, "batch_size": 10}, "needs batch_size=None, got 10"),
        ({"subspace": 2, "means_init": [[0.0] * 4]}, "needs means_init=None"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    views, _ = ring(rows=50, noise_dims=1)
    with pytest.raises(ConfigError, match=message):
        JointEmbeddingMixture(1, **options).fit(*views)


def test_no_single_steps():
    views, _ = ring(rows=50, noise_dims=1)
    with pytest.raises(ConfigError, match="partial_fit knows no subspace"):
        JointEmbeddingMixture(1, subspace=2).partial_fit(*views)
