"""K-means over the clips of all processes: the labels of DeepCluster, XDC and their relatives.

Axes: n clips of this process, N of all processes, D features, K clusters.  A pass reads the features once, in
blocks; all that processes exchange is a K x D sum.  The distance is Euclidean.

Start.  The first clustering starts from centres drawn far apart (k-means++, Arthur and Vassilvitskii 2007), from a
sample of the clips that is the same for any number of processes.  DeepCluster and XDC start every clustering so, and
must then forget the heads' output layers, because the clusters have new names each time.  Here a later clustering
starts from the means of the earlier one's clusters in the present features, so cluster k stays cluster k and the
heads stay: this framework labels up to several times an epoch, when an output layer would hardly have been learned
before it was thrown away, and the heads give clips that were not trained on their clusters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from selavi.distributed import all_sum, gather_rows, rank

BLOCK_ROWS = 8192  # clips whose distances are computed together
SAMPLE_ROWS, SAMPLE_ROWS_PER_CLUSTER = 8192, 16  # the start is drawn from so many clips, or so many a cluster
NUDGE = 1 / 1024  # by how much the halves of a split cluster differ at first, as a share of their centre
_PATIENCE = 2  # passes that a cluster which was split may take before the error falls


@dataclass(frozen=True)
class Clustering:
    """What K-means ends with; all but `labels` is the same on every process."""

    labels: Tensor
    """(n,) int64, the nearest centre of each clip."""
    centres: Tensor
    """(K, D) float32."""
    inertia: float
    """Mean squared distance of a clip from its centre."""
    num_passes: int
    """Reads of all features."""
    converged: bool
    """Whether the last pass lowered the inertia by no more than `tol`."""


@dataclass(frozen=True)
class Scale:
    """What brings each of D numbers to mean 0 and variance 1 over all clips, and each clip to length 1."""

    mean: Tensor
    """(D,) float64."""
    factor: Tensor
    """(D,) float64; 0 for a number that is the same everywhere."""

    def __call__(self, features: Tensor, present: Tensor) -> Tensor:
        """(n, D) -> (n, D) float32; 0 where not present; not finite where a present clip is not."""
        unit = torch.zeros(features.shape, dtype=torch.float32, device=features.device)
        for first in range(0, len(features), BLOCK_ROWS):
            rows = slice(first, first + BLOCK_ROWS)
            standard = ((features[rows].double() - self.mean) * self.factor).float()
            unit[rows] = torch.where(present[rows, None], torch.nn.functional.normalize(standard, dim=1), 0.0)
        return unit


@torch.no_grad()
def measure_scale(features: Tensor, present: Tensor) -> Scale:
    """Measure mean and variance over the clips (n, D) of all processes that are present, (n,) bool."""
    sums = torch.zeros(2, features.shape[1], dtype=torch.float64, device=features.device)
    for block, kept in zip(features.split(BLOCK_ROWS), present.split(BLOCK_ROWS), strict=True):
        rows = block[kept].double()
        sums += torch.stack([rows.sum(0), rows.square().sum(0)])
    count = all_sum(present.sum().double()).clamp(min=1)
    mean, square = all_sum(sums) / count
    variance = square - mean.square()
    factor = torch.where(variance > 1e-12 * square, variance.clamp(min=0).rsqrt(), 0.0 * variance)
    return Scale(mean, factor)


@torch.no_grad()
def unit_features(features: Tensor, present: Tensor) -> Tensor:
    """Standardise each feature over all clips, then scale each clip to length 1.

    DeepCluster whitens with a principal component analysis and scales to length 1; dividing by the standard deviations
    is the part of the whitening that is linear in D.  A feature that is the same everywhere becomes 0.

    Args:
        features: (n, D).
        present: (n,) bool; the clips without it become 0, whatever they hold, and count nowhere.

    Returns:
        (n, D) float32; not finite where a present clip is not.
    """
    return measure_scale(features, present)(features, present)


@torch.no_grad()
def start_centres(features: Tensor, index: Tensor, num_clips: int, num_clusters: int, seed: int) -> Tensor:
    """Draw K clips, each with a chance proportional to its squared distance from those drawn before (k-means++).

    Args:
        features: (n, D) of this process.
        index: (n,) their numbers among the `num_clips` clips of all processes; the sample is drawn by them.
        num_clips: N, also counting clips that no process holds (they lack a modality).
        num_clusters: K.
        seed: of the sample and of the draws.

    Returns:
        (K, D) float32, the same on every process and for any number of them.

    Raises:
        ValueError: no process holds a clip of the sample.
    """
    generator = torch.Generator().manual_seed(seed)
    size = min(num_clips, max(SAMPLE_ROWS, SAMPLE_ROWS_PER_CLUSTER * num_clusters))
    place = torch.full((num_clips,), -1)
    place[torch.randperm(num_clips, generator=generator)[:size]] = torch.arange(size)
    mine = place[index.cpu()].to(features.device)
    sample = gather_rows(features[mine >= 0].float())
    sample = sample[gather_rows(mine[mine >= 0]).argsort()]
    if not len(sample):
        raise ValueError(f"none of a sample of {size} of {num_clips} clips has features to cluster")
    draws = torch.rand(num_clusters, dtype=torch.float64, generator=generator).tolist()
    centres = torch.empty(num_clusters, features.shape[1], device=features.device)
    norms = sample.square().sum(1)
    distances = torch.ones(len(sample), device=features.device)  # the first one: any clip
    for number, draw in enumerate(draws):
        reach = distances.double().cumsum(0)
        total = reach[-1].item()
        # With fewer distinct clips than clusters all distances end as 0: then any clip, and its cluster stays empty.
        chosen = int(torch.searchsorted(reach, draw * total, right=True)) if total > 0 else int(draw * len(sample))
        centre = sample[min(chosen, len(sample) - 1)]
        centres[number] = centre
        nearest = (norms - 2 * (sample @ centre) + centre.square().sum()).clamp(min=0)
        distances = nearest if number == 0 else torch.minimum(distances, nearest)
    return all_sum(centres if rank() == 0 else torch.zeros_like(centres))  # ranks may round differently


@torch.no_grad()
def label_means(features: Tensor, labels: Tensor, num_clusters: int) -> Tensor:
    """Mean features of the clips of each label, over all processes: where the next clustering starts.

    Args:
        features: (n, D).
        labels: (n,) of an earlier clustering; -1 for none.
        num_clusters: K.

    Returns:
        (K, D) float32; a cluster without a clip takes half of the largest one.
    """
    has_label = labels >= 0
    total = torch.zeros(num_clusters, features.shape[1] + 1, dtype=torch.float64, device=features.device)
    for block, own in zip(features[has_label].split(BLOCK_ROWS), labels[has_label].split(BLOCK_ROWS), strict=True):
        _add_rows(total, block, own)
    return _means(all_sum(total))


@torch.no_grad()
def cluster(features: Tensor, centres: Tensor, *, tol: float = 1e-4, max_passes: int = 100) -> Clustering:
    """Lloyd's K-means from given centres, over the clips of all processes.

    A cluster that becomes empty takes half of the largest one, as in faiss: it starts beside that one's centre.
    Sums of blocks are float32, those over blocks and processes float64.

    Args:
        features: (n, D) of this process; n may be 0 on some.
        centres: (K, D), the same on every process.
        tol: share of the inertia that a pass must gain for another one to follow.
        max_passes: most passes.

    Raises:
        ValueError: shapes that do not fit.
    """
    if features.ndim != 2 or centres.ndim != 2 or features.shape[1] != centres.shape[1]:
        raise ValueError(
            f"expected features (n, D) and centres (K, D), got {tuple(features.shape)} and {tuple(centres.shape)}"
        )
    num_clusters, num_features = centres.shape
    centres, before, stale, split = centres.float(), float("inf"), 0, False
    for num_passes in range(1, max_passes + 1):
        total = torch.zeros(num_clusters + 1, num_features + 1, dtype=torch.float64, device=features.device)
        labels = [torch.zeros(0, dtype=torch.int64, device=features.device)]
        offset = centres.square().sum(1) / 2
        for block in features.split(BLOCK_ROWS):
            block = block.float()
            nearness, own = (block @ centres.T - offset).max(1)
            labels.append(own)
            _add_rows(total, block, own)
            total[-1, 0] += (squared_lengths(block) - 2 * nearness).clamp(min=0).double().sum()
        total = all_sum(total)
        count = total[:-1, -1].sum().clamp(min=1)
        inertia = (total[-1, 0] / count).item()
        stale = stale + 1 if before - inertia <= tol * inertia else 0
        converged = stale > (_PATIENCE if split else 0)
        if converged or num_passes == max_passes:
            break
        split = bool((total[:-1, -1] == 0).any())
        centres, before = _means(total[:-1]), inertia
    return Clustering(torch.cat(labels), centres, inertia, num_passes, converged)


def squared_lengths(rows: Tensor) -> Tensor:
    """(n, D) -> (n,), without a table of squares."""
    return torch.linalg.vector_norm(rows, dim=1).square()


def alternating_signs(centres: Tensor) -> Tensor:
    """(D,) 1, -1, 1, ...: a direction that no centre lies in."""
    sign = torch.ones(centres.shape[1], device=centres.device)
    sign[1::2] = -1
    return sign


def _add_rows(total: Tensor, rows: Tensor, labels: Tensor) -> None:
    """Add features of a block, and ones in the last column, to the row of their label."""
    sums = torch.zeros(len(total), rows.shape[1], device=rows.device)
    total[:, :-1] += sums.index_add_(0, labels, rows.float())
    total[:, -1] += torch.bincount(labels, minlength=len(total))


def _means(total: Tensor) -> Tensor:
    """(K, D + 1) sums and counts -> (K, D) float32 means; empty clusters split the largest ones."""
    counts = total[:, -1].clone()
    means = (total[:, :-1] / counts.clamp(min=1)[:, None]).float()
    sign = alternating_signs(means)
    for empty in (counts == 0).nonzero()[:, 0].tolist():
        largest = int(counts.argmax())
        means[empty] = means[largest] * (1 + NUDGE * sign)
        means[largest] = means[largest] * (1 - NUDGE * sign)
        counts[empty] = counts[largest] = counts[largest] / 2
    return means
