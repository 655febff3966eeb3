"""EM over all rows and over minibatches: bounds, blocks, optima and streams."""

import warnings
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from estimator_cases import FORMS, clusters, estimator, finite, halves, values_of
from scipy import stats
from sklearn.base import clone
from torch.utils._python_dispatch import TorchDispatchMode

from gmje_core.errors import (
    BatchSizeError,
    ConfigError,
    ConvergenceWarning,
    NotPositiveDefiniteError,
    ScaleWarning,
    ShapeError,
)
from gmje_core.estimation import em
from gmje_core.estimator import JointEmbeddingMixture, fitting


class TestEM:
    @pytest.mark.parametrize(("kind", "tied"), FORMS)
    @pytest.mark.parametrize("init_params", ["k-means++", "kmeans", "random_from_data"])
    def test_the_lower_bound_never_falls(self, kind, tied, init_params):
        z = clusters(500, components=4)
        fitted = estimator(kind, tied, n_components=5, init_params=init_params, tol=1e-5, reg_covar=1e-9).fit(*z)
        gains = np.diff(fitted.lower_bounds_)
        assert len(gains) > 3
        assert gains.min() > -1e-9
        assert fitted.converged_
        assert fitted.n_iter_ == len(fitted.lower_bounds_)
        assert fitted.lower_bound_ == fitted.lower_bounds_[-1]
        assert fitted.score(*z) >= fitted.lower_bound_ - 1e-9

    @pytest.mark.parametrize(("kind", "tied"), FORMS)
    def test_blocks_do_not_change_the_result(self, kind, tied, monkeypatch):
        z = clusters(700)
        whole = estimator(kind, tied, max_iter=20, tol=0.0, n_init=2)
        with pytest.warns(ConvergenceWarning, match="did not converge in 20 rounds"):
            whole.fit(*z)
        monkeypatch.setattr(em, "block_rows", lambda components, dim: 64)
        monkeypatch.setattr("gmje_core.estimator.questions.block_rows", lambda components, dim: 17)
        with pytest.warns(ConvergenceWarning):
            parts = estimator(kind, tied, max_iter=20, tol=0.0, n_init=2).fit(*z)
        for a, b in zip(values_of(whole, *z), values_of(parts, *z), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-7)

    @pytest.mark.parametrize("batch_size", [None, 100])
    def test_warnings_point_to_the_line_that_called(self, batch_size):
        z = clusters()
        with pytest.warns(ConvergenceWarning, match="did not converge") as caught:
            estimator(max_iter=1, batch_size=batch_size).fit(*z)
        with pytest.warns(ConvergenceWarning, match="have a row nearest") as few:
            estimator(n_components=3, batch_size=batch_size).fit(*[view[[0, 1] * 9] for view in z])
        with pytest.warns(ScaleWarning) as scale:
            estimator(reg_covar=1e6).partial_fit(*z)
        assert {warning.filename for warning in [*caught, *few, *scale]} == {__file__}

    @pytest.mark.parametrize(("kind", "tied"), FORMS)
    def test_no_tensor_holds_rows_by_components_by_dimensions(self, kind, tied):
        rows, dims, components = 12_000, (16, 16), 12
        largest = 0

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                nonlocal largest
                result = func(*args, **(kwargs or {}))
                for tensor in result if isinstance(result, (tuple, list)) else [result]:
                    if isinstance(tensor, torch.Tensor) and tensor.untyped_storage():
                        largest = max(largest, tensor.untyped_storage().nbytes() // tensor.element_size())
                return result

        z = clusters(rows, dims, components)
        with Watch(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = estimator(kind, tied, components, max_iter=2).fit(*z)
            fitted.score_samples(*z)
        assert 0 < largest < rows * components * sum(dims) / 2

    @pytest.mark.parametrize("kind", ["full", "low_rank", "diag", "spherical"])
    @pytest.mark.parametrize("tied", [False, True])
    def test_an_offset_changes_nothing(self, kind, tied):
        z_context, z_target = clusters(400)
        near = estimator(kind, tied, tol=1e-6).fit(z_context, z_target)
        far = estimator(kind, tied, tol=1e-6).fit(z_context + 1e6, z_target + 1e6)
        assert far.score(z_context + 1e6, z_target + 1e6) == pytest.approx(near.score(z_context, z_target), abs=1e-6)

    def test_more_starts_are_never_worse(self):
        z = clusters(400, components=6, apart=4.0)
        bounds = [
            estimator(n_components=6, n_init=n, init_params="random_from_data").fit(*z).lower_bound_ for n in (1, 3, 8)
        ]
        assert bounds == sorted(bounds)
        assert bounds[-1] > bounds[0]

    def test_low_rank_recovers_its_form(self):
        rng = np.random.default_rng(0)
        factor, noise = rng.normal(size=(8, 2)), 0.1 + rng.random(8)
        z = rng.normal(size=(20_000, 2)) @ factor.T + np.sqrt(noise) * rng.normal(size=(20_000, 8))
        fitted = estimator("low_rank", n_components=1, tol=1e-7).fit(z[:, :3], z[:, 3:])
        np.testing.assert_allclose(fitted.covariances_[0], factor @ factor.T + np.diag(noise), atol=0.1)
        truth = stats.multivariate_normal(np.zeros(8), factor @ factor.T + np.diag(noise)).logpdf(z).mean()
        assert fitted.score(z[:, :3], z[:, 3:]) == pytest.approx(truth, abs=0.002)

    def test_low_rank_of_full_rank_is_full(self):
        z = clusters(500)
        low = estimator("low_rank", rank=5, tol=1e-8, max_iter=1000).fit(*z)
        full = estimator("full", tol=1e-8, max_iter=1000).fit(*z)
        assert low.score(*z) == pytest.approx(full.score(*z), abs=0.01)

    @pytest.mark.parametrize("batch_size", [None, 300])
    def test_low_rank_in_many_dimensions_recovers_its_form(self, batch_size, tmp_path):
        rng = np.random.default_rng(0)
        means, factors = 2 * rng.normal(size=(2, 1, 70)), rng.normal(size=(2, 2, 70))
        parts = [
            m + rng.normal(size=(1500, 2)) @ f + 0.3 * rng.normal(size=(1500, 70))
            for m, f in zip(means, factors, strict=True)
        ]
        z = rng.permutation(np.concatenate(parts))
        z = z[:, :30], z[:, 30:]
        fitted = estimator("low_rank", n_components=2, n_init=2, batch_size=batch_size, tol=1e-3).fit(*z)
        order = np.argsort([np.square(fitted.means_ - m).sum(axis=1).argmin() for m in means])
        for k, factor in zip(order, factors, strict=True):
            wanted = factor.T @ factor + 0.09 * np.eye(70)
            assert np.linalg.norm(fitted.covariances_[k] - wanted) < 0.1 * np.linalg.norm(wanted)
        score = fitted.partial_fit(*z).score(*z)
        fitted.save(tmp_path / "density")
        loaded = JointEmbeddingMixture.load(tmp_path / "density")
        assert loaded.score(*z) == score
        assert loaded.partial_fit(*z).score(*z) == fitted.partial_fit(*z).score(*z)

    @pytest.mark.parametrize(("kind", "tied"), FORMS)
    @pytest.mark.parametrize("target", ["pooled", "isotropic"])
    def test_the_posterior_under_a_prior_never_falls(self, kind, tied, target):
        z = clusters(60, components=4)
        options = {"covariance_prior": 8.0, "covariance_target": target, "tol": 1e-5, "reg_covar": 1e-9}
        fitted = estimator(kind, tied, n_components=4, **options).fit(*z)
        assert np.diff(fitted.lower_bounds_).min() > -1e-7
        assert all(finite(value) for value in values_of(fitted, *z))

    def test_a_strong_pooled_prior_ties_the_covariances(self):
        z = clusters(400)
        strong = estimator("full", covariance_prior=1e9).fit(*z).covariances_
        np.testing.assert_allclose(strong[0], strong[1], rtol=1e-4, atol=1e-6)
        assert np.abs(strong[0] - np.diag(np.diag(strong[0]))).max() > 0.01
        isotropic = estimator("full", covariance_prior=1e9, covariance_target="isotropic").fit(*z).covariances_
        np.testing.assert_allclose(isotropic[0], isotropic[0][0, 0] * np.eye(5), atol=1e-5)

    def test_empty_components_stay_finite(self):
        z = np.repeat([[0.0], [1.0], [5.0]], 30, axis=0)
        for kind, tied in FORMS:
            with pytest.warns(ConvergenceWarning, match="only 3 of 7 components"):
                fitted = estimator(kind, tied, 7, rank=1).fit(z, -z)
            assert all(finite(value) for value in values_of(fitted, z, -z))
            assert (fitted.weights_ > 0).sum() == 3
            assert fitted.weights_.sum() == pytest.approx(1)

    @pytest.mark.parametrize(
        ("kind", "tied", "count"),
        [
            ("full", False, 3 * 15),
            ("full", True, 15),
            ("low_rank", False, 3 * (10 + 5 - 1)),
            ("low_rank", True, 10 + 5 - 1),
            ("diag", False, 3 * 5),
            ("diag", True, 5),
            ("spherical", False, 3),
            ("spherical", True, 1),
        ],
    )
    def test_criteria_count_the_free_parameters(self, kind, tied, count):
        z = clusters(300)
        fitted = estimator(kind, tied).fit(*z)
        parameters = count + 3 * 5 + 2
        deviance = -2 * fitted.score_samples(*z).sum()
        assert fitted.aic(*z) == pytest.approx(deviance + 2 * parameters)
        assert fitted.bic(*z) == pytest.approx(deviance + np.log(300) * parameters)

    def test_bic_finds_the_number_of_components(self):
        z = clusters(1500, components=4, apart=6.0, seed=3)
        bic = {k: estimator(n_components=k, n_init=5).fit(*z).bic(*z) for k in range(1, 8)}
        assert min(bic, key=bic.get) == 4


class TestStreams:
    @pytest.mark.parametrize(("kind", "tied"), FORMS)
    def test_minibatches_reach_what_all_rows_do(self, kind, tied):
        train, test = halves(*clusters(8000))
        means = np.hstack(train)[:3]
        whole = estimator(kind, tied, means_init=means, tol=1e-5, max_iter=500).fit(*train)
        options = {"means_init": whole.means_ + 0.2, "batch_size": 200}
        parts = estimator(kind, tied, tol=1e-3, max_iter=40, **options).fit(*train)
        assert parts.score(*test) > whole.score(*test) - 0.02  # or another optimum that is better
        assert parts.n_samples_seen_ == 4000 * parts.n_iter_
        assert parts.converged_

    def test_minibatches_need_no_good_start(self):
        train, test = halves(*clusters(8000, components=6, apart=6.0))
        whole = estimator(n_components=6, n_init=5).fit(*train)
        parts = estimator(n_components=6, n_init=5, batch_size=256).fit(*train)
        assert parts.score(*test) == pytest.approx(whole.score(*test), abs=0.03)

    def test_a_read_only_memory_map_is_never_read_whole(self, tmp_path, monkeypatch):
        z_context, z_target = clusters(40_000)
        for name, z in (("context", z_context), ("target", z_target)):
            np.save(tmp_path / f"{name}.npy", z.astype(np.float32))
        views = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("context", "target")]
        sizes = []
        read = em.Pairs.rows
        monkeypatch.setattr(em.Pairs, "rows", lambda self, which: sizes.append(len(out := read(self, which))) or out)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            fitted = estimator(batch_size=500, tol=0.01).fit(*views)
        assert max(sizes) < 20_000
        assert fitted.score(*views) == pytest.approx(estimator().fit(z_context, z_target).score(*views), abs=0.05)
        assert fitted.predict(views[0]).dtype == np.float32

    def test_partial_fit_follows_a_stream(self):
        train, test = halves(*clusters(10_000, apart=5.0))
        streamed = estimator()
        for start in range(0, 5000, 100):
            assert streamed.partial_fit(train[0][start : start + 100], train[1][start : start + 100]) is streamed
        assert streamed.n_iter_ == 50
        assert streamed.n_samples_seen_ == 5000
        assert streamed.score(*test) == pytest.approx(estimator(n_init=5).fit(*train).score(*test), abs=0.05)

    def test_partial_fit_refines_a_fit(self):
        train, test = halves(*clusters(8000))
        few = train[0][:60], train[1][:60]
        fitted = estimator(reg_covar=1e-3, n_init=3).fit(*few)
        before = fitted.score(*test)
        for start in range(0, 4000, 200):
            fitted.partial_fit(train[0][start : start + 200], train[1][start : start + 200])
        assert fitted.score(*test) > before + 0.1

    def test_partial_fit_takes_what_it_was_fitted_to(self):
        z = clusters()
        fitted = estimator().fit(*z)
        with pytest.raises(ShapeError, match=r"Z_target must have shape \(N, 3\)"):
            fitted.partial_fit(z[0], z[0])
        for change in ({"n_components": 4}, {"covariance_type": "diag"}, {"tied": True}):
            with pytest.raises(ConfigError, match="call fit to begin anew"):
                clone(fitted).fit(*z).set_params(**change).partial_fit(*z)
        assert fitted.set_params(rank=4).partial_fit(*z).n_iter_ > 1, "the rank of full covariances does not matter"
        with pytest.raises(BatchSizeError, match="2 pairs for n_components=3"):
            estimator().partial_fit(z[0][:2], z[1][:2])

    @pytest.mark.parametrize(("kind", "tied"), FORMS)
    @pytest.mark.parametrize("dims", [(2, 3), (40, 40)])
    def test_an_earlier_density_does_not_change(self, kind, tied, dims):
        z = clusters(200, dims)
        one = estimator(kind, tied).partial_fit(*z)
        density, values = one.density_, [one.weights_, one.means_, one.covariances_]
        rows = torch.from_numpy(np.hstack(z))
        before, copies = density.joint.log_prob(rows), [value.copy() for value in values]
        one.partial_fit(z[0] + 1, z[1] - 1)
        assert torch.equal(density.joint.log_prob(rows), before)
        for value, copy in zip(values, copies, strict=True):
            np.testing.assert_array_equal(value, copy)

    def test_a_batch_that_fails_leaves_no_trace(self, monkeypatch):
        z, more = clusters(200), clusters(200)
        one, two = (estimator().partial_fit(*z) for _ in range(2))
        with monkeypatch.context() as patch:
            patch.setattr(fitting, "_mixture_of_statistics", Mock(side_effect=NotPositiveDefiniteError("no variance")))
            with pytest.raises(NotPositiveDefiniteError):
                one.partial_fit(z[0] + 5, z[1] - 5)
        for fitted in (one, two):
            fitted.partial_fit(*more)
        assert one.score(*z) == two.score(*z)

    @pytest.mark.parametrize("dims", [(2, 3), (40, 40)])
    @pytest.mark.parametrize("batch_size", [None, 100])
    def test_partial_fit_keeps_the_rank(self, dims, batch_size):
        z = clusters(200, dims)
        fitted = estimator("low_rank", max_iter=2, tol=1e9, batch_size=batch_size).fit(*z).set_params(rank=4)
        means = fitted.means_
        with pytest.raises(ConfigError, match=r"rank=2.*rank=4.*call fit to begin anew"):
            fitted.partial_fit(*z)
        assert fitted.means_ is means
        assert fitted.set_params(rank=2).partial_fit(*z).density_.covariance.rank == 2

    @pytest.mark.parametrize(("kind", "tied"), FORMS)
    def test_a_saved_stream_goes_on_bit_equal(self, kind, tied, tmp_path):
        z_context, z_target = clusters(1200)
        batches = [(z_context[i : i + 100], z_target[i : i + 100]) for i in range(0, 1200, 100)]
        one = estimator(kind, tied, n_components=5)
        for batch in batches[:6]:
            one.partial_fit(*batch)
        one.save(tmp_path / "density")
        other = JointEmbeddingMixture.load(tmp_path / "density")
        for batch in batches[6:]:
            one.partial_fit(*batch)
            other.partial_fit(*batch)
        for a, b in zip(values_of(one, *batches[0]), values_of(other, *batches[0]), strict=True):
            np.testing.assert_array_equal(a, b)
