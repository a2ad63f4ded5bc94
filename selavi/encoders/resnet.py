"""ResNet (He et al., CVPR 2016) on one-channel log-mel spectrograms, from torchvision's blocks."""

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from selavi.encoders.encoder import Encoder
from selavi.encoders.r2plus1d import initialise


class AudioResNet(Encoder):
    """Log-mel spectrograms (B, 1, F, T) -> features (B, 8 * width).

    width=64 has the layers of torchvision's ResNet with a one-channel `conv1` and without `fc`, under the same
    names; depth 9 has one block a stage, depth 18 two.
    """

    stages = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, width: int = 64, depth: int = 9) -> None:
        super().__init__()
        blocks = {9: 1, 18: 2}[depth]
        self.conv1 = nn.Conv2d(1, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, blocks, stride=2)
        self.num_features = 8 * width
        initialise(self)
        self.to(memory_format=torch.channels_last)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, 1, F, T) -> (B, D)."""
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
