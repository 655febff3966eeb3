"""The estimator against scikit-learn's mixture and float64 oracles, its conventions, its files, and bad inputs."""

import itertools
import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import stats
from sklearn.base import clone
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch.utils._python_dispatch import TorchDispatchMode

from gmje_core.errors import (
    BatchSizeError,
    ConfigError,
    ConvergenceWarning,
    DensityFileError,
    GMJEError,
    InputTypeError,
    NonFiniteError,
    NotFittedError,
    NotPositiveDefiniteError,
    ScaleWarning,
    ShapeError,
)
from gmje_core.estimation import em
from gmje_core.estimator import JointEmbeddingMixture, density_file
from gmje_core.estimator.density_file import read_density, write_density

FORMS = [(kind, tied) for kind in ("full", "low_rank", "diag", "spherical") for tied in (False, True)]
# The forms that scikit-learn has, by its names.
PEERS = {"full": ("full", False), "tied": ("full", True), "diag": ("diag", False), "spherical": ("spherical", False)}


def clusters(rows=600, dims=(2, 3), components=3, seed=0, apart=2.0):
    """Pairs from a random mixture with cross blocks: ``(Z_context, Z_target)``."""
    rng = np.random.default_rng(seed)
    dim = sum(dims)
    means = apart * rng.normal(size=(components, dim))
    factors = rng.normal(size=(components, dim, dim)) / np.sqrt(dim)
    chosen = rng.integers(components, size=rows)
    z = means[chosen] + np.einsum("nij,nj->ni", factors[chosen], rng.normal(size=(rows, dim)))
    return z[:, : dims[0]], z[:, dims[0] :]


def halves(z_context, z_target):
    """The first and the second half of the pairs."""
    middle = len(z_context) // 2
    return (z_context[:middle], z_target[:middle]), (z_context[middle:], z_target[middle:])


def same_start(peer, z, components):
    """The parameters that make scikit-learn and the estimator start alike."""
    dim = z.shape[1]
    precisions = {
        "full": np.broadcast_to(np.eye(dim), (components, dim, dim)),
        "tied": np.eye(dim),
        "diag": np.ones((components, dim)),
        "spherical": np.ones(components),
    }[peer]
    weights = np.arange(1.0, components + 1)
    return {
        "weights_init": weights / weights.sum(),
        "means_init": z[:components].copy(),
        "precisions_init": precisions.copy(),
    }


def estimator(kind="full", tied=False, components=3, **options):
    """A quick seeded one."""
    options = {"rank": 2, "random_state": 0, "max_iter": 200} | options
    return JointEmbeddingMixture(components, kind, tied=tied, **options)


def values_of(fitted, z_context, z_target):
    """Everything that a fitted estimator says of pairs."""
    return [
        fitted.score_samples(z_context, z_target),
        fitted.predict(z_context),
        fitted.responsibilities(z_context, z_target),
        fitted.weights_,
        fitted.means_,
        fitted.covariances_,
    ]


def finite(value):
    return bool(torch.isfinite(torch.as_tensor(value, dtype=torch.float64)).all())


