"""The benchmark harness: suites, datasets, methods, tasks and reports around ``gmje_core``."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gmje_bench.evaluation.api import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name in __all__:
        from gmje_bench.evaluation import api

        return getattr(api, name)
    raise AttributeError(f"module 'gmje_bench' has no attribute {name!r}")
