"""Conditional samples in pictures: of the right images, and spread as the density is."""

import dataclasses

import pytest
import torch
from torch import Tensor

from gmje_bench.protocol import PROTOCOL
from gmje_bench.tasks.densities import Scale
from gmje_bench.tasks.sampling.conditional import conditional_pictures, to_bytes
from gmje_bench.tasks.sampling.decoder import Decoder
from gmje_bench.tasks.subject import Embedded, Subject
from gmje_bench.views import TwoViews, preset
from gmje_core import JointGaussianMixture

COUNT, DIM = 20, 2


class Plain(Decoder):
    """A decoder whose pictures are as light as the first coordinate of the embedding."""

    def forward(self, z: Tensor, noise: Tensor) -> Tensor:
        return z[:, :1, None, None].expand(-1, *self.shape)


def make_subject(variance: float) -> Subject:
    z = torch.rand(COUNT, DIM, generator=torch.Generator().manual_seed(0))
    images = torch.randint(0, 256, (COUNT, 1, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    part = Embedded((torch.arange(COUNT) > 17).long(), z, images, z, z, z)
    eye = torch.eye(DIM)
    joint = torch.cat([torch.cat([(1 + variance) * eye, eye], 1), torch.cat([eye, (1 + variance) * eye], 1)])
    density = JointGaussianMixture.from_moments(torch.ones(1), torch.zeros(1, 2 * DIM), joint[None], DIM)
    return Subject("gmje", 0, ("a",), part, part, part, density, views=preset(8, 1))


def pictures(subject: Subject) -> dict[str, Tensor]:
    found = conditional_pictures(subject, Plain(DIM, 1, 8), Scale(torch.zeros(DIM).double(), 1.0))
    return {name.removeprefix("sampling.conditional."): tensor for name, tensor in found.items()}


def test_rows_hold_the_same_image_and_samples_the_spread_of_the_density():
    subject = make_subject(1e-6)
    found = pictures(subject)
    assert {name: tuple(x.shape) for name, x in found.items()} == {
        **dict.fromkeys(("context", "target", "real", "mean"), (3, 1, 8, 8)),
        "samples": (3, 8, 1, 8, 8),
    }
    assert all(x.dtype == torch.uint8 for x in found.values())
    assert (found["mean"].int() - found["real"].int()).abs().max() <= 1, "views are the same up to very little here"
    assert (found["samples"].int() - found["real"][:, None].int()).abs().max() <= 2
    wide = pictures(make_subject(0.02))["samples"].float()
    assert wide[:, :, 0, 0, 0].std(dim=1).min() > 5


def test_views_are_those_that_were_embedded():
    subject = make_subject(1.0)
    config = subject.views
    assert config is not None
    for name, views in zip(
        ("context", "target"), TwoViews(config, PROTOCOL.view_seed)(subject.test.images, epoch=0, step=0), strict=True
    ):
        pixels = to_bytes(views * torch.tensor(config.std) + torch.tensor(config.mean))
        rows = [
            (pixels == picture).flatten(1).all(dim=1).nonzero().flatten().tolist()
            for picture in pictures(subject)[name]
        ]
        assert [len(row) for row in rows] == [1, 1, 1], name
        shown = pictures(subject)["real"][:, 0, 0, 0]
        assert torch.equal(to_bytes(subject.test.target[[row[0] for row in rows], 0]), shown), "one image in a row"


def test_embeddings_of_unit_norm_are_decoded_there():
    subject = make_subject(0.5)
    z = torch.nn.functional.normalize(subject.test.target, dim=1)
    part = dataclasses.replace(subject.test, context=z, target=z)
    found = pictures(dataclasses.replace(subject, test=part))
    # The conditional mean is the context, shrunk to two thirds; on the circle it is the context itself.
    assert (found["mean"].int() - found["real"].int()).abs().max() <= 1


def test_images_are_of_different_classes_as_far_as_there_are():
    subject = make_subject(1.0)
    shown = pictures(subject)["real"][:, 0, 0, 0]
    values = to_bytes(subject.test.target[:, 0])
    labels = [int(subject.test.labels[int((values == value).nonzero()[0, 0])]) for value in shown]
    assert set(labels[:2]) == {0, 1}


@pytest.mark.parametrize("missing", ["density", "views"])
def test_nothing_is_made_of_a_method_without_a_density_or_of_unknown_views(missing):
    assert pictures(dataclasses.replace(make_subject(1.0), **{missing: None})) == {}