@pytest.mark.parametrize("dims", [(1, 1), (2, 3), (9, 7)])
@pytest.mark.parametrize("components", [1, 3, 6])
@pytest.mark.parametrize("peer", PEERS)
class TestScikitLearn:
    def test_same_start_gives_the_same_fit(self, peer, components, dims):
        kind, tied = PEERS[peer]
        train, test = halves(*clusters(800, dims, components))
        z, held_out = np.hstack(train), np.hstack(test)
        options = same_start(peer, z, components) | {"max_iter": 60, "tol": 1e-4, "reg_covar": 1e-5}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = SklearnMixture(components, covariance_type=peer, **options).fit(z)
            ours = JointEmbeddingMixture(components, kind, tied=tied, **options).fit(*train)
        assert ours.n_iter_ == theirs.n_iter_
        assert ours.converged_ == theirs.converged_
        assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, abs=1e-8)
        np.testing.assert_allclose(ours.weights_, theirs.weights_, atol=1e-7)
        np.testing.assert_allclose(ours.means_, theirs.means_, atol=1e-6)
        assert ours.covariances_.shape == theirs.covariances_.shape
        np.testing.assert_allclose(ours.covariances_, theirs.covariances_, atol=1e-6)
        np.testing.assert_allclose(ours.score_samples(*test), theirs.score_samples(held_out), atol=1e-5)
        np.testing.assert_allclose(ours.responsibilities(*test), theirs.predict_proba(held_out), atol=1e-5)
        assert ours.score(*test) == pytest.approx(theirs.score(held_out), abs=1e-7)
        assert ours.bic(*test) == pytest.approx(theirs.bic(held_out), rel=1e-8)
        assert ours.aic(*test) == pytest.approx(theirs.aic(held_out), rel=1e-8)

    def test_same_means_give_the_same_optimum(self, peer, components, dims):
        kind, tied = PEERS[peer]
        train, test = halves(*clusters(800, dims, components, apart=8.0))
        z = np.hstack(train)
        means = SklearnMixture(components, random_state=0, n_init=3).fit(z).means_ + 0.1
        options = {"means_init": means, "max_iter": 300, "tol": 1e-9}
        theirs = SklearnMixture(components, covariance_type=peer, random_state=0, **options).fit(z)
        ours = JointEmbeddingMixture(components, kind, tied=tied, **options).fit(*train)
        assert ours.score(*test) == pytest.approx(theirs.score(np.hstack(test)), abs=0.01)


class TestEM:
    @pytest.mark.parametrize(("kind", "tied"), FORMS)
    @pytest.mark.parametrize("init", ["kmeans++", "kmeans", "random"])
    def test_the_lower_bound_never_falls(self, kind, tied, init):
        z = clusters(500, components=4)
        fitted = estimator(kind, tied, components=5, init=init, tol=1e-5, reg_covar=1e-9).fit(*z)
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
        monkeypatch.setattr("gmje_core.estimator.estimator.block_rows", lambda components, dim: 17)
        with pytest.warns(ConvergenceWarning):
            parts = estimator(kind, tied, max_iter=20, tol=0.0, n_init=2).fit(*z)
        for a, b in zip(values_of(whole, *z), values_of(parts, *z), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-7)

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
        bounds = [estimator(components=6, n_init=n, init="random").fit(*z).lower_bound_ for n in (1, 3, 8)]
        assert bounds == sorted(bounds)
        assert bounds[-1] > bounds[0]

    def test_low_rank_recovers_its_form(self):
        rng = np.random.default_rng(0)
        factor, noise = rng.normal(size=(8, 2)), 0.1 + rng.random(8)
        z = rng.normal(size=(20_000, 2)) @ factor.T + np.sqrt(noise) * rng.normal(size=(20_000, 8))
        fitted = estimator("low_rank", components=1, tol=1e-7).fit(z[:, :3], z[:, 3:])
        np.testing.assert_allclose(fitted.covariances_[0], factor @ factor.T + np.diag(noise), atol=0.1)
        truth = stats.multivariate_normal(np.zeros(8), factor @ factor.T + np.diag(noise)).logpdf(z).mean()
        assert fitted.score(z[:, :3], z[:, 3:]) == pytest.approx(truth, abs=0.002)

    def test_low_rank_of_full_rank_is_full(self):
        z = clusters(500)
        low = estimator("low_rank", rank=5, tol=1e-8, max_iter=1000).fit(*z)
        full = estimator("full", tol=1e-8, max_iter=1000).fit(*z)
        assert low.score(*z) == pytest.approx(full.score(*z), abs=0.01)

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
        bic = {k: estimator(components=k, n_init=5).fit(*z).bic(*z) for k in range(1, 8)}
        assert min(bic, key=bic.get) == 4


