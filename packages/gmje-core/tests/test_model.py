"""The model: one step, the questions it answers, and a configuration that is strict both ways."""

import json
import math

import pytest
import torch

from gmje_core import ConfigError, GMJEConfig, JointEmbeddingModel, JointGaussianMixture, NotFittedError, ShapeError
from gmje_core.models.model import _uncertainty


def small(**changes: object) -> GMJEConfig:
    values = {"backbone": "smallconv", "in_channels": 1, "image_size": 28, "dim": 8, "hidden": 16}
    return GMJEConfig(**(values | {"criterion_options": {"components": 4}} | changes))


@pytest.fixture
def model() -> JointEmbeddingModel:
    torch.manual_seed(0)
    model = JointEmbeddingModel(small())
    for _ in range(3):
        model(*torch.rand(2, 32, 1, 28, 28))
    return model


def test_training_step_reaches_every_part(model):
    out = model(*torch.rand(2, 32, 1, 28, 28))
    out.loss.backward()
    for part in (model.backbone, model.projector):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    assert out.z_context.detach().norm(dim=1) == pytest.approx(torch.ones(32).tolist(), abs=1e-5)


def test_inference_agrees_with_the_density_and_leaves_no_trace(model):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    context, target = torch.rand(2, 5, 1, 28, 28)
    z_context, z_target = model.embed(context), model.embed(target)
    density = model.density()
    torch.testing.assert_close(model.log_prob(context, target), density.log_prob(z_context, z_target))
    posterior = model.condition(context)
    torch.testing.assert_close(
        posterior.log_prob(z_target) + density.context.log_prob(z_context), model.log_prob(context, target)
    )
    u = model.uncertainty(context)
    torch.testing.assert_close(
        u.within, posterior.covariance_within.diagonal(dim1=-2, dim2=-1).sum(-1), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        u.between, posterior.covariance_between.diagonal(dim1=-2, dim2=-1).sum(-1), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(u.surprise, -density.context.log_prob(z_context))
    assert (u.weight_entropy >= 0).all()
    assert [z.shape for z in model.sample(7)] == [(7, 8), (7, 8)]
    assert model.features(context).shape == (5, 256)
    assert model.training
    assert not z_context.requires_grad
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_uncertainty_keeps_the_smaller_part():
    """Tight modes far apart: within is 1e-8 of between, which a difference of variances in float32 would lose."""
    density = JointGaussianMixture.from_moments(
        torch.ones(2), torch.tensor([[0.0, -1.0], [0.0, 1.0]]), 1e-8 * torch.eye(2).expand(2, 2, 2), context_dim=1
    )
    parts = _uncertainty(density, torch.zeros(3, 1))
    torch.testing.assert_close(parts.within, torch.full((3,), 1e-8), rtol=1e-5, atol=0)
    torch.testing.assert_close(parts.between, torch.ones(3))
    torch.testing.assert_close(parts.weight_entropy, torch.full((3,), math.log(2)))


def test_uncertainty_does_not_depend_on_the_rows_taken_at_once(model, monkeypatch):
    images = torch.rand(7, 1, 28, 28)
    whole = model.uncertainty(images)
    monkeypatch.setattr("gmje_core.models.model.LARGEST_TEMPORARY", 3 * 4 * 8)
    for part, other in zip(model.uncertainty(images), whole, strict=True):
        assert part.shape == (7,)
        torch.testing.assert_close(part, other)


def test_the_two_steps_of_timm_lead_to_features_and_embeddings(model):
    images = torch.rand(5, 1, 28, 28)
    model.eval()
    step = model.forward_features(images)
    assert step.shape == (5, 256, 2, 2)
    assert step.requires_grad
    assert torch.equal(model.forward_head(step, pre_logits=True), model.features(images))
    assert torch.equal(model.forward_head(step), model.embed(images))
    with pytest.raises(ShapeError):
        model.forward_features(images[0])


def test_frozen_parts_stay_frozen(model):
    model.backbone.eval()
    model.embed(torch.rand(2, 1, 28, 28))
    assert model.training
    assert model.projector.training
    assert not any(module.training for module in model.backbone.modules())


def test_views_that_differ_are_named(model):
    with pytest.raises(ShapeError, match=r"\(4, 1, 28, 28\) and \(4, 1, 32, 32\)"):
        model(torch.rand(4, 1, 28, 28), torch.rand(4, 1, 32, 32))


def test_image_size_reaches_models_that_fix_it():
    pytest.importorskip("timm")
    model = JointEmbeddingModel(small(backbone="timm:vit_tiny_patch16_224", image_size=32))
    assert model.embed(torch.rand(2, 1, 32, 32)).shape == (2, 8)


def test_a_configuration_does_not_follow_its_callers_dictionary():
    options = {"components": 4}
    config = small(criterion_options=options)
    options["components"] = 5
    assert config.criterion_options == {"components": 4}


def test_embedding_does_not_depend_on_the_rest_of_the_batch(model):
    images = torch.rand(6, 1, 28, 28)
    torch.testing.assert_close(model.embed(images)[:2], model.embed(images[:2]))


def test_untrained_density_says_so():
    with pytest.raises(NotFittedError):
        JointEmbeddingModel(small()).condition(torch.rand(2, 1, 28, 28))


@pytest.mark.parametrize("images", [torch.rand(2, 3, 28, 28), torch.rand(28, 28), torch.zeros(2, 1, 28, 28).byte()])
def test_wrong_images_are_named(model, images):
    with pytest.raises(ShapeError, match=r"\(B, 1, H, W\)"):
        model.embed(images)


def test_configuration_round_trips_through_json():
    config = small(criterion="gje", criterion_options={"noise": 0.5})
    assert GMJEConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bakbone": "resnet18"}, "did you mean 'backbone'"),
        ({"dim": "128"}, "dim must be of type int"),
        ({"dim": True}, "dim must be of type int"),
        ({"dim": 0}, r"dim must lie in \[1, 65536\]"),
        ({"hidden": 10**9}, "hidden must lie in"),
        ({"criterion_options": {"components": [1]}}, "JSON scalars"),
        ({"criterion_options": {"noise": float("inf")}}, "finite numbers, got 'noise': inf"),
        ({"schema_version": 2}, "schema_version 2"),
    ],
)
def test_wrong_configurations_are_named(change, words):
    with pytest.raises(ConfigError, match=words):
        GMJEConfig.from_dict(small().to_dict() | change)


