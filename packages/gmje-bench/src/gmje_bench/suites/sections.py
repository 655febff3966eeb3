"""The sections of a suite: network, views, training and synthetic tasks, each key with its range. Free of torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gmje_bench.errors import did_you_mean

__all__ = [
    "BACKBONES",
    "RIVALS",
    "SYNTHETIC_TASKS",
    "MixedPrecision",
    "Network",
    "Positive",
    "Strict",
    "Synthetic",
    "Training",
    "Views",
    "choice",
]

MixedPrecision = Literal["no", "bf16", "fp16"]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[list[Rate], Field(min_length=2, max_length=2)]

#: The names that ``gmje_core.models.backbones.backbone_names`` gives, written out so that torch is not needed.
BACKBONES = ("smallconv", "resnet18", "resnet34", "resnet50")
#: The names of the tasks and rivals in ``gmje_bench.alignment``, written out for the same reason.
SYNTHETIC_TASKS = ("mixture", "inverse-sine", "crossing", "two-moons", "pinwheel", "ring", "band", "robot-arm")
RIVALS = ("mse", "gje", "gmje", "mdn", "flow")
#: Images up to this side, in pixels, get a ResNet's stem for small images.
SMALL_SIDE = 64
#: Learning rates that are scaled with the batch are given for so many images.
BASE_BATCH = 256


class Strict(BaseModel):
    """Base of all sections: an unknown key or a value of another type is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Network(Strict):
    """The encoder, the same for every method.

    Attributes:
        backbone: A name that ``gmje_core.models.backbones.build_backbone`` takes.
        small_images: Whether a ResNet gets the stem for images of about 32 pixels; ``"auto"`` for a ResNet of
            torchvision on images of at most 64 pixels.
        hidden: Width of the projection head.
        dim: Embedding size.
        layers: Number of linear layers of the projection head.
    """

    backbone: str = "resnet18"
    small_images: bool | Literal["auto"] = "auto"
    hidden: Positive = 2048
    dim: Positive = 128
    layers: Positive = 2

    @field_validator("backbone")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in BACKBONES and not name.startswith("timm:"):
            raise ValueError(f"unknown backbone {name!r}{did_you_mean(name, [*BACKBONES, 'timm:NAME'])}")
        return name

    @field_validator("small_images", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        if value != "auto" and not isinstance(value, bool):
            raise ValueError(f"must be true, false or 'auto', got {value!r}")
        return value

    def small_stem(self, image_size: int) -> bool:
        """Whether the backbone gets the stem for small images.

        Args:
            image_size: Side in pixels of the images that the network sees.

        Examples:
            >>> [Network(backbone="resnet50").small_stem(side) for side in (32, 224)]
            [True, False]
            >>> Network(backbone="timm:resnet18").small_stem(32)
            False
        """
        if isinstance(self.small_images, bool):
            return self.small_images
        return self.backbone.startswith("resnet") and image_size <= SMALL_SIDE


class Views(Strict):
    """What differs from the views that ``gmje_bench.views.preset`` recommends for the images; a missing key does not.

    Attributes:
        crop_scale: Area of the crop as a share of the image's, uniform in this range.
        crop_ratio: Width over height of the crop, log-uniform in this range.
        flip: Probability of a horizontal flip.
        jitter_probability: Probability of the four colour operations together.
        brightness: Brightness factors are uniform in ``[max(0, 1 - b), 1 + b]``.
        contrast: Contrast factors are drawn in the same way.
        saturation: Saturation factors are drawn in the same way; it changes nothing on grey images.
        hue: Hue shifts are uniform in ``[-h, h]`` turns; it changes nothing on grey images.
        grayscale: Probability of dropping colour.
        blur_probability: Probability of a Gaussian blur.
        blur_kernel: Width of the blur's kernel in pixels, odd, less than twice the images' side.
        blur_sigma: Standard deviation of the blur in pixels, uniform in this range.
        masked: Top, bottom, left and right of a box in shares of the side, which the context does not show and the
            target shows alone; missing, both views show the whole image.
    """

    crop_scale: Range | None = None
    crop_ratio: Range | None = None
    flip: Share | None = None
    jitter_probability: Share | None = None
    brightness: Strength | None = None
    contrast: Strength | None = None
    saturation: Strength | None = None
    hue: Annotated[float, Field(ge=0, le=0.5)] | None = None
    grayscale: Share | None = None
    blur_probability: Share | None = None
    blur_kernel: Positive | None = None
    blur_sigma: Range | None = None
    masked: Annotated[list[Share], Field(min_length=4, max_length=4)] | None = None


class Training(Strict):
    """The budget and the optimiser, the same for every method.

    Attributes:
        epochs: Number of passes over the training images.
        batch_size: Number of images in a global batch, over all processes.
        optimizer: ``adamw``, ``sgd`` or ``lars`` (both with momentum 0.9).
        learning_rate: Learning rate at the end of the warm-up; a cosine takes it to zero.
        learning_rate_scaling: ``constant``: the rate is used as it is. ``linear``: it is for 256 images and grows
            with the batch. ``sqrt``: it grows with the square root of the batch.
        criterion_learning_rate: Learning rate of the criterion's own parameters (density networks, predictors,
            prototypes), which is not scaled; missing, they have the encoder's.
        weight_decay: Weight decay of all parameters but biases and those of normalisation and criterion.
        warmup_steps: Number of steps of the linear warm-up.
        warmup_epochs: Epochs of the linear warm-up, in place of ``warmup_steps``.
        mixed_precision: ``no``, ``bf16`` or ``fp16``; missing, what Accelerate was launched with. Densities stay in
            float32.
        workers: Number of processes that decode images of folders and tables, for each process that trains; missing,
            its share of the cores but one, at most 16. Views do not depend on it.
        shuffle_blocks: Of about so many blocks a batch takes its images, where these are read in blocks (row groups of
            Parquet shards); about twice as many are in memory, over all processes.
        mixed_evaluation: Whether features that tasks see are computed in the mixed precision of training too.
        online_probe: Whether a linear classifier of detached features is trained along, which changes no other number.
        channels_last: Whether weights and images of the network are kept in channels-last order, the faster one on
            GPUs.
        tf32: Whether GPUs may compute the network's float32 convolutions in TF32; densities never are.
        compile: Whether ``torch.compile`` compiles the backbone for training.
        checkpoint_minutes: A checkpoint is written at least every so many minutes, besides that of every epoch.
    """

    epochs: Positive = 100
    batch_size: Annotated[int, Field(ge=2)] = 256
    optimizer: Literal["adamw", "sgd", "lars"] = "adamw"
    learning_rate: Rate = 1e-3
    learning_rate_scaling: Literal["constant", "linear", "sqrt"] = "constant"
    criterion_learning_rate: Rate | None = None
    weight_decay: Strength = 1e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    warmup_epochs: Strength | None = None
    mixed_precision: MixedPrecision | None = None
    workers: Annotated[int, Field(ge=0)] | None = None
    shuffle_blocks: Positive = 32
    mixed_evaluation: bool = False
    online_probe: bool = False
    channels_last: bool = False
    tf32: bool = True
    compile: bool = False
    checkpoint_minutes: Rate | None = None

    @model_validator(mode="after")
    def _decay_of_lars(self) -> Self:
        if self.optimizer == "lars" and self.weight_decay == 0:
            raise ValueError("lars adapts the rates of decayed parameters only: weight_decay must be above 0")
        return self

    @property
    def peak_rate(self) -> float:
        """The learning rate at the end of the warm-up, scaled with the batch.

        Examples:
            >>> Training(learning_rate=0.3, batch_size=4096, learning_rate_scaling="linear").peak_rate
            4.8
        """
        if self.learning_rate_scaling == "constant":
            return self.learning_rate
        ratio = self.batch_size / BASE_BATCH
        return self.learning_rate * (ratio if self.learning_rate_scaling == "linear" else ratio**0.5)

    def warmup(self, steps_per_epoch: int) -> int:
        """Number of steps of the warm-up.

        Args:
            steps_per_epoch: Number of steps of an epoch.

        Examples:
            >>> Training(warmup_steps=20).warmup(39), Training(warmup_steps=20, warmup_epochs=1.5).warmup(40)
            (20, 60)
        """
        return self.warmup_steps if self.warmup_epochs is None else round(self.warmup_epochs * steps_per_epoch)


def choice(name: str, kind: str, choices: tuple[str, ...]) -> str:
    """The name, if it is one of the choices.

    Raises:
        ValueError: it is not; the text names the closest one.
    """
    if name not in choices:
        raise ValueError(f"unknown {kind} {name!r}{did_you_mean(name, choices)}")
    return name


class Synthetic(Strict):
    """Conditional densities on fixed embeddings, measured against a known truth.

    Attributes:
        tasks: Names in :data:`SYNTHETIC_TASKS`.
        methods: Names in :data:`RIVALS`.
        dims: Sizes that both views are lifted to; 0 for the tasks' own one or two dimensions.
        samples: Number of training pairs; lifted tasks get two and a half times as many.
        epochs: Number of epochs of the networks.
    """

    tasks: Annotated[list[str], Field(min_length=1)] = list(SYNTHETIC_TASKS)
    methods: Annotated[list[str], Field(min_length=1)] = ["mse", "gje", "gmje", "mdn"]
    dims: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    samples: Annotated[int, Field(ge=100)] = 20_000
    epochs: Positive = 20

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, names: list[str]) -> list[str]:
        return [choice(name, "task", SYNTHETIC_TASKS) for name in names]

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, names: list[str]) -> list[str]:
        return [choice(name, "method", RIVALS) for name in names]

    @field_validator("dims")
    @classmethod
    def _room(cls, dims: list[int]) -> list[int]:
        for dim in dims:
            if dim == 1:
                raise ValueError("tasks are lifted to at least 2 dimensions (0 leaves their own)")
        return dims
