"""Colours as they are decoded -> as an encoder reads them."""

import math
from collections.abc import Mapping, Sequence

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


class ColourJitter(nn.Module):
    """Changes brightness, contrast, saturation and hue of each clip as one affine map of its colours.

    Args:
        strength: largest relative change; the hue turns by up to a quarter of it, in turns.
        greyscale: probability that no colour is left.
    """

    def __init__(self, strength: float, greyscale: float) -> None:
        super().__init__()
        self.strength, self.greyscale = strength, greyscale
        # Rec. 601 luma stays; chroma (Y, I, Q) turns and scales
        to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
        self.register_buffer("to_yiq", to_yiq, persistent=False)
        self.register_buffer("from_yiq", torch.linalg.inv(to_yiq), persistent=False)
        self.to_yiq: Tensor
        self.from_yiq: Tensor

    def forward(self, clips: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """Clips (B, 3, T, h, w) float32 in [0, 255] as their numbers, (B,) by name, say."""
        left = torch.where(draws["greyscale"] < self.greyscale, 0.0, self._factor(draws["saturation"]))
        angle = 2 * math.pi * (self.strength / 4) * (2 * draws["hue"] - 1)
        cos, sin, zero = angle.cos() * left, angle.sin() * left, torch.zeros_like(angle)
        turn = torch.stack(
            [
                torch.stack([torch.ones_like(angle), zero, zero], 1),
                torch.stack([zero, cos, -sin], 1),
                torch.stack([zero, sin, cos], 1),
            ],
            1,
        )
        colour = self.from_yiq @ turn @ self.to_yiq * self._factor(draws["brightness"])[:, None, None]
        mean = (colour @ clips.mean((2, 3, 4))[..., None]).mean(1)[:, 0]  # (B,) the grey that contrast turns about
        contrast = self._factor(draws["contrast"])
        shift = (mean * (1 - contrast))[:, None, None]
        mapped = torch.baddbmm(shift, colour * contrast[:, None, None], clips.flatten(2))
        return mapped.clamp_(0, 255).view_as(clips)

    def _factor(self, u: Tensor) -> Tensor:
        return 1 + self.strength * (2 * u - 1)


def channels_first(colours: Tensor) -> Tensor:
    """(B, ..., h, w, 3) uint8 -> (B, 3, ..., h, w) float32; moved as bytes, which are a quarter as many."""
    return colours.movedim(-1, 1).contiguous().float()