def test_missing_keys_are_named():
    values = small().to_dict()
    del values["dim"], values["hidden"]
    with pytest.raises(ConfigError, match="missing keys: dim, hidden"):
        GMJEConfig.from_dict(values)


@pytest.mark.parametrize("text", ["", "[]", "{", "3", json.dumps(small().to_dict()).replace("8", "NaN"), "[" * 100_000])
def test_what_is_not_a_configuration(text):
    with pytest.raises(ConfigError):
        GMJEConfig.from_json(text)


def test_repeated_keys_are_named():
    text = small().to_json().replace('"dim": 8,', '"dim": 8, "dim": 16,')
    with pytest.raises(ConfigError, match="more than once: dim"):
        GMJEConfig.from_json(text)


@pytest.mark.parametrize(
    "change", [{"backbone": "resnet81"}, {"criterion": "gmjee"}, {"criterion_options": {"compnents": 3}}]
)
def test_unknown_names_are_suggested(change):
    with pytest.raises(ConfigError, match="did you mean"):
        JointEmbeddingModel(small(**change))


class TestMomentum:
    """The target view's encoder is a moving average of the context's, for every criterion."""

    @pytest.mark.parametrize("criterion", ["gje", "gmje", "gmje-mdn", "gmje-gng", "gmje-smc"])
    def test_trains_and_answers(self, criterion):
        torch.manual_seed(0)
        model = JointEmbeddingModel(small(momentum=0.9, criterion=criterion, criterion_options={}))
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(3):
            out = model(*torch.rand(2, 16, 1, 28, 28))
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
        assert not out.z_target.requires_grad
        assert all(p.grad is None for p in model.target_encoder.parameters())
        assert all(p.grad is not None for p in [*model.backbone.parameters(), *model.projector.parameters()])
        views = torch.rand(2, 4, 1, 28, 28)
        expected = model.density().log_prob(model.embed(views[0]), model.embed_target(views[1]))
        torch.testing.assert_close(model.log_prob(*views), expected)
        assert not torch.allclose(model.embed(views[0]), model.embed_target(views[0]))
        assert model.uncertainty(views[0]).within.isfinite().all()

    def test_target_encoder_is_the_moving_average(self):
        model = JointEmbeddingModel(small(momentum=0.75))
        average = {name: p.clone() for name, p in model.backbone.named_parameters()}
        for step in range(3):
            model(*torch.rand(2, 8, 1, 28, 28))
            for name, p in model.backbone.named_parameters():
                average[name] = p.detach().clone() if step == 0 else 0.75 * average[name] + 0.25 * p.detach()
                with torch.no_grad():
                    p.add_(torch.randn_like(p))
        for name, p in model.target_encoder.average.module[0].named_parameters():
            torch.testing.assert_close(p, average[name], msg=name)

    def test_evaluation_does_not_move_it(self):
        model = JointEmbeddingModel(small(momentum=0.5))
        model(*torch.rand(2, 8, 1, 28, 28))
        before = {key: value.clone() for key, value in model.target_encoder.state_dict().items()}
        with torch.no_grad():
            model.backbone.requires_grad_(False)
            for p in model.backbone.parameters():
                p.add_(1.0)
        model.eval()(*torch.rand(2, 8, 1, 28, 28))
        for key, value in model.target_encoder.state_dict().items():
            assert torch.equal(value, before[key]), key

    @pytest.mark.parametrize("momentum", [-0.1, 1.0])
    def test_out_of_range(self, momentum):
        with pytest.raises(ConfigError, match=r"momentum must lie in \[0, 1\)"):
            small(momentum=momentum)


def test_scales_of_one_answer_are_one_answer():
    torch.manual_seed(0)
    model = JointEmbeddingModel(
        GMJEConfig(
            backbone="smallconv",
            in_channels=1,
            image_size=28,
            dim=4,
            hidden=8,
            criterion="gje",
            criterion_options={"density_components": 1},
        )
    )
    views = torch.rand(2, 64, 1, 28, 28)
    model(*views)
    z_context, z_target = model.embed(views[0]), model.embed_target(views[1])
    model.criterion.consolidate(z_context[:40], z_target[:40], (z_context[40:], z_target[40:]))
    assert model.condition(views[0]).components == 12
    uncertainty = model.uncertainty(views[0])
    torch.testing.assert_close(uncertainty.weight_entropy, torch.zeros(64), rtol=0, atol=1e-5)
    assert (uncertainty.between < 1e-6).all()
    assert (uncertainty.within > 0).all()