class TestInference:
    @pytest.mark.parametrize("kind", ["full", "low_rank", "diag", "spherical"])
    @pytest.mark.parametrize("tied", [False, True])
    def test_conditioning_is_right_for_any_subset_in_any_order(self, kind, tied):
        z = np.hstack(clusters(400, (2, 2)))
        fitted = estimator(kind, tied).fit(z[:, :2], z[:, 2:])
        weights, means = fitted.weights_, fitted.means_
        dense = fitted.density_.covariance.dense().expand(3, 4, 4).numpy()
        point = z[7]
        for size in (1, 2, 3):
            for given in map(list, itertools.permutations(range(4), size)):
                free = [i for i in range(4) if i not in given]
                posterior = fitted.density_.joint.condition(given, torch.from_numpy(point[given]))
                evidence = np.array(
                    [
                        stats.multivariate_normal(m[given], c[np.ix_(given, given)]).pdf(point[given])
                        for m, c in zip(means, dense, strict=True)
                    ]
                )
                np.testing.assert_allclose(posterior.weights, weights * evidence / (weights @ evidence), atol=1e-9)
                for k in range(3):
                    gain = dense[k][np.ix_(free, given)] @ np.linalg.inv(dense[k][np.ix_(given, given)])
                    mean = means[k][free] + gain @ (point - means[k])[given]
                    schur = dense[k][np.ix_(free, free)] - gain @ dense[k][np.ix_(given, free)]
                    np.testing.assert_allclose(posterior.means[k], mean, atol=1e-8)
                    found = posterior.covariance.dense()[0 if posterior.covariance.tied else k]
                    np.testing.assert_allclose(found, schur, atol=1e-8)

    def test_prediction_with_one_component_is_least_squares(self):
        z_context, z_target = clusters(300)
        fitted = estimator(components=1, reg_covar=0.0).fit(z_context, z_target)
        design = np.hstack([z_context, np.ones((300, 1))])
        solution = np.linalg.lstsq(design, z_target, rcond=None)[0]
        np.testing.assert_allclose(fitted.predict(z_context), design @ solution, atol=1e-9)

    @pytest.mark.parametrize(("kind", "tied"), FORMS)
    def test_conditional_is_joint_less_marginal(self, kind, tied):
        z_context, z_target = clusters(200)
        fitted = estimator(kind, tied).fit(z_context, z_target)
        posterior = fitted.predict_distribution(z_context)
        context, target = torch.from_numpy(z_context), torch.from_numpy(z_target)
        marginal = fitted.density_.context.log_prob(context)
        np.testing.assert_allclose(
            posterior.log_prob(target), fitted.score_samples(z_context, z_target) - marginal.numpy(), atol=1e-9
        )
        np.testing.assert_allclose(posterior.mean, fitted.predict(z_context), atol=1e-12)
        assert fitted.score(z_context, z_target) == pytest.approx(fitted.score_samples(z_context, z_target).mean())
        np.testing.assert_allclose(fitted.responsibilities(z_context, z_target).sum(axis=1), 1)

    def test_samples_have_the_density(self):
        z = clusters(500)
        fitted = estimator().fit(*z)
        drawn = np.hstack(fitted.sample(40_000))
        joint = fitted.density_.joint
        np.testing.assert_allclose(drawn.mean(axis=0), joint.mean, atol=0.06)
        np.testing.assert_allclose(np.cov(drawn.T), joint.covariance_matrix, atol=0.15)
        refit = fitted.score(drawn[:, :2], drawn[:, 2:])
        assert refit == pytest.approx(fitted.score(*fitted.sample(40_000, random_state=9)), abs=0.03)

    def test_sampling_is_seeded_and_leaves_torch_alone(self):
        fitted = estimator().fit(*clusters())
        before = torch.get_rng_state()
        first, again, other = fitted.sample(5), fitted.sample(5), fitted.sample(5, random_state=1)
        assert torch.equal(torch.get_rng_state(), before)
        np.testing.assert_array_equal(first[1], again[1])
        assert not np.array_equal(first[1], other[1])
        free = fitted.set_params(random_state=None)
        assert not np.array_equal(free.sample(5)[0], free.sample(5)[0])
        with pytest.raises(ConfigError, match="n_samples must be an integer of at least 1"):
            fitted.sample(0)


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
        whole = estimator(components=6, n_init=5).fit(*train)
        parts = estimator(components=6, n_init=5, batch_size=256).fit(*train)
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
        for change in ({"components": 4}, {"covariance_type": "diag"}, {"tied": True}):
            with pytest.raises(ConfigError, match="call fit to begin anew"):
                clone(fitted).fit(*z).set_params(**change).partial_fit(*z)
        with pytest.raises(BatchSizeError, match="2 pairs for components=3"):
            estimator().partial_fit(z[0][:2], z[1][:2])

    @pytest.mark.parametrize(("kind", "tied"), FORMS)
    def test_a_saved_stream_goes_on_bit_equal(self, kind, tied, tmp_path):
        z_context, z_target = clusters(1200)
        batches = [(z_context[i : i + 100], z_target[i : i + 100]) for i in range(0, 1200, 100)]
        one = estimator(kind, tied, components=5)
        for batch in batches[:6]:
            one.partial_fit(*batch)
        one.save(tmp_path / "density")
        other = JointEmbeddingMixture.load(tmp_path / "density")
        for batch in batches[6:]:
            one.partial_fit(*batch)
            other.partial_fit(*batch)
        for a, b in zip(values_of(one, *batches[0]), values_of(other, *batches[0]), strict=True):
            np.testing.assert_array_equal(a, b)


