"""Run folders: the schema of results, their metrics, what a folder may hold, and reading it again. Free of torch."""

from gmje_bench.runs.files import describe_difference, finite, read_results, write_results
from gmje_bench.runs.folder import check_models, check_resumable, check_run_folder, create_run_folder
from gmje_bench.runs.metrics import ANSWERS, KINDS, METRICS, OUTLIER_KINDS, OUTLIER_SCORES, SOURCES, Metric
from gmje_bench.runs.schema import PRETRAINED, SCHEMA_VERSION, AlignmentRecord, DatasetRecord, Record, Results

__all__ = [
    "ANSWERS",
    "KINDS",
    "METRICS",
    "OUTLIER_KINDS",
    "OUTLIER_SCORES",
    "PRETRAINED",
    "SCHEMA_VERSION",
    "SOURCES",
    "AlignmentRecord",
    "DatasetRecord",
    "Metric",
    "Record",
    "Results",
    "check_models",
    "check_resumable",
    "check_run_folder",
    "create_run_folder",
    "describe_difference",
    "finite",
    "read_results",
    "write_results",
]
