"""``fit_gng``: the number of components comes from the data."""

import numpy as np
import pytest

from gmje_core.errors import ConfigError
from gmje_core.estimator import JointEmbeddingMixture


class TestGrowing:
    """``fit_gng``: the number of components comes from the data."""

    @pytest.mark.parametrize("count", [2, 5])
    def test_number_of_separated_clusters(self, count):
        rng = np.random.default_rng(count)
        centers = 12 * np.stack(
            [np.cos(np.arange(count) * 2 * np.pi / count), np.sin(np.arange(count) * 2 * np.pi / count)], 1
        )
        rows = centers[rng.integers(count, size=2000)] + rng.normal(size=(2000, 2))
        density = JointEmbeddingMixture(random_state=0).fit_gng(rows[:, :1], rows[:, 1:], capacity=32)
        assert len(density.weights_) == count
        assert density.units_.shape[1] == 2
        assert density.unit_clusters_.max() + 1 == count
        assert density.edges_.max() < len(density.units_)
        assert density.n_components == 16, "the option is left as it was"
        assert density.means_init is None
        exact = JointEmbeddingMixture(count, means_init=centers).fit(rows[:, :1], rows[:, 1:])
        assert density.score(rows[:, :1], rows[:, 1:]) == pytest.approx(exact.score(rows[:, :1], rows[:, 1:]), abs=0.01)

    def test_one_connected_shape_takes_several_components(self):
        rng = np.random.default_rng(0)
        angle = 2 * np.pi * rng.random(2000)
        context, target = 5 * np.cos(angle)[:, None], 5 * np.sin(angle)[:, None] + 0.1 * rng.normal(size=(2000, 1))
        density = JointEmbeddingMixture(random_state=0).fit_gng(context, target, capacity=24)
        assert len(density.weights_) > 5

    def test_bad_options(self):
        rows = np.random.default_rng(0).normal(size=(20, 1))
        with pytest.raises(ConfigError, match="capacity must be at least 2"):
            JointEmbeddingMixture().fit_gng(rows, rows, capacity=1)
        with pytest.raises(ConfigError, match="steps"):
            JointEmbeddingMixture().fit_gng(rows, rows, steps=0)
