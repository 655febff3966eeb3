"""What a run will be, known before it starts: its settings in full, its models on the meta device, steps and memory."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from gmje_bench.datasets import EMBEDDED, load_dataset
from gmje_bench.datasets.base import ImageData
from gmje_bench.datasets.names import HUB_PREFIXES
from gmje_bench.errors import BenchError, DatasetError, OptionError
from gmje_bench.methods import METHODS
from gmje_bench.suites import Suite, Views
from gmje_bench.training.module import JointEmbedding, build_module
from gmje_bench.views import configured
from gmje_core import GMJEError

__all__ = ["DataShape", "Memory", "build", "check_builds", "memory", "precision", "resolved", "shape_of"]

PRECISIONS = ("no", "bf16", "fp16")
#: Shapes of the sets that are fetched when they are first used: channels, classes, side, training and test images.
FETCHED = {
    "fashion_mnist": (1, 10, 28, 60_000, 10_000),
    "cifar10": (3, 10, 32, 50_000, 10_000),
    "cifar100": (3, 100, 32, 50_000, 10_000),
    "stl10": (3, 10, 96, 5_000, 8_000),
}
#: What is taken for images that cannot be looked at: the shape of ImageNet.
UNKNOWN_SIDE, UNKNOWN_CLASSES = 224, 1000
ASSUMED = "what follows is for images like ImageNet's"
PUBLISHED = "a dry run fetches nothing; the numbers are those that were published"


@dataclass(frozen=True)
class DataShape:
    """What models and schedules depend on of a dataset.

    Attributes:
        channels: 1 or 3.
        classes: Number of classes.
        image_size: Side in pixels of the images that networks see.
        train: Number of training images; ``None`` where the images are not here.
        test: Number of test images; ``None`` where the images are not here.
        note: Why the numbers are not known, or are not those of files; empty where they are.
    """

    channels: int
    classes: int
    image_size: int
    train: int | None = None
    test: int | None = None
    note: str = ""

    def describe(self) -> str:
        """The numbers in words."""
        counts = "an unknown number of" if self.train is None else f"{self.train:,} + {self.test:,}"
        kind = "grey" if self.channels == 1 else "colour"
        return f"{counts} {kind} images of {self.image_size} pixels, {self.classes:,} classes"

    @classmethod
    def of(cls, data: ImageData) -> "DataShape":
        """The shape of a dataset that is loaded."""
        return cls(data.channels, len(data.classes), data.image_size, len(data.train), len(data.test))


def shape_of(suite: Suite, *, required: bool) -> DataShape:
    """The shape of a suite's images, without fetching anything from a network.

    Args:
        suite: A suite of images.
        required: Whether a folder that is not there is an error; else the images are taken for those of ImageNet.

    Raises:
        DatasetError: the images are required and cannot be read.
        OptionError: the image size or the limit is out of range.
    """
    name = suite.dataset or EMBEDDED
    unknown = partial(DataShape, 3, UNKNOWN_CLASSES, suite.image_size or UNKNOWN_SIDE)
    if name in FETCHED:
        channels, classes, side, train, test = FETCHED[name]
        # The classes of these sets are of one size. They are held out before a limit is applied, as by the loader.
        left = classes - len(suite.held_out_classes)
        train, test, classes = train * left // classes, test // classes, left
        if suite.limit is not None and suite.limit < train:
            train, test = suite.limit, max(1, round(suite.limit / train * test))
        return DataShape(channels, classes, suite.image_size or side, train, test * classes, PUBLISHED)
    if name.partition(":")[0] in HUB_PREFIXES:
        return unknown(note=f"a dry run fetches nothing; {ASSUMED}")
    try:
        return DataShape.of(
            load_dataset(name, image_size=suite.image_size, limit=suite.limit, held_out_classes=suite.held_out_classes)
        )
    except DatasetError as error:
        if required:
            raise
        reason = str(error).partition(" (choose")[0]
        return unknown(note=f"{reason}; {ASSUMED}")


def precision(suite: Suite) -> str:
    """The precision of the network: the suite's, else what Accelerate was launched with.

    Raises:
        OptionError: Accelerate was launched with a precision that the harness does not have.
    """
    chosen = suite.training.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if chosen not in PRECISIONS:
        raise OptionError(
            f"accelerate was launched with --mixed_precision {chosen}; give it one of {', '.join(PRECISIONS)}"
        )
    return chosen


def resolved(suite: Suite, shape: DataShape | None) -> Suite:
    """A suite in which what was left to the images or to the launch is said: precision, stem and views.

    Args:
        suite: A validated suite.
        shape: The shape of its images; ``None`` where all tasks are synthetic.

    Raises:
        OptionError: a setting of the views does not fit the images.

    Examples:
        >>> from gmje_bench.suites import load_suite
        >>> suite = resolved(load_suite("imagenet-resnet50"), DataShape(3, 1000, 224))
        >>> suite.network.small_images, suite.views.crop_scale, suite.views.blur_kernel
        (False, [0.08, 1.0], 23)
    """
    training = suite.training.model_copy(update={"mixed_precision": precision(suite)})
    if shape is None:
        return suite.model_copy(update={"training": training})
    config = configured(shape.image_size, shape.channels, suite.views.model_dump())
    values = {name: getattr(config, name) for name in Views.model_fields}
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    views = Views.model_validate(lists)
    small = {"small_images": suite.network.small_stem(shape.image_size)}
    network = suite.network.model_copy(update=small)
    return suite.model_copy(update={"training": training, "network": network, "views": views})


def build(method: str, suite: Suite, shape: DataShape, seed: int) -> JointEmbedding:
    """Build what a method trains.

    Raises:
        OptionError: the core refuses the backbone or a setting.
    """
    try:
        return build_module(method, suite, shape.channels, seed, classes=shape.classes, image_size=shape.image_size)
    except GMJEError as error:
        raise OptionError(str(error)) from error


def check_builds(suite: Suite, shape: DataShape, look: Callable[[str, JointEmbedding], None] = lambda *_: None) -> None:
    """Build every method without memory for its weights, and pass a batch of nothing through the encoder.

    Args:
        suite: A resolved suite.
        shape: The shape of its images.
        look: A function that is called with each method's name and module.

    Raises:
        OptionError: the core refuses the backbone or a setting, or the encoder refuses images of that size.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index, method in enumerate(suite.methods):
            if METHODS[method].pretrained:
                look(method, build(method, suite, shape, suite.seeds[0]))
                continue
            module = _on_meta(method, suite, shape)
            if index == 0:
                _check_forward(module, suite, shape)
            look(method, module)


