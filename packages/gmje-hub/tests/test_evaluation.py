"""What was measured of a model: a strict form that comes back, files that are whole, and nothing hostile."""

import json
import os
from dataclasses import replace

import pytest

from gmje_core import ConfigError
from gmje_hub import CorruptModelError
from gmje_hub.evaluation import SCORES, Calibration, Evaluation, Score, read_evaluation, write_evaluation


def test_the_json_form_comes_back(evaluation):
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    assert Evaluation.from_json(evaluation.to_json()).to_json() == evaluation.to_json()


def test_the_folder_form_comes_back(tmp_path, evaluation, pictures):
    assert read_evaluation(tmp_path) is None
    write_evaluation(tmp_path, evaluation, pictures)
    assert read_evaluation(tmp_path) == (evaluation, pictures)
    assert sorted(path.name for path in (tmp_path / "evaluation").iterdir()) == [
        "accuracy.png",
        "diagnostics.png",
        "scores.json",
    ]


def test_a_figure_that_was_not_drawn_is_left_out(tmp_path, evaluation, pictures):
    del pictures["accuracy.png"]
    write_evaluation(tmp_path, evaluation, pictures)
    assert read_evaluation(tmp_path) == (evaluation, pictures)


def test_an_evaluation_does_not_follow_its_callers_dictionary(evaluation):
    training = {"epochs": 6}
    changed = replace(evaluation, training=training)
    training["epochs"] = 7
    assert changed.training == {"epochs": 6}


@pytest.mark.parametrize(
    ("mean", "half_width", "text"),
    [
        (None, None, ""),
        (86.04, None, "86.0"),
        (0.12345, None, "0.123"),
        (86.04, 2.484, "86.0 ± 2.5"),
        (-0.12345, 0.0104, "-0.123 ± 0.01"),
    ],
)
def test_intervals_as_text(mean, half_width, text):
    score = Score(metric="m", title="m", value=1.0, higher_is_better=True, mean=mean, half_width=half_width)
    assert score.interval == text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": "1"}, "seed must be of type int"),
        ({"seed": True}, "seed must be of type int"),
        ({"schema_version": 2}, "schema_version 2 is not the one"),
        ({"metod": "gmje"}, "did you mean 'method'"),
        ({"method": "a\nb"}, "method must be one line"),
        ({"command": "a\n"}, "command must be one line"),
        ({"note": "a" * 10_001}, "note must be one line of at most 10000 letters"),
        ({"dataset": {}}, "missing keys: name"),
        ({"dataset": None}, "a dataset must be a JSON object"),
        ({"scores": None}, "scores must be of type tuple"),
        ({"scores": [None]}, "a score must be a JSON object"),
        ({"scores": {}}, "scores must be of type tuple"),
        ({"training": {"epochs": [6]}}, "training must map names to"),
        ({"training": []}, "training must be of type dict"),
        ({"diagnostics": {"loss": None}}, "diagnostics must map names to"),
        ({"versions": {"a": "1\n2"}}, "versions must be one line"),
        ({"figures": {"../a.png": "A"}}, r"figures must have names such as accuracy\.png"),
        ({"figures": {"a/b.png": "A"}}, "figures must have names"),
        ({"figures": {"a.svg": "A"}}, "figures must have names"),
    ],
)
def test_what_is_no_evaluation_is_named(evaluation, change, words):
    with pytest.raises(ConfigError, match=words):
        Evaluation.from_dict(evaluation.to_dict() | change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": 85}, "value must be of type float, got 85"),
        ({"value": float("nan")}, "value must be finite, got nan"),
        ({"value": None}, "value must be of type float"),
        ({"mean": "86"}, "mean must be of type float or None"),
        ({"half_width": float("inf")}, "half_width must be finite"),
        ({"higher_is_better": 1}, "higher_is_better must be of type bool"),
        ({"title": "a | b\r"}, "title must be one line"),
        ({"valeu": 1.0}, "did you mean 'value'"),
    ],
)
def test_what_is_no_score_is_named(evaluation, change, words):
    with pytest.raises(ConfigError, match=words):
        Score.from_dict(evaluation.scores[0].to_dict() | change)


