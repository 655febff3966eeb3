"""Options of the estimator: names, checks, seeds, and what a fit leaves alone."""

import numpy as np
import pytest
import torch
from estimator_cases import clusters, estimator
from sklearn.base import clone

from gmje_core.errors import ConfigError, GMJEError, NonFiniteError, NotFittedError
from gmje_core.estimator import JointEmbeddingMixture


class TestConventions:
    def test_clone_and_params(self):
        options = {"n_components": 3, "tied": True, "means_init": np.zeros((3, 5)), "dtype": torch.float32}
        original = JointEmbeddingMixture(**options)
        copy = clone(original)
        assert copy is not original
        assert original.get_params()["means_init"] is options["means_init"]
        np.testing.assert_array_equal(copy.get_params()["means_init"], options["means_init"])
        assert copy.get_params()["dtype"] is torch.float32
        assert copy.set_params(n_components=7).n_components == 7
        assert original.n_components == 3
        fitted = original.set_params(means_init=None).fit(*clusters())
        assert not hasattr(clone(fitted), "density_")
        with pytest.raises(ConfigError, match="unknown option 'n_component'; did you mean 'n_components'"):
            copy.set_params(n_component=2)

    def test_construction_checks_nothing(self):
        odd = JointEmbeddingMixture(n_components="many", reg_covar=object)
        assert odd.n_components == "many"
        assert repr(JointEmbeddingMixture(3, "diag", tied=True)) == (
            "JointEmbeddingMixture(n_components=3, covariance_type='diag', tied=True)"
        )

    @pytest.mark.parametrize("batch_size", [None, 100])
    def test_random_state_decides_everything(self, batch_size):
        z = clusters(400, components=8)
        fits = [estimator(n_components=8, random_state=s, batch_size=batch_size).fit(*z) for s in (1, 1, 2)]
        np.testing.assert_array_equal(fits[0].means_, fits[1].means_)
        assert not np.array_equal(fits[0].means_, fits[2].means_)
        torch.manual_seed(5)
        first = estimator(n_components=8, random_state=None).fit(*z).means_
        second = estimator(n_components=8, random_state=None).fit(*z).means_
        torch.manual_seed(5)
        np.testing.assert_array_equal(estimator(n_components=8, random_state=None).fit(*z).means_, first)
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


OPTIONS = [
    ({"n_components": 0}, "n_components must be an integer of at least 1, got 0"),
    ({"n_components": 2.0}, "n_components must be an integer, got 2.0"),
    ({"covariance_type": "ful"}, "did you mean 'full'"),
    ({"tied": "yes"}, "tied must be True or False"),
    ({"rank": 9, "covariance_type": "low_rank"}, r"rank must lie between 1 and d_c \+ d_t = 5, got 9"),
    ({"reg_covar": -1.0}, "reg_covar must be finite and at least 0"),
    ({"reg_covar": float("nan")}, "reg_covar must be finite"),
    ({"covariance_prior": -1.0}, "covariance_prior must be finite and at least 0"),
    ({"covariance_target": "pool"}, "unknown covariance_target 'pool'; did you mean 'pooled'"),
    ({"tol": "small"}, "tol must be a number"),
    ({"max_iter": 0}, "max_iter must be"),
    ({"n_init": None}, "n_init must be an integer"),
    ({"init_params": "k-mean"}, "unknown init_params 'k-mean'; did you mean 'k?-?means'"),
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
        getattr(JointEmbeddingMixture(**{"n_components": 3} | options), method)(*clusters(100))
