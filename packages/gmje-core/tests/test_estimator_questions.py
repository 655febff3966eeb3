"""Answers of a fitted estimator against float64 oracles."""

import itertools

import numpy as np
import pytest
import torch
from estimator_cases import FORMS, clusters, estimator
from scipy import stats

from gmje_core.errors import ConfigError


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
        fitted = estimator(n_components=1, reg_covar=0.0).fit(z_context, z_target)
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
