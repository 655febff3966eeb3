"""The data inside the package: 10,000 + 2,000 images of Fashion-MNIST, class-balanced (MIT licence beside them).

``scripts/make_embedded.py`` made the file from the original ones; its checksum is verified at every load.
"""

import hashlib
import io
from importlib import resources

import numpy as np
import torch

from gmje_bench.datasets.base import ImageData, ResidentImages, Split, fingerprint
from gmje_bench.errors import DatasetError

__all__ = ["CLASSES", "FILE", "NAME", "SHA256", "load"]

NAME = "fashion_mnist_12k"
CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FILE = "fashion_mnist_12k.npz"
SHA256 = "aa3aa1d4cbd96ab3d52486eecb3d904e62209f065604efaaef57ad2a9c3cd16b"


def load() -> ImageData:
    """The embedded dataset.

    Raises:
        DatasetError: the file in the package is missing or damaged.
    """
    try:
        content = (resources.files("gmje_bench.datasets") / "data" / FILE).read_bytes()
    except OSError as error:
        raise DatasetError(f"the embedded data cannot be read ({error}); reinstall gmje-bench") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise DatasetError(
            f"the embedded data {FILE} is damaged (SHA-256 {digest[:12]}..., expected {SHA256[:12]}...); "
            "reinstall gmje-bench"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in sorted(arrays.files)}
    train, test = (
        Split.whole(ResidentImages(tensors[f"{part}_images"].unsqueeze(1)), tensors[f"{part}_labels"].long())
        for part in ("train", "test")
    )
    return ImageData(NAME, train, test, CLASSES, 1, 28, fingerprint(*tensors.values()), "content")
