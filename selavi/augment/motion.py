"""Motion as the encoder reads it: crops of the changes between frames."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from selavi.augment.video import crop_resize, random_crop, whole_square
from selavi.config import VideoConfig
from selavi.modalities.motion import STILL

SCALE = 32.0
"""The change, in steps of brightness of 256, that counts as 1."""


class MotionAugmentation(nn.Module):
    """Changes of brightness (B, T - 1, h, w) uint8 -> crops (B, 1, T - 1, size, size) float32; 0 is no change.

    The square is the one that the pictures of a modality with the same settings have; their colours are not changed
    here.
    """

    draws: ClassVar[Mapping[str, int]] = {"crop_side": 0, "crop_x": 1, "crop_y": 2, "flip": 3}
    expects: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        self.config = config

    def plain(self, values: Tensor) -> Tensor:
        """The whole square, not mirrored."""
        return crop_resize(_planes(values), self.config.size, *whole_square(values))

    def random(self, values: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """A random square, perhaps mirrored."""
        return random_crop(_planes(values), self.config, draws)


def _planes(values: Tensor) -> Tensor:
    """(B, T, h, w) uint8 -> (B, 1, T, h, w) float32."""
    return (values[:, None].to(torch.float32) - STILL) / SCALE
