"""Pictures as the encoder reads them: crops of one size, normalised, and their random changes."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selavi.augment.colours import Normalise, channels_first
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
        self.normalise = Normalise(config.mean, config.std, num_axes=3)

    def plain(self, values: Tensor) -> Tensor:
        """The whole square, not mirrored."""
        return self.normalise(crop_resize(channels_first(values), self.config.size, *whole_square(values)))

    def random(self, values: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """A random square, perhaps mirrored, in other colours."""
        config = self.config
        x = random_crop(channels_first(values), config, draws)
        if config.colour_jitter > 0 or config.greyscale > 0:
            x = jitter_colour(x, config.colour_jitter, config.greyscale, draws)
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


def jitter_colour(clips: Tensor, strength: float, greyscale: float, draws: Mapping[str, Tensor]) -> Tensor:
    """Change brightness, contrast, saturation and hue of each clip as one affine map of its colours.

    Args:
        clips: (B, 3, T, h, w) float32 in [0, 255].
        strength: largest relative change; the hue turns by up to a quarter of it, in turns.
        greyscale: probability that no colour is left.
        draws: (B,) numbers of the clips, by name.
    """

    def factor(u: Tensor) -> Tensor:
        return 1 + strength * (2 * u - 1)

    saturation = torch.where(
        draws["greyscale"] < greyscale, torch.zeros_like(draws["saturation"]), factor(draws["saturation"])
    )
    angle = 2 * math.pi * (strength / 4) * (2 * draws["hue"] - 1)
    # Rec. 601 luma stays; chroma (Y, I, Q) turns by `angle` and scales by `saturation`
    to_yiq = clips.new_tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    cos, sin, zero = angle.cos() * saturation, angle.sin() * saturation, torch.zeros_like(angle)
    turn = torch.stack(
        [
            torch.stack([torch.ones_like(angle), zero, zero], 1),
            torch.stack([zero, cos, -sin], 1),
            torch.stack([zero, sin, cos], 1),
        ],
        1,
    )
    colour = torch.linalg.inv(to_yiq) @ turn @ to_yiq * factor(draws["brightness"])[:, None, None]
    mean = (colour @ clips.mean((2, 3, 4))[..., None]).mean(1)[:, 0]  # (B,) the grey that contrast turns about
    contrast = factor(draws["contrast"])
    shift = (mean * (1 - contrast))[:, None, None]
    mapped = torch.baddbmm(shift, colour * contrast[:, None, None], clips.flatten(2))
    return mapped.clamp_(0, 255).view_as(clips)


def whole_square(frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """side, x, y, flip of the whole square."""
    whole = torch.ones(frames.shape[0], device=frames.device)
    return whole, whole / 2, whole / 2, torch.zeros(frames.shape[0], dtype=torch.bool, device=frames.device)
