"""The closing stage of training: a criterion's density is fitted to pairs of views of the frozen encoder.

The fit takes what :mod:`gmje_core.estimation.scaled` says.
"""

from gmje_bench.tasks.subject import TrainingPairs
from gmje_bench.training.module import JointEmbedding
from gmje_core import Criterion
from gmje_core.estimation.scaled import ScaledFit

__all__ = ["consolidate", "needs_consolidation"]


def needs_consolidation(module: JointEmbedding) -> bool:
    """Whether the module has a criterion with room for a density of its own."""
    return isinstance(module.criterion, Criterion) and module.criterion.density_components > 0


def consolidate(module: JointEmbedding, pairs: TrainingPairs, *, seed: int) -> ScaledFit:
    """Fit the density of a trained module's criterion to pairs of views of the training images, in place.

    The main process fits, because it is the one that evaluates and saves. The pairs of the images that are set aside
    choose shrinkage and scales.

    Args:
        module: The trained module.
        pairs: Pairs of its embeddings, see :class:`gmje_bench.evaluation.pairs.PairsOf`.
        seed: Seed of the fit.
    """
    assert isinstance(module.criterion, Criterion)
    return module.criterion.cpu().consolidate(
        pairs.context,
        pairs.target,
        pairs.validation,
        passes=pairs.passes,
        exchangeable=pairs.exchangeable,
        seed=seed,
    )
