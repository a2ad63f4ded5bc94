"""K-means that leaves a poor start: the breathing K-means of Fritzke (2020, arXiv 2006.15666).

Lloyd's K-means moves centres only where clips of theirs are, so two clusters that share a centre at the start share it
for good, while another one has two centres.  With hundreds of clusters some always do.  Here centres are added beside
those with the largest error, K-means runs, and as many are removed whose clips have another centre nearly as near:

    centres     a   b c        a: two clusters, b and c: halves of one
    added       a a'  b c
    K-means     a  a' b c      a and a' are one cluster each now
    removed     a  a'  c       without b its clips go to c, which costs least

A round that does not lower the inertia is undone, and the next one adds half as many.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from selavi.distributed import all_sum
from selavi.labelling.solver.kmeans import BLOCK_ROWS, NUDGE, Clustering, alternating_signs, cluster, squared_lengths

SHARE, LEAST_SHARE = 1 / 8, 1 / 16
"""A round adds this share of the centres: at first, and when it is not worth while to go on."""
PASSES = 4
"""K-means passes after centres were added, and after they were removed."""


@torch.no_grad()
def breathe(
    features: Tensor,
    centres: Tensor,
    *,
    tol: float = 1e-3,
    max_rounds: int = 12,
    stop: Callable[[], None] = lambda: None,
) -> Clustering:
    """K-means from given centres, over the clips of all processes, and from better ones as long as there are any.

    Args:
        features: (n, D) of this process; n may be 0 on some.
        centres: (K, D), the same on every process.
        tol: share of the inertia that a round must gain to count.
        max_rounds: most rounds.
        stop: called on every process before each round; may raise.

    Raises:
        ValueError: as cluster.
    """
    best = cluster(features, centres, max_passes=3 * PASSES)
    num_added = max(1, round(SHARE * len(centres)))
    for _ in range(max_rounds):
        stop()
        grown = cluster(features, _add(features, best.centres, num_added), max_passes=PASSES).centres
        trial = cluster(features, _remove(features, grown, num_added), max_passes=PASSES)
        if trial.inertia < (1 - tol) * best.inertia:
            best = trial
            continue
        num_added //= 2
        if num_added < max(1, LEAST_SHARE * len(centres)):
            break
    return best


def _add(features: Tensor, centres: Tensor, number: int) -> Tensor:
    """(K, D) -> (K + number, D): another centre beside each of those with the largest error."""
    error, _ = _error_and_utility(features, centres)
    largest = centres[error.argsort(descending=True, stable=True)[:number]]
    return torch.cat([centres, largest * (1 + NUDGE * alternating_signs(largest))])


def _remove(features: Tensor, centres: Tensor, number: int) -> Tensor:
    """(K + number, D) -> (K, D): without those of least utility, but never with the nearest of one that goes.

    Two neighbours may each seem useless because of the other; only one of them is.
    """
    _, utility = _error_and_utility(features, centres)
    nearest = _nearest_other(centres).tolist()
    order = utility.argsort(stable=True).tolist()
    gone, spared = set[int](), set[int]()
    for centre in order:
        if len(gone) < number and centre not in spared:
            gone.add(centre)
            spared.add(nearest[centre])
    gone.update([centre for centre in order if centre not in gone][: number - len(gone)])
    return centres[[centre for centre in range(len(centres)) if centre not in gone]]


def _error_and_utility(features: Tensor, centres: Tensor) -> Tensor:
    """(2, K): each centre's sum of squared distances, and how much larger all would be without it."""
    total = torch.zeros(2, len(centres), dtype=torch.float64, device=features.device)
    offset = centres.square().sum(1) / 2
    for block in features.split(BLOCK_ROWS):
        block = block.float()
        nearness, places = (block @ centres.T - offset).topk(2, dim=1)
        own = squared_lengths(block) - 2 * nearness[:, 0]
        total[0].index_add_(0, places[:, 0], own.clamp(min=0).double())
        total[1].index_add_(0, places[:, 0], 2 * (nearness[:, 0] - nearness[:, 1]).double())
    return all_sum(total)


def _nearest_other(centres: Tensor) -> Tensor:
    """(K,) the nearest other centre of each."""
    offset = centres.square().sum(1) / 2
    nearest = [torch.zeros(0, dtype=torch.int64, device=centres.device)]
    for rows in torch.arange(len(centres), device=centres.device).split(BLOCK_ROWS):
        nearness = centres[rows] @ centres.T - offset
        nearness[torch.arange(len(rows)), rows] = -torch.inf
        nearest.append(nearness.argmax(1))
    return torch.cat(nearest)
