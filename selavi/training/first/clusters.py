"""First labels of vectors: K-means on a sample of them, then every clip goes to the nearest centre.

Heads on vectors that begin at random learn whatever labels they are given, by heart, where clusters are many: drawn
clusters that K-means finds are hardly better than chance then (docs/results/vectors.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.config.label_sets import LabelSet
from selavi.distributed import all_sum, gather_rows
from selavi.labelling.solver.breathing import breathe
from selavi.labelling.solver.kmeans import start_centres
from selavi.randomness import mix
from selavi.scores.metrics import contingency_matrix, normalised_mutual_information

SAMPLE_ROWS, SAMPLE_ROWS_PER_CLUSTER = 8192, 64
"""Clips that centres are learned from: so many, or so many a cluster."""
MOST_STARTS = 4
"""K-means starts in a label set: where clusters are clear, they differ little."""


@dataclass(frozen=True)
class VectorLabels:
    """Labels of all clips, and what they were learned from."""

    labels: Tensor
    """(N, H) int32, the same on every rank; -1 for a clip without any vector."""
    num_sampled: int
    """Clips that the centres were learned from."""
    agreement: float
    """Mean NMI of the clusters of one start with those of another."""


@dataclass(frozen=True)
class Scale:
    """What brings each number of some vectors to mean 0 and variance 1, and each vector to length 1."""

    mean: Tensor
    """(D,)."""
    factor: Tensor
    """(D,); 0 for a number that never changes."""

    def __call__(self, vectors: Tensor, present: Tensor) -> Tensor:
        """(n, D) -> (n, D); zeros where a clip has none."""
        unit = torch.nn.functional.normalize((vectors.float() - self.mean) * self.factor, dim=1)
        return torch.where(present[:, None], unit, 0.0)


def cluster_vectors(
    config: Config,
    names: Sequence[str],
    num_clips: int,
    read: Callable[[int], Iterable[ClipBatch]],
    device: torch.device,
    stop: Callable[[], None],
) -> VectorLabels:
    """Label every clip under every head.

    Heads have K-means from different starts, up to four, which others take in turn; a single head has a second one for
    comparison.  Where modalities label together, their vectors lie side by side; a label set without any vectors takes
    all of them.

    Args:
        config: of the run.
        names: of the modalities that are vectors.
        num_clips: N, of all ranks.
        read: number of a pass, below 0 -> the clips of this rank.
        device: that computes.
        stop: called on every rank now and then; may raise.
    """
    num_clusters, num_heads = config.heads.num_clusters, config.heads.num_heads
    config = replace(config, heads=replace(config.heads, num_heads=max(2, num_heads)))
    size = min(num_clips, max(SAMPLE_ROWS, SAMPLE_ROWS_PER_CLUSTER * num_clusters))
    generator = torch.Generator().manual_seed(mix(config.seed, "first sample"))
    is_sampled = torch.zeros(num_clips, dtype=torch.bool)
    is_sampled[torch.randperm(num_clips, generator=generator)[:size]] = True
    index, vectors, present = _collect(read(-1), names, is_sampled, device)
    scales = {name: _scale(vectors[name][present[name]]) for name in names}
    unit = {name: scales[name](vectors[name], present[name]) for name in names}
    centres: list[tuple[tuple[str, ...], int, Tensor]] = []
    for label_set in config.label_sets:
        voters = tuple(name for name in names if name in label_set.voters) or tuple(names)
        has_any = torch.stack([present[name] for name in voters]).any(0)
        features = torch.cat([unit[name] for name in voters], 1)[has_any]
        made = list[Tensor]()
        for number in range(min(MOST_STARTS, config.heads.num_heads)):
            stop()
            seed = mix(config.seed, "first clusters", label_set.learning_columns[number])
            start = start_centres(features, index[has_any], num_clips, num_clusters, seed)
            made.append(breathe(features, start).centres)
        centres += [(voters, column, made[head % len(made)]) for head, column in enumerate(label_set.learning_columns)]
    rows, assigned = zip(*_assign(read(-1), scales, centres, config.num_label_heads, device), strict=True)
    labels = torch.full((num_clips, config.num_label_heads), -1, dtype=torch.int32)
    labels[gather_rows(torch.cat(rows)).cpu()] = gather_rows(torch.cat(assigned)).cpu()
    agreement = heads_agreement(config.label_sets, labels)
    kept = labels.view(num_clips, -1, config.heads.num_heads)[:, :, :num_heads].flatten(1)
    return VectorLabels(kept, size, agreement)


def heads_agreement(label_sets: Sequence[LabelSet], labels: Tensor) -> float:
    """Mean NMI of each head with the next one of its label set, over clips that both label; nan of single heads."""
    values = []
    for label_set in label_sets:
        for one, other in pairwise(label_set.learning_columns):
            clusters = labels[:, [one, other]].numpy()
            clusters = clusters[(clusters >= 0).all(1)]
            if len(clusters):
                values.append(normalised_mutual_information(contingency_matrix(clusters[:, 0], clusters[:, 1])))
    return float(np.mean(values)) if values else float("nan")


def _collect(
    batches: Iterable[ClipBatch], names: Sequence[str], is_sampled: Tensor, device: torch.device
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Index, vectors and present of this rank's clips that belong to the sample."""
    index, vectors, present = (
        list[Tensor](),
        {name: list[Tensor]() for name in names},
        {n: list[Tensor]() for n in names},
    )
    for batch in batches:
        kept = is_sampled[batch.index]
        index.append(batch.index[kept])
        for name in names:
            vectors[name].append(batch.inputs[name][kept].float())
            present[name].append(batch.present[name][kept])
    return (
        torch.cat(index).to(device),
        {name: torch.cat(parts).to(device) for name, parts in vectors.items()},
        {name: torch.cat(parts).to(device) for name, parts in present.items()},
    )


def _scale(vectors: Tensor) -> Scale:
    """Scale the vectors (n, D) of this rank and all others alike."""
    rows = vectors.double()
    sums = all_sum(torch.cat([rows.sum(0), rows.square().sum(0), rows.new_tensor([len(rows)])]))
    mean, square = sums[:-1].view(2, -1) / sums[-1].clamp(min=1)
    variance = square - mean.square()
    factor = torch.where(variance > 1e-12 * square, variance.clamp(min=0).rsqrt(), 0.0)
    return Scale(mean.float(), factor.float())


def _assign(
    batches: Iterable[ClipBatch],
    scales: Mapping[str, Scale],
    centres: Sequence[tuple[tuple[str, ...], int, Tensor]],
    num_columns: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each batch its index and labels (b, H): the nearest centre, by the vectors that a clip has."""
    for batch in batches:
        present = {name: batch.present[name].to(device) for name in scales}
        unit = {name: scale(batch.inputs[name].to(device), present[name]) for name, scale in scales.items()}
        labels = torch.full((len(batch.index), num_columns), -1, dtype=torch.int32, device=device)
        for voters, column, of_head in centres:
            parts = of_head.split([unit[name].shape[1] for name in voters], dim=1)
            nearness = sum(
                (unit[name] @ part.T - part.square().sum(1) / 2) * present[name][:, None]
                for name, part in zip(voters, parts, strict=True)
            )
            has_any = torch.stack([present[name] for name in voters]).any(0)
            labels[:, column] = torch.where(has_any, nearness.argmax(1), -1).int()
        yield batch.index.to(device), labels
