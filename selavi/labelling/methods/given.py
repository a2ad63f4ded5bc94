"""The labels that the bank begins with, those of somebody's table (training/first/table.py): nothing changes them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from selavi.config import Config
from selavi.labelling.methods.interface import HeadLabels, HeadTask, Method
from selavi.labelling.votes import Votes


def begin(config: Config, votes: Votes) -> Callable[[HeadTask], HeadLabels]:
    """Every head has its column of the table; where the bank is empty, no clip has a label."""

    def label(task: HeadTask) -> HeadLabels:
        labels = torch.full_like(votes.clips.index, -1) if task.labels is None else task.labels
        return HeadLabels(labels, num_passes=0, converged=True)

    return label


METHOD = Method(begin)
