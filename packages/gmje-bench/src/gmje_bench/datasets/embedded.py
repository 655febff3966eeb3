"""The data inside the package: 10,000 + 2,000 images of Fashion-MNIST, class-balanced (MIT licence beside them).

``scripts/make_embedded.py`` made the file from the original ones; its checksum is verified at every load.
"""

import hashlib
import io
from importlib import resources

import numpy as np
import torch

from gmje_bench.datasets.base import ImageData, fingerprint, resident_split
from gmje_bench.errors import DatasetError

__all__ = ["CLASSES", "SHA256", "load"]

CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FILE = "fashion_mnist_12k.npz"
SHA256 = "0d5cf3b12710e0836717a545e11c4afe94d68fc34e39b0f23a597cb9b68df988"


def load() -> ImageData:
    """The embedded dataset.

    Raises:
        DatasetError: the file in the package is damaged.
    """
    content = (resources.files("gmje_bench.datasets") / "data" / FILE).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise DatasetError(
            f"the embedded data {FILE} is damaged (SHA-256 {digest[:12]}..., expected {SHA256[:12]}...); "
            "reinstall gmje-bench"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    train = resident_split(tensors["train_images"].unsqueeze(1), tensors["train_labels"])
    test = resident_split(tensors["test_images"].unsqueeze(1), tensors["test_labels"])
    return ImageData("fashion_mnist_12k", train, test, CLASSES, 1, 28, fingerprint(content))
