"""Pictures as the encoder reads them: crops of one size, normalised, and their random changes."""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selavi.augment.colours import ColourJitter, Normalise, channels_first
from selavi.config import VideoConfig


class VideoAugmentation(nn.Module):
    """Frames (B, T, h, w, 3) uint8 -> normalised crops (B, 3, T, size, size) float32."""

    draws: ClassVar[Mapping[str, int]] = {
        "crop_side": 0,
        "crop_x": 1,
        "crop_y": 2,
        "flip": 3,
        "brightness": 4,
        "contrast": 5,
        "saturation": 6,
        "hue": 7,
        "greyscale": 8,
    }
    expects: ClassVar[tuple[str, ...]] = ("video.mean", "video.std")

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        self.config = config
        self.jitter = ColourJitter(config.colour_jitter, config.greyscale)
        self.normalise = Normalise(config.mean, config.std, num_axes=3)

    def plain(self, values: Tensor) -> Tensor:
        """The whole square, not mirrored."""
        return self.normalise(crop_resize(channels_first(values), self.config.size, *whole_square(values)))

    def random(self, values: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """A random square, perhaps mirrored, in other colours."""
        config = self.config
        x = random_crop(channels_first(values), config, draws)
        if config.colour_jitter > 0 or config.greyscale > 0:
            x = self.jitter(x, draws)
        return self.normalise(x)


def random_crop(planes: Tensor, config: VideoConfig, draws: Mapping[str, Tensor]) -> Tensor:
    """The square of each clip that its numbers say, perhaps mirrored: (B, C, T, h, w) -> (B, C, T, size, size)."""
    low, high = config.crop_fraction
    side = low + (high - low) * draws["crop_side"]
    return crop_resize(planes, config.size, side, draws["crop_x"], draws["crop_y"], draws["flip"] < config.flip)


def crop_resize(planes: Tensor, size: int, side: Tensor, x: Tensor, y: Tensor, flip: Tensor) -> Tensor:
    """Cut a square from each clip and resize it bilinearly.

    Args:
        planes: (B, C, T, h, w) float32.
        size: side of the result in pixels.
        side: (B,) side of the square as a share of the frame.
        x: (B,) place of the square from left (0) to right (1).
        y: (B,) place from top to bottom.
        flip: (B,) bool, mirror left and right.

    Returns:
        (B, C, T, size, size) float32.
    """
    zero = torch.zeros_like(side)
    theta = torch.stack(
        [
            torch.stack([torch.where(flip, -side, side), zero, (2 * x - 1) * (1 - side)], 1),
            torch.stack([zero, side, (2 * y - 1) * (1 - side)], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [planes.shape[0], 1, size, size], align_corners=False)
    cut = F.grid_sample(planes.flatten(1, 2), grid, padding_mode="border", align_corners=False)
    return cut.unflatten(1, planes.shape[1:3])


def whole_square(frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """side, x, y, flip of the whole square."""
    whole = torch.ones(frames.shape[0], device=frames.device)
    return whole, whole / 2, whole / 2, torch.zeros(frames.shape[0], dtype=torch.bool, device=frames.device)
