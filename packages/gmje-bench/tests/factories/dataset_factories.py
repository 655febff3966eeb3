"""Tiny images, folders and tables for the tests of datasets, and the check that an error is one clear line."""

import io
import tarfile

import datasets as hub
import numpy as np
import pytest
import torch
from PIL import Image

from gmje_bench.datasets import load_dataset
from gmje_bench.errors import DatasetError


def picture(seed, width=20, height=20, mode="RGB"):
    """Smooth random colours, which a lossy format keeps."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(256, size=(4, 4, 3), dtype=np.uint8)).resize((width, height)).convert(mode)


def encoded(image, suffix="png"):
    stream = io.BytesIO()
    image.save(stream, "jpeg" if suffix == "jpg" else suffix)
    return stream.getvalue()


def folder_of(path, counts, size=(20, 20), suffix="png"):
    """``counts[class]`` images in ``path/class``."""
    for label, (name, count) in enumerate(counts.items()):
        (path / name).mkdir(parents=True)
        for i in range(count):
            (path / name / f"{i:03}.{suffix}").write_bytes(encoded(picture(1000 * label + i, *size), suffix))
    return path


def rows(count, classes=3, size=(20, 20), start=0):
    return {
        "image": [{"bytes": encoded(picture(start + i, *size)), "path": None} for i in range(count)],
        "label": [i % classes for i in range(count)],
    }


def table(columns, names=("ant", "bee", "cat"), label="label"):
    features = {"image": hub.Image(), label: hub.ClassLabel(names=list(names)) if names else hub.Value("int64")}
    return hub.Dataset.from_dict(columns, features=hub.Features(features))


def tar_of(path, samples):
    """A tar file of ``(key, {ending: content})``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, files in samples:
            for ending, content in files.items():
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def samples(count, classes=3, size=(20, 20), start=0, suffix="png"):
    """The pictures of :func:`rows` as samples of a tar file."""
    return [
        (f"{start + i:05}", {suffix: encoded(picture(start + i, *size), suffix), "cls": str(i % classes).encode()})
        for i in range(count)
    ]


def everything(split, workers=0):
    parts = list(split.batches(torch.arange(split.n).split(4), workers))
    return tuple(torch.cat(items) for items in zip(*parts, strict=True))


def fails(spec, *texts, error=DatasetError, **options):
    """One line that says all of ``texts``."""
    with pytest.raises(error) as caught:
        load_dataset(spec, **options)
    message = str(caught.value)
    assert "\n" not in message
    for text in texts:
        assert str(text) in message
    return message
