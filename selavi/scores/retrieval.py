"""Which clips of a gallery are nearest to each query, and how often one of them has the query's label.

Axes: Q queries, G clips of the gallery, D features.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

RANKS = (1, 5, 10, 20, 50)
_STEPS = 1 << 20  # similarities are compared in steps of 2**-20, so that rounding decides no tie


@torch.no_grad()
def nearest(
    queries: Tensor, gallery: Tensor, num_nearest: int, *, query_block: int = 1024, gallery_block: int = 65536
) -> tuple[Tensor, Tensor]:
    """Find the clips of the gallery with the largest cosine similarity to each query.

    Similarities are compared in steps of 1e-6; of equal ones the clip with the lower row comes first.  Memory is that
    of one block of similarities, time is linear in Q and in G.

    Args:
        queries: (Q, D) features; a row of zeros is as similar (0) to all.
        gallery: (G, D) features.
        num_nearest: k, at most G.
        query_block: queries compared at once.
        gallery_block: clips of the gallery compared at once.

    Returns:
        Rows of the gallery (Q, k) int64, the nearest first, and their similarities (Q, k) float64, on the CPU.

    Raises:
        ValueError: shapes that do not fit, k above G, or features that are not finite.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"expected queries (Q, D) and gallery (G, D), got {tuple(queries.shape)} and {tuple(gallery.shape)}"
        )
    num_gallery = len(gallery)
    if not 1 <= num_nearest <= num_gallery:
        raise ValueError(f"expected 1 to {num_gallery} nearest clips of a gallery of {num_gallery}, got {num_nearest}")
    if not (queries.isfinite().all() and gallery.isfinite().all()):
        raise ValueError("expected finite features, found inf or nan")
    normalised = F.normalize(gallery.double(), dim=1)  # float32 would let the size of a block decide near ties
    rows, similarities = [], []
    for block in F.normalize(queries.double(), dim=1).split(query_block):
        best = torch.empty(len(block), 0, dtype=torch.int64, device=block.device)
        for first in range(0, num_gallery, gallery_block):
            part = normalised[first : first + gallery_block]
            steps = (block @ part.T * _STEPS).round().long()
            # One integer for both: the similarity, then the row from the end.  No two are equal.
            places = num_gallery - 1 - first - torch.arange(len(part), device=part.device)
            best = torch.cat([best, steps * num_gallery + places], 1)
            best = best.topk(min(num_nearest, best.shape[1]), 1).values
        rows.append((num_gallery - 1 - best % num_gallery).cpu())
        similarities.append((best // num_gallery).cpu().double() / _STEPS)
    return torch.cat(rows), torch.cat(similarities)


def recall_at(nearest_labels: Tensor, labels: Tensor, ranks: Sequence[int] = RANKS) -> dict[str, float]:
    """Share of the queries of which any of the first k clips has the label: R@k.

    Args:
        nearest_labels: (Q, k) labels of the nearest clips, the nearest first.
        labels: (Q,) of the queries.
        ranks: those above k are left out.
    """
    hits = (nearest_labels == labels[:, None]).cummax(1).values.double().mean(0)
    return {f"R@{rank}": float(hits[rank - 1]) for rank in ranks if rank <= nearest_labels.shape[1]}


def vote(nearest_labels: Tensor, similarities: Tensor, num_classes: int, temperature: float = 0.07) -> Tensor:
    """Class of each query by the weighted vote of its nearest clips (Wu et al., arXiv 1805.01978).

    Args:
        nearest_labels: (Q, k) classes in [0, num_classes).
        similarities: (Q, k) cosines.
        num_classes: C.
        temperature: a clip's vote weighs exp(similarity / temperature).

    Returns:
        (Q,) int64; of classes with equal votes the lowest.
    """
    weights = ((similarities - similarities[:, :1]) / temperature).exp()
    votes = torch.zeros(len(nearest_labels), num_classes, dtype=weights.dtype)
    votes.scatter_add_(1, nearest_labels, weights)
    return (votes >= votes.amax(1, keepdim=True) * (1 - 1e-9)).int().argmax(1)
