"""The small convolutional backbone: any size, every pixel, either memory format."""

import pytest
import torch

from gmje_core.models.smallconv import SmallConv


def images(channels: int = 3, size: int = 32, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [16, 28, 32, 64, 96])
def test_smallconv_takes_images_of_any_size(size):
    assert SmallConv(in_channels=1)(images(1, size)).shape == (2, 256)


def test_smallconv_sees_the_whole_image():
    """Every pixel of a 28x28 image has a say in the features: the strides skip none."""
    torch.manual_seed(0)
    x = images(1, 28, batch=8).requires_grad_()
    SmallConv(in_channels=1).eval()(x).square().sum().backward()
    assert (x.grad.abs().sum(dim=0) > 0).all()


def test_smallconv_does_not_depend_on_the_memory_format():
    torch.manual_seed(0)
    network, x = SmallConv(in_channels=3).eval(), images(size=28)
    torch.testing.assert_close(network(x.to(memory_format=torch.channels_last)), network(x), rtol=0, atol=0)
