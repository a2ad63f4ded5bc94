"""How far the log-probabilities of one modality spread over clips and clusters, and votes that all spread alike.

The joint score adds log-probabilities, so a modality has more say the more confident it is, and the labels become what
it alone can tell.  Equal votes are, with l (N, K) the log-probabilities of modality m under one head,

    z = l - mean over k;  centre = mean over n of z;  sigma_m = root mean square over n and k of z - centre
    vote = (l - centre) * max over m of sigma_m / sigma_m

over the clips that have it.  The mean over k differs between clips only, which no cluster is preferred by, so it need
not be taken off the vote; the centre is a liking for clusters that clips share.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from selavi.distributed import all_sum


class Spread:
    """Sums over blocks of clips, of this rank, from which centre and spread of all ranks' clips follow."""

    def __init__(self, num_clusters: int, device: torch.device) -> None:
        self.sums = torch.zeros(2 * num_clusters + 1, dtype=torch.float64, device=device)

    def add(self, log_probabilities: Tensor) -> None:
        """Add clips (n, K)."""
        values = log_probabilities.double()
        values = values - values.mean(1, keepdim=True)
        count = values.new_tensor([len(values)])
        self.sums += torch.cat([values.sum(0), values.square().sum(0), count])

    def measure(self) -> tuple[Tensor, float]:
        """The centre (K,) float64 and the spread; 0 where no rank has a clip."""
        sums = all_sum(self.sums)
        num_clusters = len(sums) // 2
        count = sums[-1].clamp(min=1)
        centre = sums[:num_clusters] / count
        variance = (sums[num_clusters:-1] / count - centre.square()).mean()
        return centre, float(variance.clamp(min=0).sqrt())


def equal_gains(spreads: Mapping[str, float]) -> dict[str, float]:
    """The factor with which each modality's votes spread as far as the widest; 1 for one that does not spread."""
    widest = max(spreads.values())
    return {name: widest / spread if spread > 0 else 1.0 for name, spread in spreads.items()}
