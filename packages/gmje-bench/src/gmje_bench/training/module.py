"""The module that is trained holds a backbone, a projection head and a criterion; its forward pass gives the loss."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from gmje_bench.datasets.base import ImageData
from gmje_bench.errors import OptionError
from gmje_bench.methods import Objective, Setting, build_objective
from gmje_bench.suites import Suite, Views
from gmje_bench.views import ViewConfig, configured
from gmje_core import Criterion, GMJEConfig, Preprocessing, diagnostics
from gmje_core.densities.joint import JointDensity
from gmje_core.distributed import gather_pairs
from gmje_core.models.backbones import build_backbone
from gmje_core.models.heads import ProjectionHead
from gmje_core.models.momentum import MomentumEncoder

__all__ = ["JointEmbedding", "build_module", "of_model"]


class JointEmbedding(nn.Module):
    """A backbone, a projection head and a criterion in one module, which DistributedDataParallel can wrap.

    Args:
        backbone: The network from images to features; it has ``num_features``.
        projector: The network from features to embeddings.
        objective: The criterion, and how it is trained.
        name: The name of the method, for messages.
        config: The configuration of the :class:`gmje_core.JointEmbeddingModel` that the trained module can be saved as.
        preprocessing: How a model that was trained before wants its images.
        views: What differs from the views that are recommended for the images.

    Attributes:
        watch: A function that is shown the features ``(n, F)`` of every batch that the encoder is trained on, detached;
            ``None`` at first.
    """

    watch: Callable[[Tensor], object] | None = None

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        objective: Objective,
        name: str = "",
        config: GMJEConfig | None = None,
        preprocessing: Preprocessing | None = None,
        views: Views | None = None,
    ) -> None:
        super().__init__()
        self.name, self.config, self._preprocessing = name, config, preprocessing
        self._views = (views or Views()).model_dump()
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._has_density = True
        self.backbone, self.projector, self.criterion = backbone, projector, objective.criterion
        self.trains, self._labels, self._symmetric = objective.trains, objective.labels, objective.symmetric
        momentum = objective.momentum
        self.target_encoder = MomentumEncoder(nn.Sequential(backbone, projector), momentum) if momentum else None
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, context: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """The loss of the global batch; both views pass one network unless the target has an encoder of its own.

        Args:
            context: ``(b, C, S, S)``, this process's share of the global batch.
            target: The other view of the same images.
            labels: int64 ``(b,)``, for the methods that use them.

        Returns:
            Scalar, float32 or float64: only the network runs in mixed precision, never the loss.
        """
        pairs = self._pairs(context, target)
        self._last = (pairs[0][0].detach(), pairs[0][1].detach())
        more = (labels,) if self._labels else ()
        with torch.autocast(context.device.type, enabled=False):
            losses = [self.criterion(*(_at_least_float32(z) for z in pair), *more) for pair in pairs]
        return torch.stack(losses).mean() if len(losses) > 1 else losses[0]

    def _pairs(self, context: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Embeddings of context and target, ``(b, dim)`` each; two such pairs where views change places."""
        if self.target_encoder is None:
            z_context, z_target = self.embed(torch.cat([context, target])).chunk(2)
            return [(z_context, z_target)]
        if self.training and torch.is_grad_enabled():
            self.target_encoder.update(nn.Sequential(self.backbone, self.projector))
        if not self._symmetric:
            return [(self.embed(context), self.target_encoder(target))]
        both = torch.cat([context, target])
        (first, second), (first_target, second_target) = self.embed(both).chunk(2), self.target_encoder(both).chunk(2)
        return [(first, second_target), (second, first_target)]

    def images_with_gradient(self, batch: int) -> int:
        """How many views of ``batch`` images pass the encoder with gradient in a step."""
        return batch if self.target_encoder is not None and not self._symmetric else 2 * batch

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings ``(b, dim)`` of context views."""
        z: Tensor = self.projector(self._features(images))
        return z

    def compile_backbone(self) -> None:
        """Compile the backbone for training; evaluation passes it as it is written, whatever the size of a batch."""
        # A compiled function is no submodule, so that the names of the state stay those of the backbone.
        self._compiled = torch.compile(self.backbone.forward)

    def _features(self, images: Tensor) -> Tensor:
        compiled = self._compiled if self.training else None
        features: Tensor = (compiled or self.backbone)(images)
        if self.watch is not None and self.training and torch.is_grad_enabled():
            self.watch(features.detach())
        return features

    def embed_target(self, images: Tensor) -> Tensor:
        """Embeddings ``(b, dim)`` of target views, by the moving average where there is one."""
        if self.target_encoder is None:
            return self.embed(images)
        z: Tensor = self.target_encoder(images)
        return z

    @property
    def predict(self) -> Callable[[Tensor], Tensor] | None:
        """What maps embeddings of contexts ``(b, dim)`` to expected ones of targets; ``None`` without a predictor."""
        found: Callable[[Tensor], Tensor] | None = getattr(self.criterion, "predict", None)
        return found

    def views(self, data: ImageData) -> ViewConfig:
        """The views that the module is trained or evaluated on; a trained model normalises as it was trained."""
        config = configured(data.image_size, data.channels, self._views)
        if self._preprocessing is None:
            return config
        return replace(config, mean=self._preprocessing.image_mean, std=self._preprocessing.image_std)

    def density(self) -> JointDensity | None:
        """The joint density that was learned in training; ``None`` for a method without one."""
        return self.criterion.density() if isinstance(self.criterion, Criterion) and self._has_density else None

    def forgo_density(self) -> None:
        """Be a method without a density from now on: there is none of embeddings that are all the same."""
        self.config, self._has_density = None, False

    def critic_density(self) -> JointDensity | None:
        """The density that the encoder was trained by, where a closing stage fitted the one that answers."""
        if isinstance(self.criterion, Criterion) and self.criterion.consolidated.fitted:
            return self.criterion.critic_density()
        return None

    def diagnostics(self) -> dict[str, float | str]:
        """Gauges of the last global batch with their verdict; every process must call it."""
        if isinstance(self.criterion, Criterion):
            return self.criterion.diagnostics()
        if self._last is None:
            return {}
        values = diagnostics.embedding_diagnostics(*gather_pairs(*(z.float() for z in self._last)))
        verdict = diagnostics.judge(values)
        return {**values, "verdict": verdict.name, "advice": verdict.advice}


def _at_least_float32(z: Tensor) -> Tensor:
    return z.to(torch.promote_types(z.dtype, torch.float32))


def build_module(
    method: str, suite: Suite, channels: int, seed: int, *, classes: int = 10, image_size: int | None = None
) -> JointEmbedding:
    """The module of a method; the encoder starts from the same weights for every method of a seed."""
    network = suite.network
    # Where the size of the images is not known, they are taken for large ones.
    small_images = network.small_stem(image_size) if image_size is not None else network.small_images is True
    torch.manual_seed(seed)
    backbone = build_backbone(network.backbone, in_channels=channels, small_images=small_images, image_size=image_size)
    objective = build_objective(method, Setting(network.dim, classes), suite.method.get(method, {}))
    if objective.model is not None:
        return of_model(objective, method, channels, image_size, suite.views)
    torch.manual_seed(seed + 1)
    projector = ProjectionHead(
        int(backbone.num_features),  # type: ignore[arg-type]
        network.hidden,
        network.dim,
        layers=network.layers,
        normalize=objective.normalize,
    )
    config = None
    if objective.published is not None and image_size is not None:
        criterion, options = objective.published
        config = GMJEConfig(
            backbone=network.backbone,
            in_channels=channels,
            image_size=image_size,
            small_images=small_images,
            dim=network.dim,
            hidden=network.hidden,
            layers=network.layers,
            normalize=objective.normalize,
            momentum=objective.momentum,
            criterion=criterion,
            criterion_options=options,
        )
    return JointEmbedding(backbone, projector, objective, method, config, views=suite.views)


def of_model(
    objective: Objective, method: str, channels: int, image_size: int | None, views: Views | None = None
) -> JointEmbedding:
    """The module of a model that was trained before; it takes the images that the model was trained for."""
    model = objective.model
    assert model is not None
    config = model.config
    if config.in_channels != channels:
        raise OptionError(f"{method} takes images of {config.in_channels} channels; the dataset's have {channels}")
    if image_size is not None and config.image_size != image_size:
        raise OptionError(
            f"{method} was trained on images of {config.image_size} pixels, not {image_size}: "
            f"add --image-size {config.image_size}"
        )
    module = JointEmbedding(model.backbone, model.projector, objective, method, config, model.preprocessing, views)
    module.target_encoder = model.target_encoder
    return module
