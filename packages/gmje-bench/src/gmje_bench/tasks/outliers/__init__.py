"""Outliers near the data and far from it, and how well several scores tell them from test images."""

from gmje_bench.tasks.outliers.task import outliers

__all__ = ["outliers"]