class TestConventions:
    def test_clone_and_params(self):
        options = {"components": 3, "tied": True, "means_init": np.zeros((3, 5)), "dtype": torch.float32}
        original = JointEmbeddingMixture(**options)
        copy = clone(original)
        assert copy is not original
        assert original.get_params()["means_init"] is options["means_init"]
        np.testing.assert_array_equal(copy.get_params()["means_init"], options["means_init"])
        assert copy.get_params()["dtype"] is torch.float32
        assert copy.set_params(components=7).components == 7
        assert original.components == 3
        fitted = original.set_params(means_init=None).fit(*clusters())
        assert not hasattr(clone(fitted), "density_")
        with pytest.raises(ConfigError, match="unknown option 'component'; did you mean 'components'"):
            copy.set_params(component=2)

    def test_construction_checks_nothing(self):
        odd = JointEmbeddingMixture(components="many", reg_covar=object)
        assert odd.components == "many"
        assert repr(JointEmbeddingMixture(3, "diag", tied=True)) == (
            "JointEmbeddingMixture(components=3, covariance_type='diag', tied=True)"
        )

    def test_works_in_scikit_learns_tools(self):
        z_context, z_target = clusters(300, components=2, apart=6.0)
        with pytest.raises(Exception, match="not fitted"):
            check_is_fitted(estimator())
        check_is_fitted(estimator().fit(z_context, z_target))
        pipeline = make_pipeline(StandardScaler(), estimator(components=2)).fit(z_context, z_target)
        assert pipeline.predict(z_context).shape == z_target.shape
        scaled = StandardScaler().fit_transform(z_context)
        assert pipeline.score(z_context, z_target) == estimator(components=2).fit(scaled, z_target).score(
            scaled, z_target
        )
        search = GridSearchCV(estimator(n_init=3), {"components": np.arange(1, 4)}, cv=3).fit(z_context, z_target)
        assert search.best_params_["components"] == 2
        assert cross_val_score(estimator(), z_context, z_target, cv=3).shape == (3,)

    @pytest.mark.parametrize("batch_size", [None, 100])
    def test_random_state_decides_everything(self, batch_size):
        z = clusters(400, components=8)
        fits = [estimator(components=8, random_state=s, batch_size=batch_size).fit(*z) for s in (1, 1, 2)]
        np.testing.assert_array_equal(fits[0].means_, fits[1].means_)
        assert not np.array_equal(fits[0].means_, fits[2].means_)
        torch.manual_seed(5)
        first = estimator(components=8, random_state=None).fit(*z).means_
        second = estimator(components=8, random_state=None).fit(*z).means_
        torch.manual_seed(5)
        np.testing.assert_array_equal(estimator(components=8, random_state=None).fit(*z).means_, first)
        assert not np.array_equal(first, second)

    def test_seeded_fit_leaves_torch_alone(self):
        before = torch.get_rng_state()
        estimator(batch_size=100).fit(*clusters())
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("call", ["score", "score_samples", "responsibilities", "bic", "aic", "predict", "save"])
    def test_not_fitted(self, call, tmp_path):
        z = {"predict": ([[0.0]],), "save": (tmp_path / "density",)}.get(call, ([[0.0]], [[0.0]]))
        with pytest.raises(NotFittedError, match="call fit or partial_fit first"):
            getattr(JointEmbeddingMixture(), call)(*z)
        with pytest.raises(NotFittedError):
            JointEmbeddingMixture().sample()

    def test_a_failed_fit_leaves_the_last_one(self):
        z = clusters()
        fitted = estimator().fit(*z)
        score = fitted.score(*z)
        with pytest.raises(NonFiniteError):
            fitted.fit(z[0], np.full_like(z[1], np.nan))
        assert fitted.score(*z) == score

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64])
    def test_numpy_in_numpy_out(self, dtype):
        z = [(4 * view).astype(dtype) for view in clusters()]
        fitted = estimator().fit(*z)
        wanted = np.float32 if dtype in (np.float16, np.float32) else np.float64
        for value in (fitted.score_samples(*z), fitted.predict(z[0]), fitted.responsibilities(*z)):
            assert isinstance(value, np.ndarray)
            assert value.dtype == wanted
        for value in (*fitted.sample(2), fitted.weights_, fitted.means_, fitted.covariances_):
            assert isinstance(value, np.ndarray)
        assert isinstance(fitted.predict(torch.tensor(z[0])), torch.Tensor)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
    def test_torch_in_torch_out(self, dtype):
        z = [torch.from_numpy(view).to(dtype).requires_grad_() for view in clusters()]
        fitted = estimator(dtype="float32").fit(*z)
        assert fitted.density_.dtype == torch.float32
        for value in (fitted.score_samples(*z), fitted.predict(z[0]), fitted.responsibilities(*z)):
            assert isinstance(value, torch.Tensor)
            assert value.dtype == torch.promote_types(dtype, torch.float32)
            assert not value.requires_grad
        for value in (*fitted.sample(2), fitted.weights_, fitted.means_, fitted.covariances_):
            assert isinstance(value, torch.Tensor)
        assert z[0].requires_grad

    def test_lists_serve(self):
        z_context, z_target = clusters(50)
        fitted = estimator().fit(z_context.tolist(), z_target.tolist())
        np.testing.assert_array_equal(fitted.means_, estimator().fit(z_context, z_target).means_)

    def test_single_precision_is_close(self):
        z = clusters(2000)
        assert estimator(dtype="float32").fit(*z).score(*z) == pytest.approx(estimator().fit(*z).score(*z), abs=1e-3)

    def test_autocast_and_default_dtype_change_nothing(self):
        z = clusters()
        wanted = estimator().fit(*z).means_
        with torch.autocast("cpu", dtype=torch.bfloat16):
            np.testing.assert_array_equal(estimator().fit(*z).means_, wanted)


