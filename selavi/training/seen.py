"""What a training step saw, for those who look at what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from selavi.batch import ClipBatch


@dataclass(frozen=True)
class Seen:
    """What a training step saw of its clips."""

    batch: ClipBatch
    logits: Mapping[str, Tensor]
    """(H, B, K) a branch."""
    features: Mapping[str, Tensor] = field(default_factory=dict)
    """(B, D) a branch, where they are kept."""
    present: Mapping[str, Tensor] = field(default_factory=dict)
    """(B,) bool a branch."""


def join_seen(batch: ClipBatch, parts: Sequence[Seen]) -> Seen:
    """What a step saw of a batch whose micro-batches came one after another."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    return Seen(
        batch,
        {name: torch.cat([part.logits[name] for part in parts], 1) for name in first.logits},
        {name: torch.cat([part.features[name] for part in parts]) for name in first.features},
        {name: torch.cat([part.present[name] for part in parts]) for name in first.present},
    )
