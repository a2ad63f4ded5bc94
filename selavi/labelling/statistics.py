"""How confident the heads are of each clip's label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selavi.labelling.solver.transport import row_statistics
from selavi.labelling.votes import Votes


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
