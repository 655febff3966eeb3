"""Files of the estimator: bit-equal round trips, and a named error for everything that is wrong with a file."""

import os
import pickle

import numpy as np
import pytest
import torch
from estimator_cases import FORMS, clusters, estimator, values_of
from safetensors.torch import save_file

from gmje_core.errors import ConfigError, DensityFileError
from gmje_core.estimator import JointEmbeddingMixture, density_file
from gmje_core.estimator.density_file import read_density, write_density


class TestFiles:
    @pytest.mark.parametrize(("kind", "tied"), FORMS)
    @pytest.mark.parametrize("components", [1, 3])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_round_trip_is_bit_equal(self, kind, tied, components, dtype, tmp_path):
        z = clusters()
        one = estimator(kind, tied, np.int64(components), dtype=dtype, means_init=np.hstack(z)[:components]).fit(*z)
        one.save(tmp_path / "density.safetensors")
        other = JointEmbeddingMixture.load(tmp_path / "density.safetensors")
        for a, b in zip(values_of(one, *z), values_of(other, *z), strict=True):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(one.sample(7), other.sample(7), strict=True):
            np.testing.assert_array_equal(a, b)
        assert other.lower_bounds_ == one.lower_bounds_
        assert (other.converged_, other.n_iter_, other.n_samples_seen_) == (one.converged_, one.n_iter_, 600)
        mine, theirs = one.get_params(), other.get_params()
        np.testing.assert_array_equal(mine.pop("means_init"), theirs.pop("means_init"))
        assert mine == theirs
        np.testing.assert_array_equal(other.fit(*z).means_, one.means_)

    @pytest.mark.parametrize(
        ("options", "dims", "change"),
        [
            ({"kind": "full"}, (2, 3), {"covariance_type": "diag"}),
            ({"kind": "full"}, (2, 3), {"covariance_type": "low_rank", "n_components": 7, "dtype": "float32"}),
            ({"kind": "diag"}, (2, 3), {"covariance_type": "full"}),
            ({"kind": "spherical"}, (2, 3), {"tied": True}),
            ({"kind": "low_rank"}, (2, 3), {"rank": 3}),
            # More than 64 dimensions: statistics hold the factors, unless there are many of them.
            ({"kind": "low_rank"}, (40, 40), {"rank": 4}),
            ({"kind": "low_rank"}, (40, 40), {"rank": 40}),
            ({"kind": "low_rank", "rank": 40}, (40, 40), {"rank": 2}),
            ({"kind": "low_rank"}, (40, 40), {"tied": True}),
        ],
    )
    def test_options_that_changed_after_the_fit(self, options, dims, change, tmp_path):
        z = clusters(200, dims)
        one = estimator(**options, batch_size=100, max_iter=2, tol=1e9).fit(*z)
        before = one.get_params()
        one.set_params(**change).save(tmp_path / "density")
        other = JointEmbeddingMixture.load(tmp_path / "density")
        assert other.get_params() == one.get_params()
        for a, b in zip(values_of(one, *z), values_of(other, *z), strict=True):
            np.testing.assert_array_equal(a, b)
        # With the options of the fit again, the one that was read goes on from the same statistics.
        for fitted in (one, other):
            fitted.set_params(**before).partial_fit(*z)
        np.testing.assert_array_equal(other.means_, one.means_)
        np.testing.assert_array_equal(other.covariances_, one.covariances_)

    def test_torch_stays_torch(self, tmp_path):
        z = [torch.from_numpy(view) for view in clusters()]
        estimator().fit(*z).save(tmp_path / "density")
        loaded = JointEmbeddingMixture.load(tmp_path / "density", device="cpu")
        assert isinstance(loaded.means_, torch.Tensor)
        assert loaded.device == "cpu"
        with pytest.raises(ConfigError, match="cannot be used"):
            JointEmbeddingMixture.load(tmp_path / "density", device="nowhere")

    def test_every_truncation_is_an_error(self, tmp_path):
        path = tmp_path / "density"
        estimator("spherical", n_components=2).fit(*clusters()).save(path)
        content = path.read_bytes()
        for size in [*range(64), *range(64, len(content), 97), len(content) - 1]:
            path.write_bytes(content[:size])
            with pytest.raises(DensityFileError, match="density"):
                JointEmbeddingMixture.load(path)
        path.write_bytes(content + b"more")
        with pytest.raises(DensityFileError):
            JointEmbeddingMixture.load(path)

    def test_any_flipped_bit_that_matters_is_an_error(self, tmp_path):
        z = clusters(50)
        path = tmp_path / "density"
        one = estimator("full", n_components=2).fit(*z)
        one.save(path)
        content = path.read_bytes()
        rng = np.random.default_rng(0)
        refused = 0
        for place in range(0, len(content), 3):
            path.write_bytes(content[:place] + bytes([content[place] ^ (1 << rng.integers(8))]) + content[place + 1 :])
            try:
                other = JointEmbeddingMixture.load(path)
            except DensityFileError:
                refused += 1
            else:
                assert other.get_params() == one.get_params()
                np.testing.assert_array_equal(other.score_samples(*z), one.score_samples(*z))
        assert refused > 0.95 * len(content) / 3

    def test_nothing_is_unpickled(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "sprung"),)

        (tmp_path / "pickled").write_bytes(pickle.dumps(Trap()))
        torch.save({"trap": Trap()}, tmp_path / "saved")
        for name in ("pickled", "saved"):
            with pytest.raises(DensityFileError, match="not a whole safetensors file"):
                JointEmbeddingMixture.load(tmp_path / name)
        assert not (tmp_path / "sprung").exists()

    def test_foreign_files_are_named(self, tmp_path):
        save_file({"weight": torch.ones(3)}, tmp_path / "foreign")
        with pytest.raises(DensityFileError, match="no saved JointEmbeddingMixture"):
            JointEmbeddingMixture.load(tmp_path / "foreign")
        with pytest.raises(FileNotFoundError):
            JointEmbeddingMixture.load(tmp_path / "missing")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t, h: t.update(means=t["means"] * float("nan")), "must be finite"),
            (lambda t, h: t.update(means=t["means"][:1]), "must agree"),
            (lambda t, h: t.update(means=t["means"].int()), "floating point"),
            (lambda t, h: t.update({"covariance.0": -t["covariance.0"]}), "must be positive"),
            (lambda t, h: t.update({"covariance.0": t["covariance.0"].mT}), "lower triangular"),
            (lambda t, h: t.update({"log_weights": t["log_weights"] + 1}), "do not sum to 1"),
            (lambda t, h: t.pop("covariance.0"), "unpack|missing"),
            (lambda t, h: t.update({"covariance.1": t["means"]}), "unpack"),
            (lambda t, h: t.update(extra=t["means"]), "missing"),
            (lambda t, h: t.pop("log_weights"), "'log_weights' is missing"),
            (lambda t, h: t.pop("online.mass"), "mass"),
            (lambda t, h: t.update({"online.mass": t["online.mass"][:1]}), "mass"),
            (lambda t, h: h.pop("params"), "'params' is missing"),
            (lambda t, h: h["params"].update(components=2), "'components'; did you mean 'n_components'"),
            (lambda t, h: h["params"].update(n_components=-2), "n_components must be"),
            (lambda t, h: h["params"].update(tol="x"), "tol must be a number"),
            (lambda t, h: h["fitted"].update(context_dim_=5), "context_dim must lie between"),
            (lambda t, h: h["fitted"].update(context_dim_="2"), "must be an integer"),
            (lambda t, h: h["fitted"].pop("n_iter_"), "'n_iter_' is missing"),
            (lambda t, h: h["fitted"].update(n_samples_seen_=-1), "n_samples_seen_ must be an integer of at least 1"),
            (
                lambda t, h: h["fitted"].update(lower_bounds_=[]),
                "lower_bounds_ must hold the lower bound",
            ),
            (lambda t, h: h["fitted"].update(lower_bounds_=["-1"]), "lower_bounds_ must be a number"),
            (lambda t, h: h.update(kind="jax"), "unknown kind"),
            (lambda t, h: h.update(covariance_type="diag"), "must"),
            (lambda t, h: h.update(tied=True), "tied=True"),
        ],
    )
    def test_parts_that_do_not_fit_are_named(self, change, message, tmp_path):
        path = tmp_path / "density"
        estimator().partial_fit(*clusters()).save(path)
        tensors, header = read_density(path)
        change(tensors, header)
        write_density(path, {name: tensor.clone() for name, tensor in tensors.items()}, header)
        with pytest.raises(DensityFileError, match=message):
            JointEmbeddingMixture.load(path)

    @pytest.mark.parametrize("header", [[], None, 3, "text"])
    def test_headers_that_are_no_object(self, header, tmp_path):
        write_density(tmp_path / "density", {"means": torch.ones(2)}, header)
        with pytest.raises(DensityFileError, match="instead of an object"):
            JointEmbeddingMixture.load(tmp_path / "density")

    def test_a_later_version_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr(density_file, "_VERSION", 3)
        estimator().fit(*clusters()).save(tmp_path / "density")
        monkeypatch.undo()
        with pytest.raises(DensityFileError, match="version '3' of its format, but this library reads version 2"):
            JointEmbeddingMixture.load(tmp_path / "density")

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_an_interrupted_save_leaves_the_old_file(self, call, tmp_path, monkeypatch):
        path = tmp_path / "density"
        estimator().fit(*clusters()).save(path)
        content = path.read_bytes()

        def fail(*args, **kwargs):
            raise OSError("disk full")

        monkeypatch.setattr(os, call, fail)
        with pytest.raises(OSError, match="disk full"):
            estimator("diag").fit(*clusters()).save(path)
        assert path.read_bytes() == content
        assert [file.name for file in tmp_path.iterdir()] == ["density"]