OPTIONS = [
    ({"components": 0}, "components must be an integer of at least 1, got 0"),
    ({"components": 2.0}, "components must be an integer, got 2.0"),
    ({"covariance_type": "ful"}, "did you mean 'full'"),
    ({"tied": "yes"}, "tied must be True or False"),
    ({"rank": 9, "covariance_type": "low_rank"}, r"rank must lie between 1 and d_c \+ d_t = 5, got 9"),
    ({"reg_covar": -1.0}, "reg_covar must be finite and at least 0"),
    ({"reg_covar": float("nan")}, "reg_covar must be finite"),
    ({"tol": "small"}, "tol must be a number"),
    ({"max_iter": 0}, "max_iter must be"),
    ({"n_init": None}, "n_init must be an integer"),
    ({"init": "kmean"}, "unknown init 'kmean'; did you mean 'kmeans'"),
    ({"batch_size": 0}, "batch_size must be"),
    ({"random_state": -1}, "random_state must lie between 0"),
    ({"random_state": np.random.default_rng(0)}, "random_state .* must be an integer"),
    ({"device": "gpu"}, "device 'gpu' cannot be used"),
    ({"dtype": "float16"}, "unknown dtype 'float16'; did you mean"),
    ({"dtype": None}, "unknown dtype"),
    ({"means_init": np.zeros((2, 5))}, r"means_init must have shape \(3, 5\), but has \(2, 5\)"),
    ({"means_init": "start"}, "means_init must be an array of numbers"),
    ({"means_init": np.full((3, 5), np.nan)}, "means_init must be finite"),
    ({"weights_init": [0.5, 0.6, -0.1]}, "weights_init must not be negative"),
    ({"weights_init": [0.5, 0.5, 0.5]}, "sum to 1"),
    ({"precisions_init": np.zeros((3, 5, 5))}, "precisions_init must have positive diagonals"),
    (
        {"precisions_init": np.ones((3, 5, 5)) - 0.5 * np.eye(5)},
        "precisions_init of component 0 is not positive definite",
    ),
    ({"precisions_init": np.triu(np.ones((3, 5, 5)))}, "symmetric"),
    ({"precisions_init": -np.ones((3, 5)), "covariance_type": "diag"}, "precisions_init must be positive"),
]


