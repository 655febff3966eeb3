"""Readers of encoded images and labels become a dataset."""

from collections.abc import Mapping

from torch import Tensor

from gmje_bench.datasets.base import FingerprintKind, ImageData, Split, check_classes
from gmje_bench.datasets.decoding import DEFAULT_SIZE, native_side
from gmje_bench.datasets.reading import BlockReader, LazyImages, Reader
from gmje_bench.datasets.selection import validation_split
from gmje_core.models.preprocessing import resize_side

__all__ = ["TEST_NAMES", "assemble"]

#: Names of the test part, the one that is taken first where there are several.
TEST_NAMES = ("test", "validation", "val")
_TEST_SHARE = 0.2


def assemble(
    name: str,
    readers: Mapping[str, Reader],
    labels: Mapping[str, Tensor],
    classes: tuple[str, ...],
    image_size: int | None,
    digest: tuple[str, FingerprintKind],
) -> ImageData:
    """A dataset of images that are decoded when they are asked for.

    Args:
        name: The name of the dataset.
        readers: What gives the encoded images of ``train`` and ``test``; where there is no ``test``, a fifth of every
            class of ``train`` is held out.
        labels: int64 ``(N,)`` of the same parts, class indices from 0.
        classes: Names in label order.
        image_size: Side in pixels that networks see; ``None`` for the images' own where they are small squares,
            else 224.
        digest: The fingerprint, and what it covers.

    Raises:
        DatasetError: a part is empty, an image cannot be read, or a class of ``test`` is not in ``train``.
    """
    check_classes(name, labels["train"], labels.get("test", labels["train"]), classes)
    first = readers["train"]
    native = native_side(*first.read(0))
    if isinstance(first, BlockReader):
        first.drop(0)
    size = image_size or native or DEFAULT_SIZE
    side = native or resize_side(size)
    splits = {part: Split.whole(LazyImages(reader, side), labels[part]) for part, reader in readers.items()}
    if "test" not in splits:
        held = validation_split(splits["train"].labels, _TEST_SHARE)
        splits["train"], splits["test"] = (splits["train"].select(indices) for indices in held)
    return ImageData(name, splits["train"], splits["test"], classes, 3, size, *digest)
