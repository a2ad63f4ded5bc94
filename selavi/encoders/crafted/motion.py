"""Where in a clip something moves, and in which rhythm, in numbers."""

import torch.nn.functional as F
from torch import Tensor

from selavi.encoders.crafted.sound import temporal_statistics
from selavi.encoders.encoder import Encoder

CELLS, FRAMES = 4, 16
"""Cells a side, and times, to which a clip's changes are averaged."""
WAVES = 4


class CraftedMotion(Encoder):
    """Changes of brightness (B, 1, T, h, w) -> (B, 128): eight statistics over time of the change in 4 x 4 cells."""

    num_features = CELLS * CELLS * (4 + WAVES)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, 1, T, h, w) -> (B, 128) float32."""
        amount = F.adaptive_avg_pool3d(inputs.float().abs(), (FRAMES, CELLS, CELLS))[:, 0]
        return temporal_statistics(amount.flatten(2).transpose(1, 2), WAVES)
