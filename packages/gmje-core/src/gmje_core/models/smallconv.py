"""A small convolutional backbone that is trained on a CPU; it needs torch alone."""

import itertools

import torch
from torch import Tensor, nn

__all__ = ["SmallConv"]


class SmallConv(nn.Module):
    """Four 3x3 convolutions of stride 2 with batch normalisation and ReLU, then global average pooling.

    Made to be trained on a CPU, on images of about 28x28 to 64x64 pixels. Weights and images are kept in
    channels-last order, which is a quarter faster there.

    Args:
        in_channels: Channels of the images.
        widths: Channels after each convolution; the last is the number of features.

    Examples:
        >>> network = SmallConv(in_channels=1)
        >>> network(torch.zeros(2, 1, 28, 28)).shape, network.num_features
        (torch.Size([2, 256]), 256)
    """

    def __init__(self, in_channels: int = 3, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        channels = [in_channels, *widths]
        blocks = [_conv_block(*pair) for pair in itertools.pairwise(channels)]
        self.blocks = nn.Sequential(*blocks).to(memory_format=torch.channels_last)
        self.num_features = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, num_features)`` of images ``(B, in_channels, H, W)``."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, ``(B, num_features, h, w)``."""
        features: Tensor = self.blocks(x.contiguous(memory_format=torch.channels_last))
        return features

    def forward_head(self, x: Tensor) -> Tensor:
        """The mean of the map over its places."""
        return x.mean(dim=(2, 3))


def _conv_block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
