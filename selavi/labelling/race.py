"""Who wins the race between the modalities: how far each one's heads agree with the labels, and with each other.

Where one modality gets ahead, labels become what it can tell, and another one is given labels that it cannot learn.
Axes: n clips of this rank, K clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selavi.distributed import all_sum
from selavi.labelling.spread import Spread
from selavi.labelling.votes import Votes
from selavi.scores.contingency import Contingency
from selavi.scores.metrics import normalised_mutual_information


@dataclass(frozen=True)
class ModalityRace:
    """How one modality stands to the labels, over the clips that have it and a label, under one head or several."""

    own_share: float
    """Share of the labels that are the likeliest cluster of the modality alone."""
    cross_entropy: float
    """Cross-entropy of its probabilities with the labels, in nats; ln K where it cannot learn them."""
    spread: float
    """Root mean square over clips and clusters of its log-probabilities, centred over both."""


@dataclass(frozen=True)
class Race:
    """The race at one labelling."""

    modalities: dict[str, ModalityRace]
    agreement: float | None
    """NMI of the modalities' own likeliest clusters, over the clips that have both; None for one modality."""

    @classmethod
    def from_dict(cls, figures: Mapping[str, Any]) -> Race:
        """Read what dataclasses.asdict gave."""
        modalities = {name: ModalityRace(**values) for name, values in figures["modalities"].items()}
        return cls(modalities, figures["agreement"])


def measure_race(votes: Votes, head: int, learners: Sequence[str], labels: Tensor) -> Race:
    """The race under one head.

    Args:
        votes: of the clips that were labelled.
        head: its number.
        learners: the branches that learn the labels.
        labels: (n,) clusters, -1 for none.
    """
    num_clusters, device = votes.num_clusters, votes.clips.index.device
    sums = {name: torch.zeros(3, dtype=torch.float64, device=device) for name in learners}  # own, nats, clips
    spreads = {name: Spread(num_clusters, device) for name in learners}
    pairs = {
        pair: torch.zeros(num_clusters**2, dtype=torch.float64, device=device) for pair in combinations(learners, 2)
    }
    for rows, log_probabilities, present in votes.blocks(head, learners):
        of_block = labels[rows].to(device)
        own = {name: values.argmax(1) for name, values in log_probabilities.items()}
        for name, values in log_probabilities.items():
            spreads[name].add(values[present[name]])
            counted = present[name] & (of_block >= 0)
            nats = F.nll_loss(values[counted].double(), of_block[counted], reduction="sum")
            is_own = (own[name] == of_block)[counted].sum()
            sums[name] += torch.stack([is_own.double(), nats, counted.sum().double()])
        for one, other in pairs:
            both = present[one] & present[other]
            cells = own[one][both] * num_clusters + own[other][both]
            pairs[one, other] += torch.bincount(cells, minlength=num_clusters**2)
    modalities = {}
    for name in learners:
        num_own, nats, count = all_sum(sums[name]).tolist()
        modalities[name] = ModalityRace(
            num_own / count if count else float("nan"),
            nats / count if count else float("nan"),
            spreads[name].measure()[1],
        )
    agreements = [agreement_of(all_sum(counts), num_clusters) for counts in pairs.values()]
    return Race(modalities, _mean(agreements) if agreements else None)


def agreement_of(counts: Tensor, num_clusters: int) -> float:
    """NMI of two clusterings, from the (K * K,) clips in each pair of their clusters; nan without a clip."""
    matrix = counts.view(num_clusters, num_clusters).long().cpu().numpy()
    return normalised_mutual_information(Contingency.from_dense(matrix)) if matrix.any() else float("nan")


def mean_race(races: Sequence[Race]) -> Race:
    """The mean over heads, a modality; not finite figures (no clip) are left out."""
    by_name: dict[str, list[ModalityRace]] = {}
    for race in races:
        for name, standing in race.modalities.items():
            by_name.setdefault(name, []).append(standing)
    modalities = {
        name: ModalityRace(*(_mean([getattr(one, figure) for one in standings]) for figure in _FIGURES))
        for name, standings in by_name.items()
    }
    agreements = [race.agreement for race in races if race.agreement is not None]
    return Race(modalities, _mean(agreements) if agreements else None)


_FIGURES = ("own_share", "cross_entropy", "spread")


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
