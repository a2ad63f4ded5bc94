"""Choose a head without labels.  Axes: N clips, H heads, K clusters, D features."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import expected_mutual_information, normalised_mutual_information

Criterion = Literal["agreement", "modalities", "probe"]
CRITERIA: tuple[str, ...] = get_args(Criterion)


@dataclass(frozen=True)
class HeadChoice:
    """The chosen head and what speaks for each.

    Attributes:
        head: number of the chosen head.
        criterion: whose highest score chose it.
        scores: (H,) by criterion; NaN where a head has none.
        chance: agreement that the chosen head would have with independent clusters as large as those of the others;
            NaN of a single head.
    """

    head: int
    criterion: str
    scores: dict[str, np.ndarray]
    chance: float = math.nan


def choose_head(
    assignments: np.ndarray,
    criterion: str | None = None,
    *,
    modality_agreement: np.ndarray | None = None,
    probe: np.ndarray | None = None,
) -> HeadChoice:
    """Choose the head that scores highest by a criterion that knows no label.

    agreement: mean NMI with the other heads.  modalities: mean over the clips of what both modalities' probabilities
    share.  probe: how well a linear classifier on the features finds the clusters (selavi/labelling/probe.py).  Of
    heads that score equally the lowest number is chosen, and head 0 where no head has a score.

    Args:
        assignments: (N, H) integers, the cluster of each clip under each head; clips with a -1 do not count.
        criterion: one of CRITERIA; None is probe, and agreement where a head has no probe score.  The others are
            scored too where their input is given.
        modality_agreement: (M, H) in [0, 1], of any clips; NaN for a clip with one modality.
        probe: (H,) scores; NaN where a head has none.

    Raises:
        ValueError: another shape, no clip, no head, an unknown criterion, or one whose input is missing or says
            nothing.
    """
    if assignments.ndim != 2 or 0 in assignments.shape:
        raise ValueError(f"expected assignments (N, H) with N and H at least 1, got {assignments.shape}")
    complete = np.all(assignments >= 0, axis=1)
    assignments = assignments[complete]
    if not len(assignments):
        raise ValueError(f"none of {len(complete)} clips has a cluster under every head")
    scores = {"agreement": _agreement(assignments)}
    if modality_agreement is not None and np.isfinite(modality_agreement).any():
        is_known = np.isfinite(modality_agreement)
        sums = np.where(is_known, modality_agreement, 0.0).sum(0)
        scores["modalities"] = np.divide(sums, is_known.sum(0), out=np.full(len(sums), np.nan), where=is_known.any(0))
    if probe is not None and np.isfinite(probe).any():
        scores["probe"] = probe
    if criterion is None:
        criterion = "probe" if probe is not None and np.isfinite(probe).all() else "agreement"
    if criterion not in scores:
        criteria = f"one of {', '.join(scores)}"
        raise ValueError(f"heads can be chosen by {criteria} here, not by {criterion!r}")
    # Sums of equal numbers in another order differ in the last bits, which must not decide.
    ranked = np.where(np.isnan(scores[criterion]), -np.inf, scores[criterion].round(12))
    head = int(ranked.argmax())
    return HeadChoice(head, criterion, scores, _chance(assignments, head))


def describe_agreement(agreement: float, chance: float) -> str:
    """Say whether an agreement is good: beside what chance gives, and in a word."""
    if agreement >= 0.9:
        word = "stable"
    elif agreement >= 0.7:
        word = "fairly stable"
    elif agreement >= chance + 0.25 * (1 - chance):
        word = "unsure"
    else:
        word = "hardly more than chance"
    return f"{word} (independent clusters of these sizes would agree {chance:.3f}; 0.9 and more is stable)"


def _agreement(assignments: np.ndarray) -> np.ndarray:
    """Mean NMI of each head with the others; NaN of a single one.

    A head that has put every clip in one cluster agrees with no other: two such heads share no information, though
    their NMI is 1.
    """
    num_heads = assignments.shape[1]
    if num_heads == 1:
        return np.full(1, np.nan)
    pairs = np.zeros((num_heads, num_heads))
    for first in range(num_heads):
        for second in range(first):
            pairs[first, second] = pairs[second, first] = _shared(assignments[:, first], assignments[:, second])
    means: np.ndarray = pairs.sum(1) / (num_heads - 1)
    return means


def _chance(assignments: np.ndarray, head: int) -> float:
    """Mean over the other heads of the NMI expected if clips were dealt to clusters of these sizes at random."""
    expected = []
    for other in range(assignments.shape[1]):
        if other != head:
            table = contingency_matrix(assignments[:, head], assignments[:, other])
            sizes = table.label_sizes, table.cluster_sizes
            shares = [counts[counts > 0] / counts.sum() for counts in sizes]
            entropy = float(np.mean([-(share * np.log(share)).sum() for share in shares]))
            expected.append(expected_mutual_information(*sizes) / entropy if entropy > 0 else 0.0)
    return float(np.mean(expected)) if expected else math.nan


def _shared(first: np.ndarray, second: np.ndarray) -> float:
    contingency = contingency_matrix(first, second)
    if contingency.label_names.size == 1 or contingency.cluster_names.size == 1:
        return 0.0
    return normalised_mutual_information(contingency)
