"""The nearest clips of each clip, by the features of the run.

Axes: N clips, D features.  The search is exact.  Its cost is what is bounded: of few clips all are looked at, of many
those alone in the rows of the opening head's clusters, whose number does not grow with N.
"""

import numpy as np

from selavi.results.gallery.select import mean_of

NUM_NEAR = 10
BUDGET = 1_500_000_000_000
"""Multiplications of a search at most, each comparison counted as D + CHOICE: about a minute of two cores."""
CHOICE = 100
"""What it takes to choose among the clips, in multiplications a comparison."""
QUERIES = 1024
"""Clips whose nearest ones are looked for at once."""
CANDIDATES = 16_384
"""Clips that they are compared with at once; a multiple of _STRIDES."""
_STRIDES = 32


def rows_to_search(shown: np.ndarray, num_clips: int, num_features: int, budget: int = BUDGET) -> np.ndarray:
    """Choose the clips whose nearest ones are looked for.

    Args:
        shown: (S,) clips that matter more than others, the most important first.
        num_clips: N.
        num_features: D.
        budget: as BUDGET.

    Returns:
        All N rows where the budget allows that, else the first of `shown` that it allows.
    """
    cost = max(num_clips, 1) * (num_features + CHOICE)
    if num_clips * cost <= budget:
        return np.arange(num_clips)
    return shown[: budget // cost]


def nearest_clips(features: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Find the nearest clips of some, by the cosine of their features about the mean of all clips.

    Memory: QUERIES x CANDIDATES similarities, and as many features of 32 bits as QUERIES + CANDIDATES clips have.

    Args:
        features: (N, D).
        rows: (Q,) clips whose nearest ones are wanted.

    Returns:
        (Q, NUM_NEAR) int32, the nearest first, never the clip itself; -1 where there are fewer clips.
    """
    mean = mean_of(features)
    found = np.full((len(rows), NUM_NEAR), -1, np.int32)
    for start in range(0, len(rows), QUERIES):
        block = slice(start, start + QUERIES)
        found[block] = _nearest(features, rows[block], mean)
    return found


def _nearest(features: np.ndarray, rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    own = _directions(features[rows], mean)
    best = np.full((len(rows), NUM_NEAR), -np.inf, np.float32)
    places = np.full((len(rows), NUM_NEAR), -1, np.int32)
    for start in range(0, len(features), CANDIDATES):
        others = _directions(features[start : start + CANDIDATES], mean)
        width = -(-len(others) // _STRIDES) * _STRIDES
        similarities = np.full((len(rows), width), -np.inf, np.float32)
        np.matmul(own, others.T, out=similarities[:, : len(others)])
        is_here = (rows >= start) & (rows < start + len(others))
        similarities[is_here, rows[is_here] - start] = -np.inf
        columns = _largest(similarities)
        values = np.concatenate([best, np.take_along_axis(similarities, columns, 1)], 1)
        names = np.concatenate([places, (columns + start).astype(np.int32)], 1)
        order = np.argsort(-values, axis=1, kind="stable")[:, :NUM_NEAR]
        best, places = np.take_along_axis(values, order, 1), np.take_along_axis(names, order, 1)
    return np.where(np.isfinite(best), places, -1)


def _largest(values: np.ndarray) -> np.ndarray:
    """(Q, up to NUM_NEAR) columns of the largest values of each row, in any order.

    The largest values lie in the NUM_NEAR groups of columns whose own largest value is largest; so nearly all of the
    work is one pass of maxima.
    """
    num_groups = values.shape[1] // _STRIDES
    count = min(NUM_NEAR, num_groups)
    largest = values.reshape(len(values), _STRIDES, num_groups).max(1)
    groups = np.argpartition(-largest, count - 1, axis=1)[:, :count]
    columns = (groups[:, None, :] + num_groups * np.arange(_STRIDES)[:, None]).reshape(len(values), -1)
    chosen = np.take_along_axis(values, columns, 1)
    count = min(NUM_NEAR, columns.shape[1])
    inside = np.argpartition(-chosen, count - 1, axis=1)[:, :count]
    return np.take_along_axis(columns, inside, 1)


def _directions(features: np.ndarray, mean: np.ndarray) -> np.ndarray:
    away = features.astype(np.float32) - mean
    lengths = np.linalg.norm(away, axis=1, keepdims=True)
    return away / np.where(lengths > 0, lengths, 1)
