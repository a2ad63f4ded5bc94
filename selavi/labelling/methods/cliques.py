"""Labels by cliques of the encoders' features: tight groups of clips, far apart; no other clip has a label (CliqueCNN).

What CliqueCNN does beside this, packing cliques into batches so that those of a batch are far apart, has no counterpart
here: all K cliques are the classes of one softmax, and they are far apart from the start.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from selavi.config import Config
from selavi.distributed import all_sum, gather_rows, rank
from selavi.labelling.alignment import align
from selavi.labelling.methods.interface import HeadLabels, HeadTask, Method
from selavi.labelling.methods.kmeans import unit_features_of
from selavi.labelling.solver.cliques import find_cliques
from selavi.labelling.solver.kmeans import label_means
from selavi.labelling.votes import Votes
from selavi.randomness import mix

LEAST_SAMPLE, SAMPLE_A_MEMBER = 8192, 2
"""Clips among which cliques are sought, at least; and for each member of the cliques that are asked for."""


def begin(config: Config, votes: Votes) -> Callable[[HeadTask], HeadLabels]:
    """All heads seek cliques in the same features, each from seeds in a half of the clips that is its own.

    Of more clips than LEAST_SAMPLE and SAMPLE_A_MEMBER say, a sample is looked at: the same for any number of
    processes, and at each labelling.

    Raises:
        NumericError: some features are not finite, on whichever rank.
    """
    num_clusters = config.heads.num_clusters
    size = max(1, min(config.labelling.clique_size, votes.num_clips // num_clusters))
    unit = unit_features_of(votes)

    def label(task: HeadTask) -> HeadLabels:
        generator = torch.Generator().manual_seed(mix(config.seed, "cliques", task.column))
        place = _draw_places(votes.num_clips, size * num_clusters, generator)[votes.clips.index.cpu()].to(unit.device)
        is_mine = place >= 0
        order = gather_rows(place[is_mine]).argsort()
        sample = gather_rows(unit[is_mine])[order]
        made = find_cliques(sample, num_clusters, size, generator)
        cliques = all_sum(made if rank() == 0 else torch.zeros_like(made))  # ranks may round differently
        if task.labels is not None:
            cliques = _keep_names(cliques, sample, label_means(unit, task.labels.to(unit.device), num_clusters))
        by_place = torch.full((votes.num_clips,), -1, device=unit.device)
        by_place[gather_rows(place[is_mine])[order]] = cliques
        labels = torch.where(is_mine, by_place[place.clamp(min=0)], -1)
        return HeadLabels(labels, num_passes=1, converged=True)

    return label


def _draw_places(num_clips: int, num_members: int, generator: torch.Generator) -> Tensor:
    """(N,) the place of each clip in the sample, -1 for one that is not in it."""
    size = min(num_clips, max(LEAST_SAMPLE, SAMPLE_A_MEMBER * num_members))
    place = torch.full((num_clips,), -1)
    place[torch.randperm(num_clips, generator=generator)[:size]] = torch.arange(size)
    return place


def _keep_names(cliques: Tensor, sample: Tensor, earlier_means: Tensor) -> Tensor:
    """Number cliques (S,) so that each keeps the number of the earlier one, of means (K, D), that it is nearest to.

    All pairs of an earlier and a new clique are matched at once, for the least sum of distances.
    """
    num_clusters = len(earlier_means)
    is_member = cliques >= 0
    sums = torch.zeros_like(earlier_means).index_add_(0, cliques[is_member], sample[is_member])
    counts = torch.bincount(cliques[is_member], minlength=num_clusters).clamp(min=1)
    place_of_name = align(torch.cdist(earlier_means, sums / counts[:, None]))
    name_of_place = torch.empty_like(place_of_name)
    name_of_place[place_of_name] = torch.arange(num_clusters, device=cliques.device)
    return torch.where(is_member, name_of_place[cliques.clamp(min=0)], -1)


def memory_bytes(config: Config, num_rows: int, num_features: int) -> float:
    """Most bytes beside the features: scaled ones, twice while they are joined, and a block of distances."""
    members = config.labelling.clique_size * config.heads.num_clusters
    sampled = min(num_rows, max(LEAST_SAMPLE, SAMPLE_A_MEMBER * members))
    return 4.0 * (2 * num_rows * num_features + sampled * (num_features + 1024))


METHOD = Method(begin, memory_bytes=memory_bytes)
