"""The estimator against scikit-learn's mixture from the same start, and in scikit-learn's tools."""

import warnings

import numpy as np
import pytest
from estimator_cases import clusters, estimator, halves
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture as SklearnMixture
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from gmje_core.estimator import JointEmbeddingMixture

# The forms that scikit-learn has, by its names.
PEERS = {"full": ("full", False), "tied": ("full", True), "diag": ("diag", False), "spherical": ("spherical", False)}


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


class TestTools:
    def test_clone_of_a_fitted_estimator_has_its_options_and_no_density(self):
        z = clusters()
        fitted = estimator("diag", tied=True, means_init=np.hstack(z)[:3]).fit(*z)
        copy = clone(fitted)
        mine, theirs = fitted.get_params(), copy.get_params()
        np.testing.assert_array_equal(mine.pop("means_init"), theirs.pop("means_init"))
        assert mine == theirs
        with pytest.raises(NotFittedError):
            check_is_fitted(copy)
        check_is_fitted(fitted)
        np.testing.assert_array_equal(copy.fit(*z).means_, fitted.means_)

    def test_pipeline_scales_the_context(self):
        z_context, z_target = clusters(300, components=2, apart=6.0)
        pipeline = Pipeline([("scale", StandardScaler()), ("density", estimator(n_components=2))])
        pipeline.fit(1000 * z_context + 5, z_target)
        scaled = StandardScaler().fit_transform(1000 * z_context + 5)
        density = estimator(n_components=2).fit(scaled, z_target)
        np.testing.assert_array_equal(pipeline.predict(1000 * z_context + 5), density.predict(scaled))
        assert pipeline.score(1000 * z_context + 5, z_target) == density.score(scaled, z_target)
        pipeline.set_params(density__n_components=5, density__init_params="kmeans").fit(z_context, z_target)
        assert pipeline["density"].means_.shape == (5, 5)

    def test_grid_search_finds_the_components_and_the_form(self):
        rng = np.random.default_rng(0)
        centre = rng.choice([-4.0, 4.0], size=(600, 1))
        z_context = centre + rng.normal(size=(600, 1))
        z_target = centre + 0.9 * (z_context - centre) + 0.3 * rng.normal(size=(600, 1))
        grid = {"density__n_components": np.arange(1, 4), "density__covariance_type": ["full", "diag", "spherical"]}
        pipeline = Pipeline([("scale", StandardScaler()), ("density", estimator(n_init=2))])
        search = GridSearchCV(pipeline, grid, cv=3).fit(z_context, z_target)
        assert search.best_params_ == {"density__n_components": 2, "density__covariance_type": "full"}
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()
        assert search.best_estimator_["density"].means_.shape == (2, 2)
        assert search.predict(z_context).shape == z_target.shape

    def test_cross_val_score_is_the_held_out_log_density(self):
        z_context, z_target = clusters(300)
        folds = KFold(3)
        scores = cross_val_score(estimator(), z_context, z_target, cv=folds)
        for score, (train, test) in zip(scores, folds.split(z_context), strict=True):
            density = estimator().fit(z_context[train], z_target[train])
            assert score == density.score(z_context[test], z_target[test])
