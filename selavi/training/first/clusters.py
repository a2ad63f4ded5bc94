"""First labels of vectors: K-means on a sample of them, then every clip goes to the nearest centre.

Heads on vectors that begin at random learn whatever labels they are given, by heart, where clusters are many: drawn
clusters that K-means finds are hardly better than chance then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.config.label_sets import LabelSet
from selavi.distributed import gather_rows, message_device, rank, take_from_first, world_size
from selavi.labelling.features import FeatureTable, collect_features
from selavi.labelling.solver.breathing import breathe
from selavi.labelling.solver.kmeans import Scale, measure_scale, start_centres
from selavi.meter import Meter
from selavi.randomness import mix
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import normalised_mutual_information
from selavi.shared_tensor import share, wait_for_all

SAMPLE_ROWS, SAMPLE_ROWS_PER_CLUSTER = 8192, 64
"""Clips that centres are learned from: so many, or so many a cluster."""
ROWS_AT_ONCE = 1 << 16
"""Clips of each process whose labels are sent at a time."""
MOST_STARTS = 4
"""K-means starts in a label set: where clusters are clear, they differ little."""


@dataclass(frozen=True)
class VectorLabels:
    """Labels of all clips, and what they were learned from."""

    labels: Tensor
    """(N, H) int32, held together by the processes of a machine; -1 for a clip without any vector."""
    num_sampled: int
    """Clips that the centres were learned from."""
    agreement: float
    """Mean NMI of the clusters of one start with those of another."""


class Centres(NamedTuple):
    """What the labels of some heads are nearest to: those that begin from the same start."""

    voters: tuple[str, ...]
    """The modalities whose vectors lie side by side."""
    columns: list[int]
    """The heads' places in the label bank."""
    centres: Tensor
    """(K, D)."""


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
    num_heads = config.heads.num_heads
    config = replace(config, heads=replace(config.heads, num_heads=max(2, num_heads)))
    num_dims = {name: config.seen_by(name).features.num_dims for name in names}
    is_sampled = _draw_sample(config, num_clips)
    sample = _collect(read(-1), num_dims, is_sampled, device)
    scales = {name: measure_scale(vectors, sample.present[name]) for name, vectors in sample.whole.items()}
    unit = {name: scales[name](vectors, sample.present[name]) for name, vectors in sample.whole.items()}
    number = is_sampled.cumsum(0) - 1  # of a clip in the sample
    sample = replace(sample, index=number[sample.index.cpu()].to(device), features=unit)
    centres = _find_centres(config, sample, int(is_sampled.sum()), stop)
    index, assigned = _assign(read(-1), scales, centres, config.num_label_heads, device)
    labels = _bring_together(num_clips, index, assigned)
    agreement = heads_agreement(config.label_sets, labels)
    if num_heads < config.heads.num_heads:
        labels = share(labels.view(num_clips, -1, config.heads.num_heads)[:, :, :num_heads].flatten(1)).values
    return VectorLabels(labels, int(is_sampled.sum()), agreement)


