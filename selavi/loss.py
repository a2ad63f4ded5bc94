"""Cross-entropy of every head and modality with the clip's pseudo-label (SeLaVi, eq. 4)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_head_loss(logits: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """Mean cross-entropy of (H, B, K) logits with (B, H) pseudo-labels over the heads and the clips present (B,).

    A label of -1 (a partial labelling left the clip out) does not count.
    """
    num_heads = len(logits)
    targets = labels.T.flatten()
    each = F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none", ignore_index=-1)
    weight = present.to(each).expand(num_heads, -1).flatten() * (targets >= 0)
    return (each * weight).sum() / weight.sum().clamp(min=1)


def selavi_loss(logits: Mapping[str, Tensor], labels: Tensor, present: Mapping[str, Tensor]) -> Tensor:
    """Mean over the modalities of multi_head_loss: one label for each clip and head, shared by the modalities."""
    return torch.stack([multi_head_loss(z, labels, present[name]) for name, z in logits.items()]).mean()
