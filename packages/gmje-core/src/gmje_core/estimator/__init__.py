"""The scikit-learn interface of the same densities, fitted by the same estimation."""

from gmje_core.estimator.estimator import JointEmbeddingMixture

__all__ = ["JointEmbeddingMixture"]
