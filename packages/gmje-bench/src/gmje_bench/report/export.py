"""The numbers of a run for other tools, one row for each, the same in CSV and in Parquet.

Failed records are rows too, with their error and no number, so that an average over what is left is noticed.
"""

import csv
import io
from collections.abc import Iterator
from typing import Any

from gmje_bench.runs import AlignmentRecord, Record, Results

__all__ = ["COLUMNS", "to_csv", "to_parquet", "to_rows"]

#: Names and Arrow types of the columns.
COLUMNS = {
    "suite": "string",
    "method": "string",
    "seed": "int64",
    "status": "string",
    "error": "string",
    "verdict": "string",
    "synthetic_task": "string",
    "dim": "int64",
    "task": "string",
    "metric": "string",
    "unit": "string",
    "higher_is_better": "bool",
    "value": "float64",
}


def to_rows(results: Results) -> Iterator[dict[str, Any]]:
    """Yield one row for each number, in the order of the results; a record without numbers is one row with none.

    Args:
        results: The results of a run.

    Yields:
        Values by the names in :data:`COLUMNS`; ``synthetic_task`` and ``dim`` are of the alignment tasks only.
    """
    every: list[tuple[Record | AlignmentRecord, str | None, int | None]] = [
        *[(record, None, None) for record in results.records],
        *[(r, r.task, r.dim) for r in results.alignment],
    ]
    for record, synthetic, dim in every:
        base: dict[str, Any] = dict.fromkeys(COLUMNS)
        base |= {"suite": results.suite, "synthetic_task": synthetic, "dim": dim}
        base |= {key: getattr(record, key, None) for key in ("method", "seed", "status", "error", "verdict")}
        for name, value in record.metrics.items():
            metric = results.metrics[name]
            yield base | {
                "task": metric.task,
                "metric": name,
                "unit": metric.unit,
                "higher_is_better": metric.higher_is_better,
                "value": value,
            }
        if not record.metrics:
            yield base


def to_csv(results: Results) -> str:
    """The rows as CSV with a header; numbers have full precision, and what is missing is empty.

    Args:
        results: The results of a run.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(to_rows(results))
    return stream.getvalue()


def to_parquet(results: Results) -> bytes:
    """The rows as the content of a Parquet file, with the command and the protocol's version in its metadata.

    Args:
        results: The results of a run.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"string": pa.string(), "int64": pa.int64(), "bool": pa.bool_(), "float64": pa.float64()}
    metadata = {"command": results.command, "protocol": str(results.protocol.get("version", ""))}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()], metadata=metadata)
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(to_rows(results)), schema=schema), stream)
    return stream.getvalue()
