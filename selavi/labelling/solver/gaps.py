"""How far clusters have to go: clips counted by how many nats they are away.

Axes: N clips, K clusters.  A gap is how far (nats) the potential of a cluster has to rise until a clip comes over to
it, or to fall until a clip leaves it.  Counts are (2, K, GAP_BINS): of clips that come over, and of clips that leave.
Gaps are counted below 4 nats, in quarters of an octave (the leading bits of a float32) up to 2 ** 16, and beyond.
"""

from __future__ import annotations

import torch
from torch import Tensor

GAP_BINS = 57
SHIFT = 21
FIRST_BITS = (127 + 2) << 2


def gap_edges() -> Tensor:
    """(GAP_BINS,) nats up to which gaps are counted in each bin; the last one holds all that are further."""
    bits = torch.arange(FIRST_BITS, FIRST_BITS + GAP_BINS, dtype=torch.int32) << SHIFT
    return bits.view(torch.float32).double()


def gap_bins(gaps: Tensor) -> Tensor:
    """Where gaps (nats) are counted, int64; one below 0 is a small one."""
    return ((gaps.float().view(torch.int32) >> SHIFT) - (FIRST_BITS - 1)).clamp_(0, GAP_BINS - 1).long()


def ways(counts: Tensor, masses: Tensor, gradient: Tensor, num_rows: int) -> Tensor:
    """(K,) nats that each cluster has to go until its mass is right while all others stay.

    Args:
        counts: (2, K, GAP_BINS) clips by the gap at which they come over to a cluster, and at which they leave it.
        masses: (K,) mean row of the plan.
        gradient: (K,) masses - what they should be.
        num_rows: N of all processes.
    """
    #  mass that comes over   ┌───────     need
    #                   ┌─────┘ ─ ─ ─ ─ ─ ─ ─
    #              ─────┘     ↑
    #              0   gap    way    gap
    masses, need = masses * num_rows, -gradient * num_rows
    counts = counts.clone()
    # Clips that waver come over, or leave, within a few nats.
    counts[0, :, 0] = (num_rows - counts[0, :, 1:].sum(1) - masses).clamp(min=0)
    counts[1, :, 0] = (masses - counts[1, :, 1:].sum(1)).clamp(min=0)
    rising = (need > 0)[:, None]
    curve = torch.where(rising, counts[0], counts[1]).cumsum(1)
    place = (curve < need.abs()[:, None]).sum(1, keepdim=True).clamp(max=GAP_BINS - 1)
    before = (place - 1).clamp(min=0)
    below = torch.where(place > 0, curve.gather(1, before), 0.0)
    share = ((need.abs()[:, None] - below) / (curve.gather(1, place) - below).clamp(min=1e-300)).clamp(0, 1)
    edges = gap_edges().to(curve.device).expand(len(curve), -1)
    start = torch.where(place > 0, edges.gather(1, before), 0.0)
    return (start + share * (edges.gather(1, place) - start))[:, 0]
