"""Cards: what they say of an evaluation, read back by the Hub's own classes, and sealed."""

import re
from dataclasses import replace

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from gmje_core import GMJEConfig, Preprocessing
from gmje_hub import GMJEModel
from gmje_hub.card import EVAL_RESULTS, chosen_metadata, documents, is_generated, model_card
from gmje_hub.errors import CardError
from gmje_hub.evaluation import SCORES, Calibration, Evaluation
from gmje_hub.folder import README


def test_a_card_of_three_seeds(evaluation):
    card = model_card(GMJEConfig(), "org/name", None, evaluation)
    assert "| linear probe [%] ↑ | 86.0 ± 2.5 | 85 |" in card
    assert "| kNN \\| weighted [%] ↑ | 81.0 ± 2.5 | 80 |" in card
    assert "| calibration error ↓ | 0.25 ± 0 | 0.25 |" in card
    assert "| effective_rank | 80.25 |" in card
    assert "over 3 seeds; these are the weights of seed 1" in card
    assert "```\npython -m gmje_bench run\n```" in card
    assert "\nbatch size: 256; epochs: 6; learning rate: 0.002; optimizer: adamw.\n" in card
    assert "\ngmje-core 0.1.0.\n" in card


def test_a_card_says_how_calibrated_the_density_is(evaluation):
    calibration = Calibration(level=0.9, coverage=0.895, pairs=1000, error=0.0221, factor=1.05)
    card = model_card(GMJEConfig(), "org/name", None, replace(evaluation, calibration=calibration))
    assert (
        "Of the 90 % regions of q(z_t | z_c), 89.5 % hold the other view (1000 test pairs); calibration error .022, "
        "after its covariances were multiplied by 1.05 on a part of the training images." in card
    )
    assert "regions of q" not in model_card(GMJEConfig(), "org/name", None, evaluation)


def test_the_hub_reads_its_metadata(evaluation):
    parsed = ModelCard(model_card(GMJEConfig(), "org/name", None, evaluation))
    assert parsed.data.license is None, "nobody chose one"
    assert parsed.data.library_name == "gmje"
    assert parsed.data.datasets == ["org/fashion"]
    assert parsed.data.metrics == ["accuracy"]
    found = {result.metric_name: result.metric_value for result in parsed.data.eval_results}
    assert found == {"linear probe accuracy [%]": 85.0, "kNN | weighted accuracy [%]": 80.0}
    assert {result.dataset_type for result in parsed.data.eval_results} == {"org/fashion"}
    assert {result.dataset_name for result in parsed.data.eval_results} == {"fashion"}


def test_one_seed_has_no_interval(evaluation):
    scores = tuple(replace(score, mean=None, half_width=None, seeds=1) for score in evaluation.scores)
    note = "There is no mean over seeds: gmje failed (seed 3): it diverged"
    card = model_card(GMJEConfig(), "org/name", None, replace(evaluation, scores=scores, note=note))
    assert "One seed (1): these numbers have no interval." in card
    assert "| linear probe [%] ↑ | 85 |" in card
    assert note in card
    assert "±" not in card


def test_an_evaluation_without_extras_has_no_empty_sections(evaluation):
    bare = Evaluation(
        method="gmje", seed=0, dataset=evaluation.dataset, protocol="one of my own", scores=evaluation.scores[2:]
    )
    found = documents(GMJEConfig(), "org/name", None, bare)
    card = found[README].decode()
    assert "by one of my own." in card
    assert not any(section in card for section in ("## Training", "## The density", "!["))
    assert ModelCard(card).data.eval_results is None, "no score has a name on the Hub"
    assert yaml.safe_load(found[EVAL_RESULTS]) == []


def test_results_for_machines_are_the_hubs_entries(evaluation):
    found = documents(GMJEConfig(), "org/name", None, evaluation)
    assert yaml.safe_load(found[EVAL_RESULTS]) == [
        {
            "dataset": {"id": "org/fashion", "task_id": task},
            "value": value,
            "date": "2026-01-01T00:00:00+00:00",
            "notes": "gmje-bench protocol version 2; seed 1; 2 test images of the data with SHA-256 ab12",
        }
        for task, value in (("linear_probe", 85.0), ("knn", 80.0))
    ]


