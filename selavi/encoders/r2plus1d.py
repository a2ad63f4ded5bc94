"""R(2+1)D (Tran et al., CVPR 2018, arXiv 1711.11248) of any width, from torchvision's blocks."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock

from selavi.encoders.encoder import Encoder


class R2Plus1D(Encoder):
    """Clips (B, C, T, h, w) -> features (B, 8 * width).

    width=64, depth=18 has the parameters of torchvision's r2plus1d_18 without `fc`, under the same names.
    Layout vmz has the names and shapes of XDC's weights: torchvision gives both pairs of convolutions in a block the
    intermediate channels of the first, VMZ (and the paper) each its own (pytorch/vision issue 1265); and the
    batch norms' epsilon is Caffe2's.
    Convolutions start from Kaiming's normal distribution (fan out), batch norm from scale 1 and shift 0.
    """

    stages = ("layer1", "layer2", "layer3", "layer4")

    def __init__(
        self, width: int = 64, depth: int = 18, layout: Literal["torchvision", "vmz"] = "torchvision", channels: int = 3
    ) -> None:
        super().__init__()
        blocks = {10: 1, 18: 2}[depth]
        pair = _OwnChannels if layout == "vmz" else Pair
        stem_width = max(3, 45 * width // 64)  # torchvision: 45 spatial filters for 64 outputs
        self.stem = nn.Sequential(
            FlatConv3d(channels, stem_width, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
            nn.BatchNorm3d(stem_width),
            nn.ReLU(inplace=True),
            FlatConv3d(stem_width, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )
        self.layer1 = _stage(width, width, blocks, 1, pair)
        self.layer2 = _stage(width, 2 * width, blocks, 2, pair)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2, pair)
        self.layer4 = _stage(4 * width, 8 * width, blocks, 2, pair)
        self.num_features = 8 * width
        if layout == "vmz":
            for layer in self.modules():
                if isinstance(layer, nn.BatchNorm3d):
                    layer.eps = 1e-3
        initialise(self)
        self.to(memory_format=torch.channels_last_3d)  # the faster layout, in which FlatConv3d copies nothing

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, T, h, w) -> (B, D)."""
        if inputs.device.type == "cpu":  # bf16 3-D convolutions on a CPU now and then give NaN gradients (torch 2.14)
            with torch.autocast("cpu", enabled=False):
                return self._encode(inputs.float())
        return self._encode(inputs)

    def _encode(self, clips: Tensor) -> Tensor:
        x = self.stem(clips.contiguous(memory_format=torch.channels_last_3d))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3, 4))


def initialise(module: nn.Module) -> None:
    """Kaiming normal (fan out) for convolutions, 1 and 0 for batch norm (selavi, model.py: random_weight_init)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)


class FlatConv3d(nn.Conv3d):
    """A 3-D convolution within each picture (1 x k x k), or at each place over time (k x 1 x 1), computed as a 2-D one.

    With the channels innermost in memory both are views of the clip:

        B, T, h, w, C  ->  B T pictures of h x w      k x k
                       ->  B pictures of T x h w      k x 1

    On a CPU the wider encoders take half to three quarters of the time so, the narrow ones as long as before
    (docs/results/flat.md).
    """

    def forward(self, clips: Tensor) -> Tensor:
        """(B, C, T, h, w) -> (B, C', T', h', w')."""
        num_clips, _, num_frames, height, width = clips.shape
        weight, stride, padding = self.weight, self.stride, self.padding
        assert isinstance(padding, tuple)
        if self.kernel_size[0] == 1:
            pictures = clips.transpose(1, 2).flatten(0, 1)
            outputs = F.conv2d(pictures, weight.squeeze(2), self.bias, stride[1:], padding[1:])
            return outputs.unflatten(0, (num_clips, num_frames)).transpose(1, 2)
        outputs = F.conv2d(clips.flatten(3), weight.squeeze(4), self.bias, (stride[0], 1), (padding[0], 0))
        return outputs.unflatten(3, (height, width))


class Pair(nn.Sequential):
    """A convolution of each picture, then one over time, with torchvision's names and number of channels between."""

    def __init__(self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1, padding: int = 1) -> None:
        across, along = (1, stride, stride), (stride, 1, 1)
        super().__init__(
            FlatConv3d(in_planes, midplanes, (1, 3, 3), across, (0, padding, padding), bias=False),
            nn.BatchNorm3d(midplanes),
            nn.ReLU(inplace=True),
            FlatConv3d(midplanes, out_planes, (3, 1, 1), along, (padding, 0, 0), bias=False),
        )


class _OwnChannels(Pair):
    """A pair of convolutions with as many parameters as the 3x3x3 one between the same channels (paper: M_i)."""

    def __init__(self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1, padding: int = 1) -> None:
        own = 27 * in_planes * out_planes // (9 * in_planes + 3 * out_planes)
        super().__init__(in_planes, out_planes, own, stride, padding)


def _stage(width_in: int, width: int, blocks: int, stride: int, pair: type[Pair]) -> nn.Sequential:
    shortcut = None
    if stride != 1 or width_in != width:
        shortcut = nn.Sequential(nn.Conv3d(width_in, width, 1, stride=stride, bias=False), nn.BatchNorm3d(width))
    first = BasicBlock(width_in, width, pair, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(width, width, pair) for _ in range(blocks - 1)))
