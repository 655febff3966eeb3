"""Weights that are damaged or do not fit their configuration are named, on the way in and on the way out."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from gmje_hub import CorruptModelError, GMJEModel, UnsavableModelError


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptModelError, match="not a whole safetensors file"):
        GMJEModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("criterion.critic.means"), r"missing criterion\.critic\.means"),
        (lambda s: s.update(extra=torch.ones(1)), "unexpected extra"),
        (
            lambda s: s.update({"criterion._extra_state": torch.ones(2, dtype=torch.long)}),
            r"criterion\._extra_state is torch\.int64 \(2,\)",
        ),
        (lambda s: s.update({"criterion._extra_state": torch.ones(())}), r"criterion\._extra_state is torch\.float32"),
        (lambda s: s["criterion.critic.means"].fill_(float("nan")), "holds NaN"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, change, words):
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CorruptModelError, match=words):
        GMJEModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model.half(), r"torch\.float16"),
        (lambda model: model.double(), r"is torch\.float64 \S* instead of torch\.float32"),
        (lambda model: model.projector.register_buffer("extra", torch.ones(1)), r"unexpected projector\.extra"),
        (lambda model: model.projector.layers[-1].bias.data.fill_(float("nan")), "holds NaN"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(model, tmp_path, change, words):
    change(model)
    with pytest.raises(UnsavableModelError, match=words):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_cast_that_lost_nothing_is_saved(model, tmp_path):
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    model.float().double().float().save_pretrained(tmp_path / "model")
    for key, value in GMJEModel.from_pretrained(tmp_path / "model").state_dict().items():
        assert torch.equal(value, kept[key]), key
