"""A scikit-learn estimator of the densities in ``densities``, fitted by the methods in ``estimation``."""

from gmje_core.estimator.estimator import JointEmbeddingMixture

__all__ = ["JointEmbeddingMixture"]
