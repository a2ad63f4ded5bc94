"""Cliques: small groups of clips of which all pairs are near, and whose seeds are far apart (CliqueCNN, NIPS 2016).

Axes: S clips, D features, K cliques.
"""

import torch
from torch import Tensor

from selavi.labelling.solver.kmeans import squared_lengths

BLOCK_ROWS = 1024
"""Clips whose distances to all others are computed at once."""
NUM_PAIRED = 1024
"""Clips whose distances to each other stand for those of all."""
FAR = 0.75
"""A seed may lie so much nearer to the earlier seeds, as a share, than the one that lies furthest."""


@torch.no_grad()
def find_cliques(features: Tensor, num_cliques: int, size: int, generator: torch.Generator) -> Tensor:
    """Find K cliques, one after the other, each around the densest clip that is far from the seeds before.

    A clip is the denser the nearer its (size - 1)-th neighbour lies.  Far is the median distance of two clips, or,
    where none is left so far away, FAR of the largest distance from the seeds.  A clique takes in clip after clip the
    one whose furthest member is nearest (complete linkage), as long as that is nearer than the median distance.

    Args:
        features: (S, D), finite, S at least K.
        num_cliques: K.
        size: most clips of a clique, at least 1; S is at least K * size.
        generator: draws the half of the clips that seeds are taken from while there are some.

    Returns:
        (S,) int64: the clique of each clip, -1 for none.  Every clique has a clip.

    Raises:
        ValueError: there are fewer clips than K * size, or shapes that do not fit.
    """
    if features.ndim != 2 or size < 1 or len(features) < num_cliques * size:
        raise ValueError(
            f"expected features (S, D) of at least {num_cliques} x {size} clips, got {tuple(features.shape)}"
        )
    num_clips, device = len(features), features.device
    may_seed = torch.zeros(num_clips, dtype=torch.bool)
    may_seed[torch.randperm(num_clips, generator=generator)[: (num_clips + 1) // 2]] = True
    may_seed = may_seed.to(device)
    norms = squared_lengths(features)
    crowding = _distance_of_neighbour(features, norms, size - 1)
    median = _median_distance(features[torch.randperm(num_clips, generator=generator)[:NUM_PAIRED].to(device)])
    labels = torch.full((num_clips,), -1, device=device)
    from_seeds = torch.full((num_clips,), torch.inf, device=device)
    for clique in range(num_cliques):
        is_free = labels < 0
        eligible = is_free & may_seed
        if not eligible.any():
            eligible = is_free
        furthest = from_seeds[eligible].max()
        is_far = eligible & (from_seeds >= torch.minimum(median, FAR * furthest))
        seed = torch.where(is_far, crowding, torch.inf).argmin()
        linkage = _distances_from(seed, features, norms)
        from_seeds = torch.minimum(from_seeds, linkage)
        labels[seed] = clique
        for _ in range(size - 1):
            distances = torch.where(labels < 0, linkage, torch.inf)
            member = distances.argmin()
            if distances[member] >= median:
                break
            labels[member] = clique
            linkage = torch.maximum(linkage, _distances_from(member, features, norms))
    return labels


def _distances_from(row: Tensor, features: Tensor, norms: Tensor) -> Tensor:
    """(S,) distances of all clips from one."""
    return (norms + norms[row] - 2 * (features @ features[row])).clamp(min=0).sqrt()


def _distance_of_neighbour(features: Tensor, norms: Tensor, number: int) -> Tensor:
    """(S,) distance of each clip from its neighbour of that number; 0 is the clip itself."""
    parts = []
    for first in range(0, len(features), BLOCK_ROWS):
        rows = slice(first, first + BLOCK_ROWS)
        squares = norms[rows, None] + norms - 2 * (features[rows] @ features.T)
        parts.append(squares.kthvalue(number + 1, 1).values.clamp(min=0).sqrt())
    return torch.cat(parts)


def _median_distance(features: Tensor) -> Tensor:
    """Median distance of two different rows; infinite where there is one."""
    one, other = torch.triu_indices(len(features), len(features), 1)
    distances = torch.cdist(features, features)[one, other]
    return distances.median() if len(distances) else torch.tensor(torch.inf, device=features.device)
