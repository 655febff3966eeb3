"""Models that are saved and loaded: bit-equal, for every criterion, each file whole or not at all."""

import errno
import os

import pytest
import torch

from gmje_core import GMJEConfig, Preprocessing
from gmje_hub import CardError, GMJEModel, UnsavableModelError
from gmje_hub.card import is_generated
from gmje_hub.evaluation import read_evaluation, write_evaluation


def test_round_trip_is_bit_equal(model, folder):
    again = GMJEModel.from_pretrained(folder)
    images = torch.rand(4, 1, 28, 28)
    assert torch.equal(again.embed(images), model.embed(images))
    assert torch.equal(again.log_prob(images, images), model.log_prob(images, images))
    assert not again.training
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert again.preprocessing == model.preprocessing


@pytest.mark.parametrize("update", ["em", "gradient"])
def test_training_goes_on_where_it_stopped(update, tmp_path):
    config = GMJEConfig(
        backbone="smallconv", in_channels=1, dim=8, hidden=16, criterion_options={"components": 4, "update": update}
    )
    views = torch.rand(2, 32, 1, 28, 28)
    first = GMJEModel(config)
    first(*views)
    first.save_pretrained(tmp_path)
    second = GMJEModel.from_pretrained(tmp_path).train()
    assert torch.equal(first(*views).loss, second(*views).loss)


def test_the_preprocessing_of_another_model_does_not_stay(model, folder):
    model.preprocessing = None
    model.save_pretrained(folder)
    assert GMJEModel.from_pretrained(folder).preprocessing is None
    model.preprocessing = Preprocessing(size=32, image_mean=(0.25,), image_std=(0.5,))
    with pytest.raises(UnsavableModelError, match="gives images of 32 pixels"):
        model.save_pretrained(folder)


def test_an_interrupted_save_leaves_the_old_model(model, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gmje_hub.model.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("criterion_options", [{"update": "em"}, {"update": "gradient", "covariance_type": "low_rank"}])
@pytest.mark.parametrize("small_images", [False, True])
def test_a_resnet_goes_to_disk_and_back(tmp_path, criterion_options, small_images):
    config = GMJEConfig(
        image_size=32,
        small_images=small_images,
        dim=8,
        hidden=16,
        criterion_options={"components": 4, "rank": 2} | criterion_options,
    )
    model = GMJEModel(config)
    model.save_pretrained(tmp_path)
    again = GMJEModel.from_pretrained(tmp_path)
    for (name, value), (other, read) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(value, read), name


@pytest.mark.parametrize("criterion", ["gje", "gmje", "gmje-mdn", "gmje-gng", "gmje-smc"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_every_criterion_comes_back_and_continues(tmp_path, criterion, momentum):
    config = GMJEConfig(
        backbone="smallconv",
        in_channels=1,
        image_size=28,
        dim=8,
        hidden=16,
        momentum=momentum,
        criterion=criterion,
        criterion_options={"gmje": {"components": 4}, "gmje-gng": {"insert_every": 8}}.get(criterion, {}),
    )
    torch.manual_seed(0)
    model = GMJEModel(config)
    for _ in range(3):
        model(*torch.rand(2, 16, 1, 28, 28))
    model.save_pretrained(tmp_path / "model")
    loaded = GMJEModel.from_pretrained(tmp_path / "model").train()
    views = torch.rand(2, 16, 1, 28, 28)
    assert loaded(*views).loss.item() == model(*views).loss.item()
    for key, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key
    assert torch.equal(loaded.log_prob(*views), model.log_prob(*views))


def test_a_full_disk_names_the_file(model, folder, monkeypatch):
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(OSError, match=r"No space left on device: '.*model\.safetensors'"):
        model.save_pretrained(folder)


def test_scores_of_the_weights_before_do_not_stay(model, folder, evaluation):
    write_evaluation(folder, evaluation)
    model.save_pretrained(folder)
    assert read_evaluation(folder) is None


def test_a_card_is_saved_with_the_model_and_one_by_hand_stays(model, tmp_path):
    model.save_pretrained(tmp_path / "m", model_card_kwargs={"license": "mit"})
    card = (tmp_path / "m" / "README.md").read_text()
    assert is_generated(card)
    assert 'GMJEModel.from_pretrained("./m")' in card
    model.save_pretrained(tmp_path / "m")
    assert (tmp_path / "m" / "README.md").read_text() == card, "the licence stays"
    (tmp_path / "m" / "README.md").write_text("# Mine")
    model.save_pretrained(tmp_path / "m", model_card_kwargs={"license": "other"})
    assert (tmp_path / "m" / "README.md").read_text() == "# Mine"


def test_wrong_metadata_and_options_write_nothing(model, tmp_path):
    with pytest.raises(CardError, match="no licence"):
        model.save_pretrained(tmp_path / "m", model_card_kwargs={"license": "My Licence"})
    with pytest.raises(TypeError, match="private only with push_to_hub=True"):
        model.save_pretrained(tmp_path / "m", private=True)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("normalize", [True, False])
def test_an_encoder_in_bfloat16_keeps_its_density_in_float32(tmp_path, normalize):
    torch.manual_seed(0)
    config = GMJEConfig(
        backbone="smallconv",
        in_channels=1,
        image_size=28,
        dim=8,
        hidden=16,
        normalize=normalize,
        momentum=0.9,
        criterion_options={"components": 4},
    )
    model = GMJEModel(config)
    model(*torch.rand(2, 64, 1, 28, 28))
    model.save_pretrained(tmp_path)
    low = GMJEModel.from_pretrained(tmp_path, device="cpu", dtype=torch.bfloat16)
    images = torch.rand(4, 1, 28, 28)
    high = GMJEModel.from_pretrained(tmp_path)
    assert low.features(images).dtype == torch.bfloat16
    for name in ("embed", "embed_target"):
        found, expected = getattr(low, name)(images), getattr(high, name)(images)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    assert torch.isfinite(low.log_prob(images, images)).all()
    for key, value in high.criterion.state_dict().items():
        assert torch.equal(low.criterion.state_dict()[key], value), key
    with pytest.raises(UnsavableModelError, match=r"torch\.bfloat16"):
        low.save_pretrained(tmp_path / "low")
    with pytest.raises(ValueError, match=r"must be floating point.* got torch\.int8"):
        GMJEModel.from_pretrained(tmp_path, dtype=torch.int8)
