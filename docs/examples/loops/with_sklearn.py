"""A joint mixture as the last step of a scikit-learn pipeline, its size chosen by cross-validation."""

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gmje_core import JointEmbeddingMixture


def two_answers(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Contexts ``(n, 6)`` whose targets ``(n, 1)`` are plus or minus a linear map of them."""
    rng = np.random.default_rng(seed)
    context = rng.normal(size=(n, 2)) @ rng.normal(size=(2, 6)) + 0.05 * rng.normal(size=(n, 6))
    target = rng.choice([-1, 1], size=(n, 1)) * (2 + context[:, :1]) + 0.1 * rng.normal(size=(n, 1))
    return context, target


def main(n: int = 600) -> float:
    """Fit, and return how many nats a target the mixture is above a Gaussian around ridge regression."""
    context, target = two_answers(n, seed=0)
    train, test = slice(0, 2 * n // 3), slice(2 * n // 3, n)
    pipeline = make_pipeline(StandardScaler(), PCA(2), JointEmbeddingMixture(random_state=0))
    search = GridSearchCV(pipeline, {"jointembeddingmixture__n_components": [1, 2, 4]}, cv=3)
    search.fit(context[train], target[train])
    ridge = Ridge().fit(context[train], target[train])
    spread = (target[train] - ridge.predict(context[train])).std()
    error = target[test] - ridge.predict(context[test])
    gaussian = float(np.mean(-0.5 * (error / spread) ** 2 - np.log(spread) - 0.5 * np.log(2 * np.pi)))
    steps = search.best_estimator_
    answer = steps[-1].predict_distribution(steps[:-1].transform(context[test]))
    gain = float(answer.log_prob(torch.as_tensor(target[test])).mean()) - gaussian
    print(f"{search.best_params_}: {gain:.2f} nats a target above one Gaussian around a ridge regression")
    return gain


if __name__ == "__main__":
    main()
