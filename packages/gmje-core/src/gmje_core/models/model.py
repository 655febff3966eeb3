"""The model: backbone, projection head and criterion in one module, with the questions a density can answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gmje_core.criteria import build_criterion
from gmje_core.densities.covariance.scaled import ScaledCovariance
from gmje_core.densities.joint import JointDensity
from gmje_core.densities.mixture import GaussianMixture
from gmje_core.errors import ConfigError, ShapeError
from gmje_core.models.backbones import build_backbone
from gmje_core.models.config import GMJEConfig
from gmje_core.models.heads import ProjectionHead
from gmje_core.models.momentum import MomentumEncoder
from gmje_core.models.preprocessing import Preprocessing

__all__ = ["GMJEOutput", "JointEmbeddingModel", "Uncertainty"]

# Elements of the largest temporary tensor of `uncertainty`: the conditional means (B, K, d_t) of some rows.
LARGEST_TEMPORARY = 2**24


class GMJEOutput(NamedTuple):
    """The result of a training step.

    Attributes:
        loss: Scalar, in nats per pair.
        z_context: ``(B, dim)`` embeddings of the context views.
        z_target: ``(B, dim)`` embeddings of the target views.
        features: ``(B, num_features)`` backbone features of the context views.
    """

    loss: Tensor
    z_context: Tensor
    z_target: Tensor
    features: Tensor


class Uncertainty(NamedTuple):
    """How sure the model is of the target of each context, in parts that mean different things.

    Attributes:
        within: ``(B,)`` trace of the covariance within the modes: how loose each answer is.
        between: ``(B,)`` trace of the covariance between the modes: how far apart several answers lie.
        weight_entropy: ``(B,)`` entropy in nats of the posterior weights of the means: how many answers there are.
        surprise: ``(B,)`` :math:`-\\log q(z_c)` in nats: how unusual the context is.
    """

    within: Tensor
    between: Tensor
    weight_entropy: Tensor
    surprise: Tensor


class JointEmbeddingModel(nn.Module):
    """A joint-embedding model with an explicit density (arXiv 2603.26799).

    Train it on two views; then ask it for embeddings, conditionals, log-densities, uncertainty and samples.

    Args:
        config: Backbone, head and criterion to build.
        preprocessing: How :meth:`preprocess` presents stored images; ``None`` where it is not known. It is saved with
            the model.

    Raises:
        ConfigError: unknown backbone or criterion, or options that they do not take; a preprocessing for images of
            another size or number of channels.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> model = JointEmbeddingModel(GMJEConfig(backbone="smallconv", in_channels=1, image_size=28, dim=8,
        ...                              hidden=32, criterion_options={"components": 4}))
        >>> views = torch.rand(2, 16, 1, 28, 28)
        >>> out = model(*views)
        >>> out.loss.backward()
        >>> out.z_context.shape, out.features.shape
        (torch.Size([16, 8]), torch.Size([16, 256]))
        >>> model.condition(views[0]).mean.shape          # q(z_t | z_c)
        torch.Size([16, 8])
        >>> model.uncertainty(views[0]).surprise.shape
        torch.Size([16])
    """

    def __init__(self, config: GMJEConfig, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        if preprocessing is not None:
            preprocessing.check_fits(config)
        self.config, self.preprocessing = config, preprocessing
        self.backbone = build_backbone(
            config.backbone,
            in_channels=config.in_channels,
            small_images=config.small_images,
            image_size=config.image_size,
        )
        self.projector = ProjectionHead(
            int(self.backbone.num_features),  # type: ignore[arg-type]
            config.hidden,
            config.dim,
            layers=config.layers,
            normalize=config.normalize,
        )
        self.criterion = build_criterion(config.criterion, config.dim, **config.criterion_options)
        self.target_encoder = MomentumEncoder(self._encoder, config.momentum) if config.momentum else None

    def forward(self, x_context: Tensor, x_target: Tensor) -> GMJEOutput:
        """One training step's loss and embeddings.

        Both views pass through the network together, so that batch normalisation sees both; with ``momentum`` the
        target views pass through the moving average instead, which first takes a step toward the network.

        Args:
            x_context: ``(B, C, H, W)`` context views.
            x_target: ``(B, C, H, W)`` target views, of the same size.

        Raises:
            ShapeError: images of another shape, or views that differ in shape.
            NonFiniteError, BatchSizeError: see :class:`gmje_core.criteria.Criterion`.
        """
        self._check(x_context)
        self._check(x_target)
        if x_context.shape != x_target.shape:
            raise ShapeError(
                f"both views must have the same shape, but have {tuple(x_context.shape)} and {tuple(x_target.shape)}"
            )
        if self.target_encoder is None:
            features = self.backbone(torch.cat([x_context, x_target]))
            z_context, z_target = self.projector(features).split([len(x_context), len(x_target)])
        else:
            if self.training and torch.is_grad_enabled():
                self.target_encoder.update(self._encoder)
            features = self.backbone(x_context)
            z_context, z_target = self.projector(features), self.target_encoder(x_target)
        return GMJEOutput(self.criterion(z_context, z_target), z_context, z_target, features[: len(x_context)])

    def preprocess(self, images: Tensor) -> Tensor:
        """Stored images, uint8 ``(B, C, H, W)``, as the model takes them: float32 ``(B, C, image_size, image_size)``.

        Raises:
            ConfigError: the model was made without :attr:`preprocessing`.
            ShapeError: images of another dtype, shape or number of channels.
        """
        if self.preprocessing is None:
            raise ConfigError(
                "this model does not say how its images were normalised: set model.preprocessing = Preprocessing(...), "
                "or normalise them as in training"
            )
        return self.preprocessing(images)

    def density(self) -> JointDensity:
        """The learned joint density of the two views' embeddings."""
        return self.criterion.density()

    def features(self, x: Tensor) -> Tensor:
        """Backbone features ``(B, num_features)``, the input of probes and downstream tasks."""
        self._check(x)
        with self._inference():
            features: Tensor = self.backbone(self._cast(x))
        return features

    def forward_features(self, x: Tensor) -> Tensor:
        """The backbone's last map before pooling, as in timm: ``(B, num_features, h, w)``, or tokens ``(B, n, d)``.

        The model keeps its mode, and the result carries a gradient.
        """
        self._check(x)
        features: Tensor = self.backbone.forward_features(x)  # type: ignore[operator]
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Embeddings ``(B, dim)`` of the result of :meth:`forward_features`, as in timm.

        Args:
            x: Result of :meth:`forward_features`.
            pre_logits: Stop at the pooled features ``(B, num_features)``.
        """
        features: Tensor = self.backbone.forward_head(x)  # type: ignore[operator]
        return features if pre_logits else self.projector(features)

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings ``(B, dim)`` of context views, the space that the density lives in."""
        self._check(x)
        with self._inference():
            z: Tensor = self._encoder(self._cast(x))
        return z.to(torch.promote_types(z.dtype, torch.float32))

    def embed_target(self, x: Tensor) -> Tensor:
        """Embeddings ``(B, dim)`` of target views: by the moving average where there is one, else as :meth:`embed`."""
        if self.target_encoder is None:
            return self.embed(x)
        self._check(x)
        with self._inference():
            z: Tensor = self.target_encoder(self._cast(x))
        return z.to(torch.promote_types(z.dtype, torch.float32))

    def condition(self, x_context: Tensor) -> GaussianMixture:
        """The distribution of the target's embedding given the context, batch shape ``(B,)``."""
        return self.density().condition(self.embed(x_context))

    def log_prob(self, x_context: Tensor, x_target: Tensor) -> Tensor:
        """Joint log-density ``(B,)`` of pairs of images, in nats."""
        return self.density().log_prob(self.embed(x_context), self.embed_target(x_target))

    def uncertainty(self, x: Tensor) -> Uncertainty:
        r"""How sure the model is of the other view of ``x``, by the law of total covariance.

        .. math::
            \operatorname{tr} \mathrm{Cov}[z_t \mid z_c]
            = \sum_k w_k(z_c) \operatorname{tr} S_k + \sum_k w_k(z_c)\, |m_k(z_c) - m(z_c)|^2

        Args:
            x: ``(B, C, H, W)`` context views.

        Returns:
            The two terms, the entropy of the weights and the surprise, each ``(B,)``.
        """
        density = self.density()
        rows = max(1, LARGEST_TEMPORARY // (density.components * density.target_dim))
        parts = [_uncertainty(density, z) for z in self.embed(x).split(rows)]
        return Uncertainty(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def sample(self, n: int) -> tuple[Tensor, Tensor]:
        """``n`` pairs of embeddings from the joint density, each ``(n, dim)``."""
        return self.density().sample((n,))

    @property
    def _encoder(self) -> nn.Sequential:
        """The map from images to embeddings, which shares its parameters with the model."""
        return nn.Sequential(self.backbone, self.projector)

    def _cast(self, images: Tensor) -> Tensor:
        """Images in the type that the encoder was cast to, where it was."""
        return images.to(next(self.backbone.parameters()).dtype)

    def _check(self, images: Tensor) -> None:
        channels = self.config.in_channels
        if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point():
            raise ShapeError(
                f"images must be floating point of shape (B, {channels}, H, W), but are {images.dtype} of shape "
                f"{tuple(images.shape)}"
            )

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Switch gradients and batch statistics off for a while; the mode of every module is put back afterwards."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, training in modes.items():
                module.training = training


def _uncertainty(density: JointDensity, z: Tensor) -> Uncertainty:
    """Sum each part on its own, because the smaller one would lose its digits in a difference of variances."""
    posterior = density.condition(z)
    within = posterior.weights * posterior.covariance.diagonal().sum(dim=-1)
    spread = (posterior.means - posterior.mean.unsqueeze(-2)).square().sum(dim=-1)
    return Uncertainty(
        within.sum(dim=-1),
        (posterior.weights * spread).sum(dim=-1),
        _entropy_of_answers(posterior),
        -density.context.log_prob(z),
    )


def _entropy_of_answers(posterior: GaussianMixture) -> Tensor:
    """Entropy ``(B,)`` in nats over the means of a mixture: the scales of one mean are one answer."""
    covariance = posterior.covariance
    scales = len(covariance.scales) if isinstance(covariance, ScaledCovariance) else 1
    answers = posterior.weights.unflatten(-1, (-1, scales)).sum(dim=-1)
    entropy: Tensor = torch.special.entr(answers).sum(dim=-1)
    return entropy
