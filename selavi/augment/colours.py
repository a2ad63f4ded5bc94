"""Colours as they are decoded -> as an encoder reads them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """Colours (B, 3, ..., h, w) float32 in [0, 255] -> (colour / 255 - mean) / std, in one pass.

    Args:
        mean: of the three colours in [0, 1].
        std: of the three colours.
        num_axes: behind the colours: 2 for pictures, 3 for clips.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], num_axes: int) -> None:
        super().__init__()
        shape = (3, *(1,) * num_axes)
        centre, spread = (torch.tensor(values, dtype=torch.float64).view(shape) for values in (mean, std))
        self.register_buffer("scale", (1 / (255 * spread)).float(), persistent=False)
        self.register_buffer("shift", (-centre / spread).float(), persistent=False)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, colours: Tensor) -> Tensor:
        """Normalise."""
        return torch.addcmul(self.shift, colours, self.scale)


def channels_first(colours: Tensor) -> Tensor:
    """(B, ..., h, w, 3) uint8 -> (B, 3, ..., h, w) float32; moved as bytes, which are a quarter as many."""
    return colours.movedim(-1, 1).contiguous().float()
