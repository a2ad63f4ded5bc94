"""What a training step saw, for those who look at what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
