"""Labels by K-means on the encoders' features, without the heads (DeepCluster, XDC)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from selavi.config import Config
from selavi.distributed import all_sum
from selavi.labelling import memory
from selavi.labelling.methods.interface import HeadLabels, HeadTask, Method
from selavi.labelling.solver.kmeans import BLOCK_ROWS, cluster, label_means, start_centres, unit_features
from selavi.labelling.votes import Votes, diverged
from selavi.randomness import mix

_FEATURE_BYTES = 4096  # of a clip's features of both modalities, as published


def begin(config: Config, votes: Votes) -> Callable[[HeadTask], HeadLabels]:
    """All heads cluster the same features: each voter's standardised and of length 1, side by side.

    Raises:
        NumericError: some features are not finite, on whichever rank.
    """
    clips, num_clusters = votes.clips, config.heads.num_clusters
    unit = unit_features_of(votes)

    def label(task: HeadTask) -> HeadLabels:
        if task.labels is None:
            seed = mix(config.seed, "kmeans", task.column)
            centres = start_centres(unit, clips.index, votes.num_clips, num_clusters, seed)
        else:
            centres = label_means(unit, task.labels.to(unit.device), num_clusters)
        result = cluster(unit, centres)
        return HeadLabels(result.labels, result.num_passes, result.converged)

    return label


def unit_features_of(votes: Votes) -> Tensor:
    """(n, D) each voter's features, standardised and of length 1, side by side.

    Raises:
        NumericError: some are not finite, on whichever rank.
    """
    clips = votes.clips
    unit = torch.cat([unit_features(clips.features[name][:], clips.present[name]) for name in votes.voters], 1)
    if all_sum(unit.isfinite().logical_not().any().double()).item():
        raise diverged("the encoders give features")
    return unit


def weigh(labels: Tensor, num_clusters: int) -> Tensor:
    """(N, H) labels -> (H, K) weights with which every used cluster counts alike, 1 on average over the clips.

    DeepCluster draws clips so; without it a few large clusters would drown the others, and features collapse.
    """
    sizes = torch.stack([torch.bincount(column[column >= 0].long(), minlength=num_clusters) for column in labels.T])
    used = (sizes > 0).sum(1, keepdim=True).clamp(min=1)
    return sizes.sum(1, keepdim=True) / (used * sizes.clamp(min=1)).float()


def describe_memory(config: Config, num_rows: int) -> str:
    """What the scaled features and a block of distances hold."""
    if num_rows * _FEATURE_BYTES < memory.WORTH_SAYING:
        return ""
    return (
        f"labelling holds the features twice, once scaled, and distances of {BLOCK_ROWS} clips to "
        f"{config.heads.num_clusters} centres at a time"
    )


def memory_bytes(config: Config, num_rows: int, num_features: int) -> float:
    """Most bytes beside the features: scaled ones, twice while they are joined, and a block of distances."""
    return 4.0 * (2 * num_rows * num_features + min(num_rows, BLOCK_ROWS) * config.heads.num_clusters)


METHOD = Method(begin, weigh, describe_memory, memory_bytes)
