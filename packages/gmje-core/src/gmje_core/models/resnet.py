"""Residual backbones, from torchvision.

Importing this module imports torchvision, which takes seconds; :func:`gmje_core.models.backbones.build_backbone`
imports it when a ResNet is built.
"""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

__all__ = ["ResNet"]


class ResNet(TorchvisionResNet):  # type: ignore[misc]
    """Torchvision's residual network without its classifier; parameters keep torchvision's names.

    Args:
        depth: 18, 34 or 50.
        in_channels: Channels of the images.
        small_images: First convolution 3x3 with stride 1 and no max-pooling, for images up to about 64x64.

    Examples:
        >>> import torch
        >>> ResNet(18, in_channels=1, small_images=True)(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 512])
    """

    def __init__(self, depth: int, *, in_channels: int = 3, small_images: bool = False) -> None:
        block, layers = {
            18: (BasicBlock, [2, 2, 2, 2]),
            34: (BasicBlock, [3, 4, 6, 3]),
            50: (Bottleneck, [3, 4, 6, 3]),
        }[depth]
        super().__init__(block, layers, num_classes=1)
        self.fc = nn.Identity()
        self.num_features = 512 * block.expansion
        if small_images:
            self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        elif in_channels != 3:
            self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, num_features)`` of images ``(B, in_channels, H, W)``."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, ``(B, num_features, h, w)``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return features

    def forward_head(self, x: Tensor) -> Tensor:
        """The mean of the map over its places."""
        features: Tensor = self.avgpool(x).flatten(1)
        return features
