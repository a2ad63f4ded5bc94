"""From the labels of many overlapping pieces of a recording to its segments: what happens from when to when.

    pieces      |--- a ---|
                   |--- a ---|
                      |--- b ---|
                         |--- b ---|
    segments    |----- a -----|-- b --|            the border: half way between the centres of the two pieces

Single pieces err.  The segments are the likeliest path through the clusters where every piece speaks for its clusters
by their probabilities and every change costs the same (a hidden Markov model with equal chances of change, decoded by
the algorithm of Viterbi, 1967).
"""

from dataclasses import dataclass

import numpy as np

LEAST_PROBABILITY = 0.02
"""No piece speaks against a cluster more than by this: labels by optimal transport are surer than they are right."""
CHANGE_COST = 2.0
"""Nats: one piece that says otherwise is not heard, two in a row are, as ln(1 / 0.02) is 3.9."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording, in seconds [start_s, end_s), and what it was found to be."""

    start_s: float
    end_s: float
    cluster: int
    confidence: float
    """Mean probability of the cluster over the pieces whose centres lie in it."""


def find_segments(
    start_s: np.ndarray, end_s: np.ndarray, probabilities: np.ndarray, change_cost: float = CHANGE_COST
) -> list[Segment]:
    """Smooth the labels of a recording's pieces and merge equal neighbours.

    Args:
        start_s: (n,) where each piece begins, ascending.
        end_s: (n,) where it ends, ascending.
        probabilities: (n, K) of each piece's clusters.
        change_cost: in nats; 0: each piece speaks for itself.

    Returns:
        Segments in the order of time, without gaps, from the first begin to the last end.
    """
    if not len(start_s):
        return []
    path = likeliest_path(probabilities, change_cost)
    centres_s = (start_s + end_s) / 2
    firsts = np.flatnonzero(np.diff(path, prepend=-1))
    borders_s = [start_s[0], *((centres_s[firsts[1:] - 1] + centres_s[firsts[1:]]) / 2), end_s[-1]]
    lasts = [*firsts[1:], len(path)]
    return [
        Segment(
            float(borders_s[number]),
            float(borders_s[number + 1]),
            int(path[first]),
            float(probabilities[first:last, path[first]].mean()),
        )
        for number, (first, last) in enumerate(zip(firsts, lasts, strict=True))
    ]


def likeliest_path(probabilities: np.ndarray, change_cost: float) -> np.ndarray:
    """The clusters (n,) with the largest sum of log-probabilities, less `change_cost` for each change.

    Args:
        probabilities: (n, K), rows that need not sum to 1.
        change_cost: in nats.
    """
    gains = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    num_pieces, num_clusters = gains.shape
    came_from = np.zeros((num_pieces, num_clusters), np.int32)
    best, stay = gains[0], np.arange(num_clusters, dtype=np.int32)
    for number in range(1, num_pieces):
        other = int(best.argmax())
        is_change = best[other] - change_cost > best
        came_from[number] = np.where(is_change, other, stay)
        best = np.where(is_change, best[other] - change_cost, best) + gains[number]
    path = np.empty(num_pieces, np.int64)
    path[-1] = best.argmax()
    for number in range(num_pieces - 1, 0, -1):
        path[number - 1] = came_from[number, path[number]]
    return path
