"""The run folder: atomic writes, a strict schema, honest means."""

import json

import pytest

from gmje_bench.errors import RunFolderError
from gmje_bench.report import Estimate, markdown, summarise
from gmje_bench.runs import METRICS, Record, Results, read_results, write_results


def record(seed: int = 0, value: float = 80.0, **changes: object) -> Record:
    values = {"method": "gmje", "seed": seed, "status": "ok", "metrics": dict.fromkeys(METRICS, value)} | changes
    return Record.model_validate(values)


def test_results_round_trip(tmp_path, make_results):
    written = make_results(record(), record(1, verdict="healthy"))
    write_results(tmp_path, written)
    assert read_results(tmp_path) == written


def test_interval_is_students():
    mean, half = Estimate.of([83.0, 85.0, 87.0])
    assert mean == 85
    assert half == pytest.approx(4.302652730 * 2 / 3**0.5)


def test_a_failed_seed_leaves_no_mean(make_results):
    (row,) = summarise(make_results(record(0), record(1, status="failed", error="X", metrics={})))
    assert row.estimates == {}
    assert row.seeds == 1
    assert "failed (seed 1): X" in markdown(make_results(record(0), record(1, status="failed", error="X", metrics={})))


def test_not_a_number_is_never_written(tmp_path, make_results):
    write_results(tmp_path, make_results(record()))
    with pytest.raises(ValueError, match="JSON compliant"):
        write_results(tmp_path, make_results(record(value=float("nan"))))
    assert read_results(tmp_path).records[0].metrics["knn"] == 80


@pytest.mark.parametrize("content", ["{", "{}", '{"suite": 3}'])
def test_foreign_results_are_named(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"results\.json is not a results file"):
        read_results(tmp_path)


def test_unknown_keys_are_refused(tmp_path, make_results):
    write_results(tmp_path, make_results(record()))
    values = json.loads((tmp_path / "results.json").read_text()) | {"extra": 1}
    (tmp_path / "results.json").write_text(json.dumps(values))
    with pytest.raises(RunFolderError, match="extra"):
        read_results(tmp_path)


def test_an_error_with_a_bar_stays_one_cell(make_results):
    text = markdown(make_results(record(0, status="failed", error="a | b", metrics={})))
    assert "a \\| b" in text


def test_the_schema_names_every_field():
    schema = Results.model_json_schema()
    assert set(schema["properties"]) == set(Results.model_fields)
    assert set(schema["$defs"]["Record"]["properties"]) == set(Record.model_fields)
    assert schema["additionalProperties"] is False
