"""Timbre and rhythm of a spectrogram in numbers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from selavi.encoders.encoder import Encoder

BANDS, FRAMES = 32, 31
"""To which a spectrogram is averaged, whatever its shape."""
WAVES = 4
"""Slowest rhythms that are measured, from one wave over the clip on."""


class CraftedSound(Encoder):
    """Log-mel spectrograms (B, 1, F, T') -> (B, 256): eight statistics over time of each of 32 bands.

    They are mean, standard deviation, maximum, mean absolute change, and the magnitudes of the four slowest waves: none
    depends on when in the clip the sound begins, if what leaves at one end enters at the other.
    """

    num_features = BANDS * (4 + WAVES)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, 1, F, T') -> (B, 256) float32."""
        return temporal_statistics(F.adaptive_avg_pool2d(inputs.float(), (BANDS, FRAMES))[:, 0], WAVES)


def temporal_statistics(rows: Tensor, num_waves: int) -> Tensor:
    """Mean, standard deviation, maximum, mean absolute change and the magnitudes of the slowest waves of each row.

    Args:
        rows: (B, R, T) over time.
        num_waves: so many waves, from one over the whole time on.

    Returns:
        (B, R * (4 + num_waves)).
    """
    std, mean = torch.std_mean(rows, 2)
    change = rows.diff(dim=2).abs().mean(2)
    waves = torch.fft.rfft(rows, dim=2)[..., 1 : num_waves + 1].abs()
    return torch.cat([mean, std, rows.amax(2), change, waves.flatten(1)], 1)
