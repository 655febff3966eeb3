"""Suites: TOML files that say what to run, and the schema that they are validated by. Free of torch."""

from gmje_bench.suites.files import suite_names
from gmje_bench.suites.schema import SECTIONS, Suite, load_suite, validated
from gmje_bench.suites.sections import (
    BACKBONES,
    RIVALS,
    SYNTHETIC_TASKS,
    MixedPrecision,
    Network,
    Synthetic,
    Training,
    Views,
)

__all__ = [
    "BACKBONES",
    "RIVALS",
    "SECTIONS",
    "SYNTHETIC_TASKS",
    "MixedPrecision",
    "Network",
    "Suite",
    "Synthetic",
    "Training",
    "Views",
    "load_suite",
    "suite_names",
    "validated",
]
