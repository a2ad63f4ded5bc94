"""Still pictures as the encoder reads them: resized cuts, normalised, and their random changes."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selavi.augment.colours import ColourJitter, Normalise, channels_first
from selavi.config import ImageConfig

_LARGEST_BLUR = 0.01
"""Standard deviation of the strongest blur, as a share of the side: 2.2 of 224 pixels, about that of SimCLR."""


class ImageAugmentation(nn.Module):
    """Pictures (B, h, w, 3) uint8 -> normalised cuts (B, 3, size, size) float32."""

    draws: ClassVar[Mapping[str, int]] = {
        "area": 24,
        "ratio": 25,
        "crop_x": 26,
        "crop_y": 27,
        "flip": 28,
        "brightness": 29,
        "contrast": 30,
        "saturation": 31,
        "hue": 32,
        "greyscale": 33,
        "blur": 34,
        "rotation": 35,
        "shear": 36,
    }
    expects: ClassVar[tuple[str, ...]] = ("image.mean", "image.std")

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.config = config
        self.jitter = ColourJitter(config.colour_jitter, config.greyscale)
        self.normalise = Normalise(config.mean, config.std, num_axes=2)

    def plain(self, values: Tensor) -> Tensor:
        """The whole square, as it is."""
        planes = channels_first(values)
        whole = torch.eye(2, 3, device=planes.device).expand(planes.shape[0], 2, 3)
        return self.normalise(_cut(planes, whole, self.config.size))

    def random(self, values: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """A random part, perhaps mirrored, turned and slanted, in other colours, perhaps blurred."""
        config = self.config
        pictures = _cut(channels_first(values), place_of(config, draws), config.size)
        if config.colour_jitter > 0 or config.greyscale > 0:
            pictures = self.jitter(pictures[:, :, None], draws)[:, :, 0]
        if config.blur > 0:
            pictures = blur(pictures, draws["blur"] / config.blur)
        return self.normalise(pictures)


def place_of(config: ImageConfig, draws: Mapping[str, Tensor]) -> Tensor:
    """Where the cut of each picture lies (B, 2, 3): from places in the cut to places in the picture, both in [-1, 1].

    The cut has a random share of the picture's area and a random ratio of its sides, lies anywhere inside (one that is
    larger than the picture: anywhere around it), and is turned and slanted about its middle.
    """
    low, high = config.crop_area
    area = low + (high - low) * draws["area"]
    ratio = torch.exp(math.log(config.crop_ratio) * (2 * draws["ratio"] - 1))
    largest = math.sqrt(max(1.0, high))
    width, height = (area * ratio).sqrt().clamp(max=largest), (area / ratio).sqrt().clamp(max=largest)
    mirrored = torch.where(draws["flip"] < config.flip, -width, width)
    angle = math.radians(config.rotation) * (2 * draws["rotation"] - 1)
    slant = torch.tan(math.radians(config.shear) * (2 * draws["shear"] - 1))
    cos, sin = angle.cos(), angle.sin()
    across = [cos * mirrored, (cos * slant - sin) * height, (2 * draws["crop_x"] - 1) * (1 - width)]
    down = [sin * mirrored, (sin * slant + cos) * height, (2 * draws["crop_y"] - 1) * (1 - height)]
    return torch.stack([torch.stack(across, 1), torch.stack(down, 1)], 1)


def blur(pictures: Tensor, shares: Tensor) -> Tensor:
    """Blur each of (B, 3, h, w) by a share (B,) of the strongest blur, in [0, 1); from 1 on it stays as it is.

    Pixels beyond the edge are as the edge.  Each picture is summed by itself, so it is the same in any batch.
    """
    strongest = _LARGEST_BLUR * pictures.shape[-1]
    reach = max(1, math.ceil(3 * strongest))
    spread = torch.where(shares < 1, strongest * shares, torch.zeros_like(shares)).clamp(min=1e-3)
    steps = torch.arange(-reach, reach + 1, device=pictures.device)
    weights = torch.softmax(-(steps**2) / (2 * spread[:, None] ** 2), 1)  # (B, 2 reach + 1)
    for axis in (2, 3):
        places = torch.arange(pictures.shape[axis], device=pictures.device)
        blurred = torch.zeros_like(pictures)
        for number, step in enumerate(range(-reach, reach + 1)):
            beside = pictures.index_select(axis, (places + step).clamp(0, len(places) - 1))
            blurred += weights[:, number, None, None, None] * beside
        pictures = blurred
    return pictures


def _cut(planes: Tensor, places: Tensor, size: int) -> Tensor:
    grid = F.affine_grid(places, [planes.shape[0], 1, size, size], align_corners=False)
    return F.grid_sample(planes, grid, padding_mode="border", align_corners=False)