def _bring_together(num_clips: int, index: Tensor, assigned: Tensor) -> Tensor:
    """(N, H) labels of all clips, which the processes of a machine hold together: those (n, H) of some rows (n,) each.

    Some are sent at a time: all of them would be as much as the labels, several times over on every process.
    """
    most = -(-num_clips // world_size())
    assert len(index) <= most, "the clips are not divided evenly"
    shared = share(torch.tensor(-1, dtype=torch.int32).expand(num_clips, assigned.shape[1]))
    for first in range(0, most, ROWS_AT_ONCE):
        some = slice(first, first + ROWS_AT_ONCE)
        rows, labels = gather_rows(index[some]), gather_rows(assigned[some])
        if shared.is_writer:
            shared.values[rows.cpu()] = labels.cpu()
    wait_for_all()
    return shared.values


def heads_agreement(label_sets: Sequence[LabelSet], labels: Tensor) -> float:
    """Mean NMI of each head with the next one of its label set, over clips that both label; nan of single heads.

    The first process measures it for all, of which every one must come: it takes several numbers a clip.
    """
    value = torch.tensor(torch.nan, dtype=torch.float64, device=message_device())
    if rank() == 0:
        value.fill_(_heads_agreement(label_sets, labels))
    take_from_first([value])
    return value.item()


def _heads_agreement(label_sets: Sequence[LabelSet], labels: Tensor) -> float:
    values = []
    for label_set in label_sets:
        for one, other in pairwise(label_set.learning_columns):
            clusters = labels[:, [one, other]].numpy()
            clusters = clusters[(clusters >= 0).all(1)]
            if len(clusters):
                values.append(normalised_mutual_information(contingency_matrix(clusters[:, 0], clusters[:, 1])))
    return float(np.mean(values)) if values else float("nan")


def _draw_sample(config: Config, num_clips: int) -> Tensor:
    """(N,) bool, the same on every rank and for any memory: as many clips as K-means needs."""
    size = max(SAMPLE_ROWS, SAMPLE_ROWS_PER_CLUSTER * config.heads.num_clusters)
    generator = torch.Generator().manual_seed(mix(config.seed, "first sample"))
    is_sampled = torch.zeros(num_clips, dtype=torch.bool)
    is_sampled[torch.randperm(num_clips, generator=generator)[:size]] = True
    return is_sampled


def _collect(
    batches: Iterable[ClipBatch], num_dims: Mapping[str, int], is_sampled: Tensor, device: torch.device
) -> FeatureTable:
    """Collect the vectors of this rank's clips that belong to the sample."""

    def sampled() -> Iterator[tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]]:
        for batch in batches:
            kept = is_sampled[batch.index]
            yield (
                batch.index[kept].to(device),
                {name: batch.inputs[name][kept].to(device) for name in num_dims},
                {name: batch.present[name][kept].to(device) for name in num_dims},
            )

    return collect_features(sampled(), num_dims, device)


def _find_centres(config: Config, sample: FeatureTable, num_sampled: int, stop: Callable[[], None]) -> list[Centres]:
    """Run K-means on scaled vectors for every label set, from each of its starts."""
    num_starts = min(MOST_STARTS, config.heads.num_heads)
    meter = Meter("first labels", num_starts * len(config.label_sets), "starts of K-means") if rank() == 0 else None
    centres = list[Centres]()
    for label_set in config.label_sets:
        voters = tuple(name for name in sample.features if name in label_set.voters) or tuple(sample.features)
        clips = sample.with_any(voters)
        features = torch.cat([clips.whole[name] for name in voters], 1)
        for number in range(num_starts):
            columns = list(label_set.learning_columns[number::num_starts])
            seed = mix(config.seed, "first clusters", columns[0])
            start = start_centres(features, clips.index, num_sampled, config.heads.num_clusters, seed)
            centres.append(Centres(voters, columns, breathe(features, start, stop=stop).centres))
            if meter is not None:
                meter.advance()
    if meter is not None:
        meter.close()
    return centres


def _assign(
    batches: Iterable[ClipBatch],
    scales: Mapping[str, Scale],
    centres: Sequence[Centres],
    num_columns: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """(n,) index and (n, H) labels of this rank's clips: the nearest centres, by the vectors that a clip has."""
    indices = [torch.zeros(0, dtype=torch.int64, device=device)]
    assigned = [torch.zeros(0, num_columns, dtype=torch.int32, device=device)]
    for batch in batches:
        present = {name: batch.present[name].to(device) for name in scales}
        unit = {name: scale(batch.inputs[name].to(device), present[name]) for name, scale in scales.items()}
        labels = torch.full((len(batch.index), num_columns), -1, dtype=torch.int32, device=device)
        for voters, columns, of_start in centres:
            parts = of_start.split([unit[name].shape[1] for name in voters], dim=1)
            nearness = sum(
                (unit[name] @ part.T - part.square().sum(1) / 2) * present[name][:, None]
                for name, part in zip(voters, parts, strict=True)
            )
            has_any = torch.stack([present[name] for name in voters]).any(0)
            labels[:, columns] = torch.where(has_any, nearness.argmax(1), -1).int()[:, None]
        indices.append(batch.index.to(device))
        assigned.append(labels)
    return torch.cat(indices), torch.cat(assigned)
