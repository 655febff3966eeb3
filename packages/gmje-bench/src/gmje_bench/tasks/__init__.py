"""Evaluation tasks on frozen features: pure functions of features and labels."""

from gmje_bench.tasks.knn import weighted_knn
from gmje_bench.tasks.linear_probe import LinearProbe, linear_probe

__all__ = ["LinearProbe", "linear_probe", "weighted_knn"]
