"""Cross-entropy of every head and modality with the clip's pseudo-label (SeLaVi, eq. 4)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from selavi.config import Config
from selavi.training.objectives.term import Loss, Step, Term


def multi_head_loss(logits: Tensor, labels: Tensor, present: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of (H, B, K) logits with (B, H) pseudo-labels over the heads and the clips present (B,).

    A label of -1 (a partial labelling left the clip out, or it lacks the modality that labels) does not count.
    `weights` (B, H) says how much each label counts; without it all count alike.
    """
    num_heads = len(logits)
    targets = labels.T.flatten()
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none", ignore_index=-1)
    weight = present.to(losses).expand(num_heads, -1).flatten() * (targets >= 0)
    if weights is not None:
        weight = weight * weights.T.flatten()
    return (losses * weight).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def selavi_loss(
    logits: Mapping[str, Tensor],
    labels: Tensor,
    present: Mapping[str, Tensor],
    weights: Tensor | None = None,
    reduce: str = "sum",
) -> Tensor:
    """Sum or mean over the branches (modalities, or their concatenation) of multi_head_loss.

    Args:
        logits: (H, B, K) a branch.
        labels: (B, H), shared by the branches (SeLaVi); or (B, M x H) where each of M has its own (own and cross
            labels): the first H columns are those of the first branch in `logits`, and so on.
        present: (B,) bool a branch.
        weights: of the labels, in the same shape.
        reduce: sum, with which each branch learns at the optimiser's rate; mean is published.

    Raises:
        ValueError: another number of columns.
    """
    num_heads = len(next(iter(logits.values())))
    sets = labels.split(num_heads, 1)
    if labels.shape[1] not in (num_heads, len(logits) * num_heads):
        raise ValueError(
            f"expected labels of {num_heads} heads, or of {num_heads} for each of {', '.join(logits)}, "
            f"got {tuple(labels.shape)}"
        )
    parts = [None] * len(sets) if weights is None else list(weights.split(num_heads, 1))
    losses = torch.stack(
        [
            multi_head_loss(z, sets[number % len(sets)], present[name], parts[number % len(sets)])
            for number, (name, z) in enumerate(logits.items())
        ]
    )
    return losses.mean() if reduce == "mean" else losses.sum()


def make_term(config: Config) -> Term:
    """Cross-entropy with the labels of the bank."""
    reduce = config.loss.reduce

    def loss(step: Step) -> Loss:
        logits, present = step.judged
        labels, weights = step.read_labels()
        total = selavi_loss(logits, labels, present, weights, reduce)
        return Loss(total, total.detach() / (len(logits) if reduce == "sum" else 1))

    return Term(loss)
