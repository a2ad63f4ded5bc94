"""Which clips a person should be asked about next: the least sure, and of each kind of them one."""

import numpy as np
import torch
from torch import Tensor

from selavi.labelling.solver.kmeans import cluster, start_centres
from selavi.randomness import mix

POOL = 10
"""Least sure clips that are looked at for each question."""


def choose_questions(features: Tensor, margins: Tensor, may_ask: Tensor, count: int, seed: int) -> Tensor:
    """Group the least sure clips by their features, and take the one in the middle of each group.

    Args:
        features: (N, D) of all clips, scaled so that distances mean something.
        margins: (N,) probability of the likeliest place less that of the next.
        may_ask: (N,) bool.
        count: most questions.
        seed: of the groups.

    Returns:
        Rows (at most count,), the least sure first.
    """
    rows = may_ask.nonzero()[:, 0]
    order = torch.from_numpy(np.lexsort((rows.numpy(), margins[rows].numpy())))
    pool = rows[order[: POOL * count]]
    count = min(count, len(pool))
    if not count:
        return pool
    chosen = features[pool].float()
    centres = start_centres(chosen, torch.arange(len(pool)), len(pool), count, mix(seed, "questions"))
    groups = cluster(chosen, centres)
    distances = (chosen - groups.centres[groups.labels]).square().sum(1)
    nearest = [
        int(members[distances[members].argmin()])
        for group in range(count)
        if len(members := (groups.labels == group).nonzero()[:, 0])
    ]
    asked = pool[torch.tensor(nearest)]
    return asked[margins[asked].argsort(stable=True)]
