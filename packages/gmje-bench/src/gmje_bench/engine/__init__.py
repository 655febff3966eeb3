"""The run itself, divided into the order of its stages, one trial, the synthetic tasks, and what is written."""

from gmje_bench.engine.stages import run
from gmje_bench.engine.state import Launch

__all__ = ["Launch", "run"]
