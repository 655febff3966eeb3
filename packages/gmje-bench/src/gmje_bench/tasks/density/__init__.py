"""Which density describes pairs of embeddings best: the one learned with the encoder, or one fitted afterwards."""

from gmje_bench.tasks.density.task import density

__all__ = ["density"]
