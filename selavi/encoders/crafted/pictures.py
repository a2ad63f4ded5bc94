"""Shapes and colours of frames in numbers: oriented gradients and a grid of mean colours."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from selavi.encoders.encoder import Encoder

NUM_FRAMES = 2
"""Evenly spaced ones that are looked at."""
SIDE = 48
"""Pixels of the side to which frames are resized."""
CELLS, BINS, GRID = 6, 8, 3
"""Cells a side and orientations of the gradients; cells a side of the colours."""
FLAT, SCALE = 0.09, 3.0
"""Mean gradient, in standard deviations of a colour, below which a cell counts as flat; length of the others."""


class CraftedPictures(Encoder):
    """Normalised frames (B, 3, T, h, w), or pictures (B, 3, h, w) -> (B, 315).

    They are 288 gradients and 27 colours; of several frames, the mean over two.
    """

    num_features = CELLS * CELLS * BINS + GRID * GRID * 3

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, 3, T, h, w) or (B, 3, h, w) -> (B, 315) float32."""
        inputs = inputs if inputs.dim() == 5 else inputs[:, :, None]
        frames = inputs[:, :, _evenly(inputs.shape[2])].transpose(1, 2)
        planes = F.interpolate(frames.flatten(0, 1).float(), (SIDE, SIDE), mode="bilinear", antialias=True)
        colours = F.adaptive_avg_pool2d(planes, GRID).flatten(1)
        values = torch.cat([oriented_gradients(planes), colours], 1)
        return values.unflatten(0, frames.shape[:2]).mean(1)


def oriented_gradients(planes: Tensor) -> Tensor:
    """(B, 3, h, w) -> (B, 6 x 6 x 8): how strong edges of each direction are in each cell (after Dalal, Triggs 2005).

    The colour with the steepest gradient decides at each pixel; a gradient counts for the two nearest of eight
    directions, by its distance from them; every cell has about the same length, unless it is flat.
    """
    across = F.pad(planes[..., 2:] - planes[..., :-2], (1, 1)) / 2
    down = F.pad(planes[..., 2:, :] - planes[..., :-2, :], (0, 0, 1, 1)) / 2
    strength, strongest = (across.square() + down.square()).sqrt().max(1, keepdim=True)
    across, down = across.gather(1, strongest), down.gather(1, strongest)
    place = torch.atan2(down, across) / math.pi % 1 * BINS
    bins = torch.arange(BINS, device=planes.device).view(-1, 1, 1)
    distance = (place - bins).abs()
    weight = (1 - torch.minimum(distance, BINS - distance)).clamp(min=0)
    cells = F.adaptive_avg_pool2d(strength * weight, CELLS)
    return (SCALE * cells / (cells.norm(dim=1, keepdim=True) + FLAT)).flatten(1)


def _evenly(num_frames: int) -> list[int]:
    """Numbers of the frames that are looked at."""
    count = min(num_frames, NUM_FRAMES)
    return [(2 * number + 1) * num_frames // (2 * count) for number in range(count)]