def test_figures_go_with_the_card(evaluation, pictures):
    found = documents(GMJEConfig(), "org/name", None, evaluation, pictures)
    for name, caption in evaluation.figures.items():
        assert found[f"evaluation/{name}"] == pictures[name]
        assert f"![{caption}](evaluation/{name})" in found[README].decode()
    del pictures["accuracy.png"]
    found = documents(GMJEConfig(), "org/name", None, evaluation, pictures)
    assert "evaluation/accuracy.png" not in found
    assert "accuracy.png" not in found[README].decode()
    assert list(Evaluation.from_json(found[SCORES].decode()).figures) == ["diagnostics.png"]


def test_how_to_use_it_runs_as_printed(tmp_path):
    config = GMJEConfig(backbone="smallconv", image_size=32, dim=8, hidden=16, criterion_options={"components": 4})
    preprocessing = Preprocessing(size=32, image_mean=(0.5,) * 3, image_std=(0.25,) * 3)
    for known in (preprocessing, None):
        model = GMJEModel(config, known)
        model(*torch.rand(2, 32, 3, 32, 32))
        model.save_pretrained(tmp_path / "model")
        (code,) = re.findall(r"```python\n(.*?)```", model_card(config, "org/name", known), re.DOTALL)
        exec(code.replace('"org/name"', repr(str(tmp_path / "model"))), namespace := {})
        assert namespace["x"].shape == (4, 3, 32, 32)


def test_without_results_the_card_says_so():
    assert "Nothing was measured" in model_card(GMJEConfig(), "org/name")


@pytest.mark.parametrize("change", [lambda c: c + " ", lambda c: c.replace("# org", "# my"), lambda c: "# Mine\n"])
def test_a_changed_card_is_not_generated(change):
    card = model_card(GMJEConfig(), "org/name")
    assert is_generated(card)
    assert not is_generated(change(card))


def test_data_that_the_hub_does_not_have_are_not_named_as_if_it_had(evaluation):
    own = replace(evaluation, dataset=replace(evaluation.dataset, hub_id=""))
    found = documents(GMJEConfig(), "org/name", None, own)
    parsed = ModelCard(found[README].decode())
    assert parsed.data.datasets is None
    assert {result.dataset_type for result in parsed.data.eval_results} == {"custom"}
    assert found[EVAL_RESULTS] is None


def test_a_card_carries_what_its_author_chose():
    chosen = {
        "license": "mit",
        "base_model": "org/base",
        "language": None,
        "tags": ["fashion"],
        "datasets": ["org/data"],
    }
    card = model_card(GMJEConfig(), "org/name", metadata=chosen)
    parsed = ModelCard(card).data
    assert (parsed.license, parsed.base_model, parsed.datasets) == ("mit", "org/base", ["org/data"])
    assert "density-estimation" in parsed.tags
    assert "fashion" in parsed.tags
    assert "language" not in parsed.to_dict()
    assert "Licence of the weights: mit." in card
    assert chosen_metadata(card) == {"license": "mit", "base_model": "org/base", "tags": ["fashion"]}
    again = model_card(GMJEConfig(), "org/name", metadata={**chosen_metadata(card), "datasets": ["org/data"]})
    assert again == card


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"license": "Apache License 2.0"}, "is no licence of the Hub"),
        ({"license": ["mit"]}, "is no licence of the Hub"),
        ({"tags": "mine"}, "tags of a card must be a list of names"),
        ({"datasets": [1]}, "datasets of a card must be a list of names"),
        ({"base_model": object()}, "the metadata of a card must be plain values"),
    ],
)
def test_what_cannot_stand_in_a_card_is_refused(metadata, words):
    with pytest.raises(CardError, match=words):
        model_card(GMJEConfig(), "org/name", metadata=metadata)


@pytest.mark.parametrize(
    ("backbone", "small", "said"),
    [
        ("resnet18", False, True),
        ("resnet18", True, False),
        ("smallconv", False, False),
        ("timm:vit_tiny_patch16_224", False, True),
    ],
)
def test_a_card_speaks_of_timm_where_timm_has_the_network(backbone, small, said):
    card = model_card(GMJEConfig(backbone=backbone, small_images=small), "org/name")
    assert ("--timm" in card) == said
