"""How confident the heads are of each clip's label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selavi.labelling.solver.transport import row_statistics
from selavi.labelling.votes import Votes
from selavi.memory import memory_in_file
from selavi.runs.stored import read_all

_NUM_STATISTICS = 4


@dataclass(frozen=True)
class ClipStatistics:
    """Statistics of every clip under every head, (N, H) each, in the order of the label bank.

    They describe the rows of the plan, or of the heads' probabilities where the labelling method has no plan.
    """

    confidence: Tensor
    """The largest entry of the row."""
    margin: Tensor
    """Its distance to the second largest."""
    entropy: Tensor
    """Entropy of the row, in nats."""
    modality_agreement: Tensor
    """Overlap of the modalities' probabilities, sum_k min over them of p_k; nan where a clip has one only."""


def empty_statistics(num_clips: int, num_heads: int, folder: Path) -> Tensor:
    """Room for the statistics of N clips under H heads, (4, N, H) float32, all nan; see room_for_statistics."""
    shape = (num_heads, _NUM_STATISTICS, num_clips)  # a head at a time is written
    room = room_for_statistics(4 * num_heads * _NUM_STATISTICS * num_clips, folder)
    return room.view(torch.float32).view(shape).fill_(torch.nan).permute(1, 2, 0)


def room_for_statistics(num_bytes: int, folder: Path) -> Tensor:
    """Memory for statistics, (num_bytes,) uint8; much of it lies in a file in `folder`, if it can have one."""
    in_file = memory_in_file(num_bytes, folder)
    if in_file is None:
        return torch.empty(num_bytes, dtype=torch.uint8)
    return torch.frombuffer(in_file, dtype=torch.uint8)


def read_statistics(saved: Mapping[str, Any], folder: Path) -> dict[str, Tensor]:
    """Statistics of a checkpoint, which may still lie in its file; see room_for_statistics.

    Raises:
        UsageError: they cannot be read.
    """
    read: dict[str, Tensor] = read_all(dict(saved), make_memory=partial(room_for_statistics, folder=folder))
    return read


def describe_votes(votes: Votes, head: int, potentials: Tensor, sharpness: float) -> tuple[Tensor, Tensor]:
    """What a voting set says of its clips under one head: (n,) likeliest clusters, (4, n) statistics as ClipStatistics.

    Args:
        votes: n clips.
        head: number of the head.
        potentials: (K,) of the voters' heads.
        sharpness: exponent on the scores.
    """
    scores = votes.scores(head)
    potentials = potentials.to(votes.clips.index.device)
    statistics = (*row_statistics(scores, potentials, sharpness), votes.agreement(head))
    return scores.labels(potentials, sharpness), torch.stack([values.float() for values in statistics])
