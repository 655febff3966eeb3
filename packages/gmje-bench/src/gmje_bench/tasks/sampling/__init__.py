"""Samples of latent densities: how near they are to real embeddings, and what they look like decoded."""

from gmje_bench.tasks.sampling.task import sampling

__all__ = ["sampling"]
