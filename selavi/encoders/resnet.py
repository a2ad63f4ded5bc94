"""ResNet (He et al., CVPR 2016) on log-mel spectrograms and still pictures, from torchvision's blocks."""

from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from selavi.encoders.encoder import Encoder
from selavi.encoders.r2plus1d import initialise


class ResNet(Encoder):
    """Planes (B, C, h, w), or spectrograms (B, 1, F, T) -> features (B, 8 * width).

    width=64 has the layers of torchvision's ResNet without `fc` and with a `conv1` of C channels, under the same names.

    Args:
        channels: C.
        width: channels of the first stage.
        depth: 9 has one block a stage, 18 two.
        stem: what comes before the stages.  strided: as published, for which four pixels a side become one; plain: a
            3 x 3 convolution, which keeps small pictures as large as they are.
    """

    stages = ("layer1", "layer2", "layer3", "layer4")

    def __init__(
        self, channels: int, width: int = 64, depth: int = 9, stem: Literal["strided", "plain"] = "strided"
    ) -> None:
        super().__init__()
        blocks = {9: 1, 18: 2}[depth]
        strided = stem == "strided"
        kernel, stride = (7, 2) if strided else (3, 1)
        self.conv1 = nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1) if strided else nn.Identity()
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, blocks, stride=2)
        self.num_features = 8 * width
        initialise(self)
        self.to(memory_format=torch.channels_last)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D)."""
        x = inputs.contiguous(memory_format=torch.channels_last)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))


def _stage(width_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or width_in != width:
        shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
    return nn.Sequential(
        BasicBlock(width_in, width, stride, shortcut),
        *(BasicBlock(width, width) for _ in range(blocks - 1)),
    )
