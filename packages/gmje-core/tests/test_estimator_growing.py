"""``fit_gng``: the number of components comes from the data."""

import numpy as np
import pytest
import torch
from estimator_cases import clusters, estimator

from gmje_core.errors import ConfigError, DensityFileError
from gmje_core.estimator import JointEmbeddingMixture
from gmje_core.estimator.density_file import read_density, write_density

GRAPH = ("units_", "edges_", "unit_clusters_")


def grown(options=None, views=None):
    """One that grew a small graph on three clusters."""
    return estimator(**options or {}).fit_gng(*views or clusters(), capacity=12, steps=60)


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
        with pytest.raises(ConfigError, match="fit_gng knows no subspace, but subspace='auto': set it to None"):
            JointEmbeddingMixture(subspace="auto").fit_gng(rows, rows)

    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    def test_the_graph_goes_with_the_next_fit(self, method):
        one = grown()
        assert all(getattr(one, name) is not None for name in GRAPH)
        getattr(one.set_params(n_components=len(one.weights_)), method)(*clusters())
        assert [getattr(one, name) for name in GRAPH] == [None] * 3

    def test_there_is_no_graph_without_growth(self):
        one = estimator().fit(*clusters())
        assert [getattr(one, name) for name in GRAPH] == [None] * 3


class TestSavedGraphs:
    """A graph belongs to the file of its estimator."""

    def test_round_trip_is_bit_equal(self, tmp_path):
        one = grown({"dtype": "float32"})
        one.save(tmp_path / "density")
        other = JointEmbeddingMixture.load(tmp_path / "density")
        for name in GRAPH:
            np.testing.assert_array_equal(getattr(other, name), getattr(one, name))
            assert getattr(other, name).dtype == getattr(one, name).dtype
        np.testing.assert_array_equal(other.score_samples(*clusters()), one.score_samples(*clusters()))

    def test_torch_stays_torch(self, tmp_path):
        one = grown(views=[torch.from_numpy(view) for view in clusters()])
        one.save(tmp_path / "density")
        other = JointEmbeddingMixture.load(tmp_path / "density")
        for name in GRAPH:
            assert torch.equal(getattr(other, name), getattr(one, name))

    def test_a_file_without_a_graph(self, tmp_path):
        estimator().fit(*clusters()).save(tmp_path / "density")
        other = JointEmbeddingMixture.load(tmp_path / "density")
        assert [getattr(other, name) for name in GRAPH] == [None] * 3

    def test_a_graph_without_edges(self, tmp_path):
        path = tmp_path / "density"
        grown().save(path)
        tensors, header = read_density(path)
        write_density(path, tensors | {"graph.edges": tensors["graph.edges"][:0]}, header)
        assert JointEmbeddingMixture.load(path).edges_.shape == (0, 2)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("graph.units"), "'units' is missing"),
            (lambda t: t.pop("graph.clusters"), "'clusters' is missing"),
            (lambda t: t.update({"graph.more": t["graph.units"]}), "unknown tensor of a graph 'more'"),
            (lambda t: t.update({"graph.units": t["graph.units"][:, :2]}), r"units must have shape \(n, 5\)"),
            (lambda t: t.update({"graph.units": t["graph.units"].float()}), "units .*float64"),
            (lambda t: t.update({"graph.units": t["graph.units"] / 0}), "units must be finite"),
            (lambda t: t.update({"graph.edges": t["graph.edges"].mT}), r"edges must have shape \(E, 2\)"),
            (lambda t: t.update({"graph.edges": t["graph.edges"].double()}), "edges .*int64"),
            (lambda t: t.update({"graph.edges": t["graph.edges"] + len(t["graph.units"])}), "edges must lie between"),
            (lambda t: t.update({"graph.clusters": t["graph.clusters"][1:]}), r"clusters must have shape \(\d+,\)"),
            (lambda t: t.update({"graph.clusters": t["graph.clusters"] - 1}), "clusters must lie between"),
        ],
    )
    def test_parts_that_do_not_fit_are_named(self, change, message, tmp_path):
        path = tmp_path / "density"
        grown().save(path)
        tensors, header = read_density(path)
        change(tensors)
        write_density(path, {name: tensor.clone() for name, tensor in tensors.items()}, header)
        with pytest.raises(DensityFileError, match=message):
            JointEmbeddingMixture.load(path)
