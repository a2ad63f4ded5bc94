"""Statistics of sound as features: nothing of them is learned."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selavi.encoders.crafted.sound import CraftedSound
from selavi.encoders.encoder import Encoder

BANDS = 8
"""Bands whose rise and fall together is measured."""


class SoundStatistics(Encoder):
    """Log-mel spectrograms (B, 1, F, T') -> (B, 284): those of CraftedSound, and how alike each two of 8 bands run.

    After the sound textures of McDermott and Simoncelli (Neuron 2011): moments of each band, its slow rhythms, and the
    correlations between bands.  Every number is brought to mean 0 and variance 1 over the training clips.
    """

    num_features = CraftedSound.num_features + BANDS * (BANDS - 1) // 2

    def __init__(self) -> None:
        super().__init__()
        self.crafted = CraftedSound()
        # momentum None: the mean over all that was seen, not a moving one
        self.scale = nn.BatchNorm1d(self.num_features, affine=False, momentum=None)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, 1, F, T') -> (B, 284) float32."""
        return self.scale(torch.cat([self.crafted(inputs), band_correlations(inputs)], 1))


def band_correlations(inputs: Tensor) -> Tensor:
    """Correlations over time between every two of 8 bands: (B, 1, F, T') -> (B, 28); 0 where one does not change."""
    bands = F.adaptive_avg_pool2d(inputs.float(), (BANDS, inputs.shape[3]))[:, 0]
    unit = F.normalize(bands - bands.mean(2, keepdim=True), dim=2, eps=1e-6)
    first, second = torch.triu_indices(BANDS, BANDS, 1, device=inputs.device)
    return (unit @ unit.transpose(1, 2))[:, first, second]
