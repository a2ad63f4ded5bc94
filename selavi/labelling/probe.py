"""How well a linear classifier on the features finds the clusters of clips that it has not learned from.

A head whose clusters the features tell apart has found something; the score needs no label and no other head.
Axes: n clips of this rank, N of all ranks, D features of all branches, K clusters.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from selavi.distributed import all_sum
from selavi.labelling import memory
from selavi.labelling.features import FeatureTable

PENALTY = 0.01
"""Factor of the squared weights, for each clip that is learned from; the features have variance 1."""
SUMS_AT_ONCE = 1 << 24
"""Numbers of the sums by cluster: of as many heads together as fit."""
GOLDEN_RATIO = (1 + 5**0.5) / 2


@torch.no_grad()
def probe_scores(clips: FeatureTable, labels: Tensor, num_clusters: int) -> Tensor:
    """Cohen's kappa between clusters and what a ridge classifier says: 1 all found, 0 as by chance.

    Least squares from standardised features to cluster indicators, learned from one half of the clips (see `teaches`)
    and tried on the other.  Kappa allows for the sizes of the clusters, so one cluster that holds every clip scores 0.
    Each branch counts alike (length 1), and is 0 for a clip that lacks it.  Time: N D^2 + H N D K; ranks exchange
    D x D numbers and, of each head, K x D.

    Args:
        clips: features of this rank's clips.
        labels: (n, H) clusters of these clips, -1 for none.
        num_clusters: K.

    Returns:
        (H,) float64, on the CPU; nan where no clip of one half has a cluster.
    """
    moments = _moments(clips)
    some = max(1, SUMS_AT_ONCE // max(1, num_clusters * len(moments[0])))
    columns = labels.T.to(clips.index.device).split(some)
    scores = [score for part in columns for score in _scores(clips, part, num_clusters, *moments)]
    return torch.tensor(scores, dtype=torch.float64)


def _scores(
    clips: FeatureTable, labels: Tensor, num_clusters: int, mean: Tensor, scale: Tensor, gram: Tensor
) -> list[float]:
    """The score of each head, whose labels are (H, n), from two passes over the features."""
    is_taught = teaches(clips.index)
    learned, tried = labels.masked_fill(~is_taught, -1), labels.masked_fill(is_taught, -1)
    sums, sizes = _sums_by_cluster(clips, learned, mean, scale, num_clusters)
    totals = sizes.sum(1)
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weights = [
        torch.linalg.solve(gram + PENALTY * count * eye, of_head.T).float() if count else of_head.T.float()
        for count, of_head in zip(totals, sums, strict=True)
    ]
    shares = (sizes / totals.clamp(min=1)[:, None]).float()
    counts = torch.zeros(len(labels), 3, num_clusters, dtype=torch.float64, device=gram.device)  # true, said, both
    for rows, values in _blocks(clips, mean, scale):
        block = values[~is_taught[rows]].float()
        for head, of_head in enumerate(weights):
            true = tried[head, rows][~is_taught[rows]]
            said = (block @ of_head + shares[head]).argmax(1)
            true, said = true[true >= 0], said[true >= 0]
            both = true[true == said]
            counts[head] += torch.stack([torch.bincount(k, minlength=num_clusters) for k in (true, said, both)])
    counts = all_sum(counts)
    return [_kappa(of_head) if count else float("nan") for of_head, count in zip(counts, totals, strict=True)]


def _kappa(counts: Tensor) -> float:
    """Cohen's kappa of clips by true cluster, by said cluster, and of those that agree, (3, K).

    0 where both always say the same one cluster, nan without a clip.
    """
    clusters, said, both = counts
    total = clusters.sum()
    if not total:
        return float("nan")
    expected = (clusters @ said) / total**2
    return float((both.sum() / total - expected) / (1 - expected)) if expected < 1 else 0.0


def teaches(index: Tensor) -> Tensor:
    """Whether clips (n,) are of the half that is learned from, by their rows in the label bank.

    Fractional parts of multiples of the golden ratio are spread evenly over the rows, and also over every second,
    third ... row: a list of clips whose kinds take turns is halved fairly.
    """
    return (index.double() * GOLDEN_RATIO) % 1 < 0.5


def _features(clips: FeatureTable, rows: slice) -> Tensor:
    """(b, D) float64 of a block of clips."""
    parts = [
        F.normalize(values[rows].double(), dim=1).masked_fill(~clips.present[name][rows, None], 0.0)
        for name, values in clips.features.items()
    ]
    return torch.cat(parts, 1)


def _blocks(clips: FeatureTable, mean: Tensor, scale: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of blocks of clips, with their standardised features."""
    for first in range(0, len(clips.index), memory.BLOCK_ROWS):
        rows = slice(first, first + memory.BLOCK_ROWS)
        yield rows, (_features(clips, rows) - mean) * scale


def _moments(clips: FeatureTable) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), 1 / standard deviation (D,) and correlations times N (D, D) of the clips that teach, of all ranks."""
    device = clips.index.device
    size = sum(values.shape[1] for values in clips.features.values())
    sums = torch.zeros(2, size, dtype=torch.float64, device=device)
    plain = torch.ones_like(sums[0])
    for rows, values in _blocks(clips, torch.zeros_like(plain), plain):
        learned = values[teaches(clips.index[rows])]
        sums += torch.stack([learned.sum(0), torch.full_like(plain, len(learned))])
    total, count = all_sum(sums)
    mean = total / count.clamp(min=1)
    gram = torch.zeros(size, size, dtype=torch.float64, device=device)
    for rows, values in _blocks(clips, mean, plain):
        learned = values[teaches(clips.index[rows])]
        gram += learned.T @ learned
    gram = all_sum(gram)
    deviation = (gram.diagonal() / count.clamp(min=1)).sqrt()
    scale = torch.where(deviation > 1e-9, 1 / deviation, 0.0)
    return mean, scale, gram * scale * scale[:, None]


def _sums_by_cluster(
    clips: FeatureTable, labels: Tensor, mean: Tensor, scale: Tensor, num_clusters: int
) -> tuple[Tensor, Tensor]:
    """(H, K, D) sums of the features of the clips that labels (H, n) put into each cluster, and (H, K) their numbers.

    Features are standardised; both are of all ranks.
    """
    sums = torch.zeros(len(labels), num_clusters, len(mean), dtype=torch.float64, device=mean.device)
    sizes = torch.zeros(len(labels), num_clusters, dtype=torch.float64, device=mean.device)
    for rows, values in _blocks(clips, mean, scale):
        for head, of_head in enumerate(labels[:, rows]):
            kept = of_head >= 0
            sums[head].index_add_(0, of_head[kept], values[kept])
            sizes[head] += torch.bincount(of_head[kept], minlength=num_clusters)
    return all_sum(sums), all_sum(sizes)