@pytest.mark.parametrize(
    ("options", "message"), OPTIONS, ids=[str(list(o)[-1]) + str(i) for i, (o, _) in enumerate(OPTIONS)]
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_options_are_checked_when_fitting(options, message, method):
    with pytest.raises(GMJEError, match=message):
        getattr(JointEmbeddingMixture(**{"components": 3} | options), method)(*clusters(100))


def spoiled(kind, rows=30):
    """A view with something wrong or odd in it."""
    z = np.random.default_rng(1).normal(size=(rows, 2))
    if kind in ("nan", "inf"):
        z[7, 1] = {"nan": np.nan, "inf": -np.inf}[kind]
    make = {
        "vector": lambda: z[:, 0],
        "cube": lambda: z[None],
        "scalar": lambda: 1.0,
        "none": lambda: None,
        "empty": lambda: z[:0],
        "no columns": lambda: z[:, :0],
        "object": lambda: z.astype(object),
        "text": lambda: z.astype(str),
        "complex": lambda: z.astype(complex),
        "ragged": lambda: [[1.0, 2.0], [3.0]],
        "masked": lambda: np.ma.masked_array(z),
        "sparse": lambda: torch.from_numpy(z).to_sparse(),
        "complex tensor": lambda: torch.from_numpy(z).to(torch.complex64),
        "too many": lambda: np.vstack([z, z]),
        "few": lambda: z[:2],
        "overflow": lambda: z * 1e200,
        "constant": lambda: np.full_like(z, 3.0),
        "constant column": lambda: z * [1.0, 0.0] + 1e8,
        "duplicates": lambda: np.repeat(z[:3], rows // 3, axis=0),
        "equal columns": lambda: z[:, [0, 0]],
        "huge": lambda: z * 1e8,
        "tiny": lambda: z * 1e-8,
        "integers": lambda: (5 * z).astype(int),
        "bytes": lambda: np.abs(5 * z).astype(np.uint8),
        "booleans": lambda: z > 0,
        "outlier": lambda: np.vstack([z[1:], [[1e6, -1e6]]]),
    }
    return make.get(kind, lambda: z)()


REFUSED = {
    "nan": (NonFiniteError, "must be finite in torch.float64, but holds nan in row 7"),
    "inf": (NonFiniteError, "holds -inf in row 7"),
    "vector": (ShapeError, r"must have shape \(N, d\) .* but has \(30,\); reshape\(-1, 1\)"),
    "cube": (ShapeError, r"but has \(1, 30, 2\)"),
    "scalar": (ShapeError, r"but has \(\)"),
    "none": (InputTypeError, "must hold real numbers, but is NoneType"),
    "empty": (ShapeError, "at least one row"),
    "no columns": (ShapeError, "one column"),
    "object": (InputTypeError, "dtype object: convert it first"),
    "text": (InputTypeError, "must hold real numbers"),
    "complex": (InputTypeError, "must hold real numbers, but is ndarray of dtype complex128"),
    "ragged": (InputTypeError, "NumPy cannot read it"),
    "masked": (InputTypeError, "masked array"),
    "sparse": (InputTypeError, "must be a dense tensor"),
    "complex tensor": (InputTypeError, "must be a dense tensor of real numbers"),
    "too many": (ShapeError, "same number of rows, one pair each, but hold"),
    "overflow": (NonFiniteError, "beyond what float64 can represent"),
}
SERVED = ["constant", "constant column", "duplicates", "equal columns", "huge", "tiny", "integers", "bytes", "booleans"]


@pytest.mark.parametrize("batch_size", [None, 10])
@pytest.mark.parametrize("place", [0, 1])
class TestInputs:
    @pytest.mark.parametrize("kind", REFUSED)
    def test_refused_with_a_reason(self, kind, place, batch_size):
        error, message = REFUSED[kind]
        views = [spoiled("fine"), spoiled("fine")]
        views[place] = spoiled(kind)
        with pytest.raises(error, match=message) as caught:
            estimator(batch_size=batch_size).fit(*views)
        assert isinstance(caught.value, GMJEError)
        if kind not in ("too many", "overflow"):
            assert ("Z_context", "Z_target")[place] in str(caught.value)

    @pytest.mark.parametrize("kind", ["nan", "vector", "none", "text", "ragged"])
    def test_refused_when_asked(self, kind, place, batch_size):
        views = [spoiled("fine"), spoiled("fine")]
        fitted = estimator(batch_size=batch_size).fit(*views)
        views[place] = spoiled(kind)
        error, message = REFUSED[kind]
        with pytest.raises(error, match=message):
            fitted.score_samples(*views)
        with pytest.raises(ShapeError, match=r"Z_context must have shape \(N, 2\) as when fitted, but has 3 columns"):
            fitted.predict(np.zeros((4, 3)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("batch_size", [None, 10])
@pytest.mark.parametrize("kind", [*SERVED, "outlier"])
@pytest.mark.parametrize(("form", "tied"), FORMS)
def test_odd_embeddings_are_served_with_finite_numbers(kind, form, tied, batch_size):
    views = [spoiled("fine"), spoiled("fine")]
    views[len(kind) % 2] = spoiled(kind)
    fitted = estimator(form, tied, batch_size=batch_size, max_iter=5).fit(*views)
    assert all(finite(value) for value in values_of(fitted, *views))
    assert np.isfinite([fitted.bic(*views), fitted.aic(*views), fitted.lower_bound_]).all()
    assert all(finite(view) for view in fitted.sample(10))
    assert (fitted.density_.covariance.diagonal() > 0).all()


def test_too_few_rows():
    z = spoiled("fine")
    with pytest.raises(BatchSizeError, match="30 pairs for components=31"):
        estimator(components=31).fit(z, z)
    with pytest.raises(BatchSizeError, match="there are 1 pairs"):
        estimator(components=1).fit(z[:1], z[:1])
    with pytest.warns(ConvergenceWarning):
        fitted = estimator(components=30, max_iter=1).fit(z, z**2)
    assert all(finite(value) for value in values_of(fitted, z, z))


def test_no_ridge_on_singular_embeddings_is_an_error():
    z = spoiled("constant")
    for kind, tied in FORMS:
        with pytest.raises(NotPositiveDefiniteError):
            estimator(kind, tied, components=1, reg_covar=0.0).fit(z, z)


def test_a_ridge_above_the_variance_warns():
    z_context, z_target = clusters()
    with pytest.warns(ScaleWarning, match="scale the embeddings, or lower reg_covar"):
        estimator().fit(1e-8 * z_context, 1e-8 * z_target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = estimator(reg_covar=1e-22).fit(1e-8 * z_context, 1e-8 * z_target)
    scaled = fitted.score(1e-8 * z_context, 1e-8 * z_target)
    assert scaled + 5 * np.log(1e-8) == pytest.approx(
        estimator().fit(z_context, z_target).score(z_context, z_target), abs=0.01
    )


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
        estimator("spherical", components=2).fit(*clusters()).save(path)
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
        one = estimator("full", components=2).fit(*z)
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
            (lambda t, h: h["params"].update(component=2), "component"),
            (lambda t, h: h["params"].update(components=-2), "components must be"),
            (lambda t, h: h["params"].update(tol="x"), "tol must be a number"),
            (lambda t, h: h["fitted"].update(context_dim_=5), "context_dim must lie between"),
            (lambda t, h: h["fitted"].update(context_dim_="2"), "must be an integer"),
            (lambda t, h: h["fitted"].pop("n_iter_"), "'n_iter_' is missing"),
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
        monkeypatch.setattr(density_file, "_VERSION", 2)
        estimator().fit(*clusters()).save(tmp_path / "density")
        monkeypatch.undo()
        with pytest.raises(DensityFileError, match="version '2' of its format, but this library reads version 1"):
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
        assert density.components == 16, "the option is left as it was"
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