def _on_meta(method: str, suite: Suite, shape: DataShape) -> JointEmbedding:
    try:
        with torch.device("meta"):
            return build(method, suite, shape, suite.seeds[0])
    except BenchError:
        raise
    except Exception:
        # A method of the user's own may compute with its weights when it is built, which needs real ones.
        return build(method, suite, shape, suite.seeds[0]).to("meta")


def _check_forward(module: JointEmbedding, suite: Suite, shape: DataShape) -> None:
    size = shape.image_size
    try:
        _embed(module, 2, shape)
    except NotImplementedError:  # An operation has no form on the meta device, which says nothing about the real one.
        return
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OptionError(
            f"the backbone {suite.network.backbone} does not take images of {size} pixels ({reason}); choose another "
            "--image-size or --backbone"
        ) from error


def _embed(module: JointEmbedding, images: int, shape: DataShape) -> Tensor:
    side = shape.image_size
    return module.train().embed(torch.empty(images, shape.channels, side, side, device="meta"))


@dataclass(frozen=True)
class Memory:
    """Bytes that the training of a method needs in each process.

    Attributes:
        parameters: Number of parameters, of which an optimiser trains ``trained``.
        trained: Number of parameters that are trained.
        weights: Bytes of parameters and buffers, those of a momentum encoder included.
        gradients: Bytes of the gradients.
        optimizer: Bytes of the optimiser's state: two numbers for each trained parameter with AdamW, else one.
        activations: Bytes that the encoder keeps of one forward pass for the backward pass; ``None`` where they could
            not be measured.
    """

    parameters: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    activations: int | None

    @property
    def total(self) -> int:
        """All of them together."""
        return self.weights + self.gradients + self.optimizer + (self.activations or 0)


def memory(module: JointEmbedding, suite: Suite, shape: DataShape, processes: int) -> Memory:
    """Count and measure the memory of training, without any.

    Weights, gradients and the optimiser's state are counted. The activations are measured: a forward pass of a whole
    batch on the meta device, in float32, tells what would be kept; mixed precision halves them. Views, the loss and
    what libraries set aside come on top.

    Args:
        module: A module on the meta device.
        suite: A resolved suite.
        shape: The shape of its images.
        processes: Number of processes that the batch is divided over.
    """
    tensors = [*module.parameters(), *module.buffers()]
    trained = [p for p in module.parameters() if p.requires_grad] if module.trains else []
    gradients = sum(map(_bytes, trained))
    training = suite.training
    activations: int | None = 0
    if module.trains:
        share = training.batch_size // processes
        activations = _saved(module, module.images_with_gradient(share), shape)
        if activations is not None and training.mixed_precision != "no":
            activations //= 2
    return Memory(
        parameters=sum(p.numel() for p in module.parameters()),
        trained=sum(p.numel() for p in trained),
        weights=sum(map(_bytes, tensors)),
        gradients=gradients,
        optimizer=gradients * (2 if training.optimizer == "adamw" else 1),
        activations=activations,
    )


def _saved(module: nn.Module, images: int, shape: DataShape) -> int | None:
    """Bytes of the tensors that a forward pass keeps, each storage counted once and the parameters not at all."""
    assert isinstance(module, JointEmbedding)
    parameters = {p.untyped_storage()._cdata for p in module.parameters()}
    # The storages are held, so that none is freed and its place taken by another one.
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            kept[storage._cdata] = storage
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            _embed(module, images, shape)
    except NotImplementedError:
        return None
    return sum(int(storage.nbytes()) for storage in kept.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