@pytest.mark.parametrize("damage", [lambda png: png[:-4], lambda png: b"GIF89a" + png, lambda png: b""])
def test_a_picture_that_is_none_is_named(tmp_path, evaluation, pictures, damage):
    write_evaluation(tmp_path, evaluation, pictures)
    path = tmp_path / "evaluation" / "accuracy.png"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorruptModelError, match=r"accuracy\.png is not a whole PNG file"):
        read_evaluation(tmp_path)
    with pytest.raises(CorruptModelError, match=r"accuracy\.png is not a whole PNG file"):
        write_evaluation(tmp_path, evaluation, {"accuracy.png": damage(pictures["accuracy.png"])})


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 60_000, "\0" * 100, '{"seed": NaN}', '{"seed": 1, "seed": 1}'])
def test_scores_that_are_none_are_named(tmp_path, evaluation, text):
    write_evaluation(tmp_path, evaluation)
    (tmp_path / SCORES).write_text(text)
    with pytest.raises(CorruptModelError, match=r"scores\.json: "):
        read_evaluation(tmp_path)


def test_numbers_that_are_too_large_for_a_float_are_named(tmp_path, evaluation):
    write_evaluation(tmp_path, evaluation)
    text = (tmp_path / SCORES).read_text()
    assert '"value": 85.0' in text
    (tmp_path / SCORES).write_text(text.replace('"value": 85.0', '"value": 1e999'))
    with pytest.raises(CorruptModelError, match="value must be finite, got inf"):
        read_evaluation(tmp_path)


def test_oversized_scores_are_not_read(tmp_path, evaluation):
    write_evaluation(tmp_path, evaluation)
    os.truncate(tmp_path / SCORES, 2**40)
    with pytest.raises(CorruptModelError, match="at most 4194304 can be right"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize("name", ["evaluation", "evaluation/scores.json", "evaluation/accuracy.png"])
def test_links_are_refused(tmp_path, evaluation, pictures, name):
    folder = tmp_path / "model"
    write_evaluation(folder, evaluation, pictures)
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptModelError, match="it is a link"):
        read_evaluation(folder)
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "nothing")
    if name == "evaluation":
        assert read_evaluation(folder) is None, "a link to nothing is no folder"
    else:
        with pytest.raises(CorruptModelError, match="it is a link"):
            read_evaluation(folder)


def test_what_a_card_does_not_know_is_plain_json(evaluation):
    assert json.loads(evaluation.to_json())["scores"][0]["kind"] == "accuracy"


CALIBRATION = {"level": 0.9, "coverage": 0.894, "pairs": 1000, "error": 0.022, "factor": 1.05}


def test_a_calibration_comes_back(evaluation):
    measured = replace(evaluation, calibration=Calibration(**CALIBRATION))
    assert Evaluation.from_json(measured.to_json()) == measured
    older = json.loads(evaluation.to_json())
    del older["calibration"]
    assert Evaluation.from_dict(older).calibration is None, "files without it are read"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"coverage": 1.1}, "coverage must be between 0 and 1, got 1.1"),
        ({"coverage": float("nan")}, "coverage must be finite, got nan"),
        ({"error": 0.6}, "error must be between 0 and 0.5, got 0.6"),
        ({"pairs": 0}, "pairs must be at least 1, got 0"),
        ({"pairs": 10.0}, "pairs must be of type int"),
        ({"factor": 0.0}, "factor must be above 0, got 0.0"),
    ],
)
def test_what_is_no_calibration_is_named(change, words):
    with pytest.raises(ConfigError, match=words):
        Calibration(**CALIBRATION | change)
