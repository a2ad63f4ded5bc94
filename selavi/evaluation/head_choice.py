"""Choose a head without labels: the one that agrees most with the others."""

from dataclasses import dataclass

import numpy as np

from selavi.evaluation.metrics import contingency_matrix, normalised_mutual_information


@dataclass(frozen=True)
class HeadChoice:
    """The chosen head and what speaks for it.

    Attributes:
        head: number of the chosen head.
        agreement: (H,) mean NMI of each head with the other heads; NaN where there is one head.
    """

    head: int
    agreement: np.ndarray


def choose_head(assignments: np.ndarray) -> HeadChoice:
    """Choose the head with the highest mean NMI with the other heads.

    Of heads that agree equally the lowest number is chosen, and head 0 where there is one.  A head that has
    put every clip in one cluster agrees with no other: two such heads share no information, though their NMI
    is 1.

    Args:
        assignments: (N, H) integers, the cluster of each clip under each head, not negative.

    Raises:
        ValueError: another shape, or no clip, or no head.
    """
    if assignments.ndim != 2 or 0 in assignments.shape:
        raise ValueError(f"expected assignments (N, H) with N and H at least 1, got {assignments.shape}")
    num_heads = assignments.shape[1]
    if num_heads == 1:
        return HeadChoice(0, np.full(1, np.nan))
    pairs = np.zeros((num_heads, num_heads))
    for first in range(num_heads):
        for second in range(first):
            pairs[first, second] = pairs[second, first] = _shared(assignments[:, first], assignments[:, second])
    agreement = pairs.sum(1) / (num_heads - 1)
    # Sums of equal numbers in another order differ in the last bits, which must not decide.
    return HeadChoice(int(agreement.round(12).argmax()), agreement)


def _shared(first: np.ndarray, second: np.ndarray) -> float:
    contingency = contingency_matrix(first, second)
    if contingency.label_names.size == 1 or contingency.cluster_names.size == 1:
        return 0.0
    return normalised_mutual_information(contingency)
