"""Scores of clusters against labels, all from one contingency matrix.

Axes: N clips, L distinct labels, K clusters.  Every score is a fraction but mean_entropy, which is in nats.
The limits (one cluster, one label, all singletons) are those of scikit-learn.
"""

import math
from typing import Any

import numpy as np

Metrics = dict[str, float | int]


def contingency_matrix(labels: Any, clusters: Any, num_clusters: int | None = None) -> np.ndarray:
    """Count the clips of each label in each cluster.

    Args:
        labels: (N,) integers, booleans or strings.
        clusters: (N,) integers in [0, K).
        num_clusters: K; without it, the largest cluster number plus one.

    Returns:
        (L, K) int64; rows follow the sorted labels, columns the cluster numbers, empty clusters included.

    Raises:
        ValueError: the lengths differ, there is no clip, a label is missing or a cluster lies outside [0, K).
    """
    cluster_array = _as_clusters(clusters, num_clusters)
    label_array = np.asarray(labels)
    if label_array.shape != cluster_array.shape:
        raise ValueError(
            f"expected one label a clip, got labels {label_array.shape} and clusters {cluster_array.shape}"
        )
    if label_array.dtype.kind == "O":
        missing = sum(label is None for label in label_array)
        if missing:
            raise ValueError(f"{missing} of {label_array.size} clips have no label: score the labelled clips alone")
    elif label_array.dtype.kind not in "biuUS":
        raise ValueError(f"expected labels that are integers or strings, got {label_array.dtype}")
    names, rows = np.unique(label_array, return_inverse=True)
    width = num_clusters if num_clusters is not None else int(cluster_array.max()) + 1
    cells = np.bincount(rows.astype(np.int64) * width + cluster_array, minlength=names.size * width)
    return cells.reshape(names.size, width).astype(np.int64, copy=False)


def normalised_mutual_information(contingency: np.ndarray) -> float:
    """Mutual information over the arithmetic mean of both entropies: I / ((H(labels) + H(clusters)) / 2).

    1 where there is one label and one cluster.
    """
    used = _used(contingency)
    if used.shape == (1, 1):
        return 1.0
    information = _mutual_information(used)
    if information == 0:
        return 0.0
    return information / _mean_entropy_of_both(used)


def adjusted_mutual_information(contingency: np.ndarray) -> float:
    """Mutual information less what chance gives, over the same of the arithmetic mean of both entropies.

    (I - E[I]) / (mean(H) - E[I]) with E[I] under the permutation model (Vinh, Epps, Bailey 2010, eq. 24a).
    """
    from sklearn.metrics.cluster import expected_mutual_information

    used = _used(contingency)
    if used.shape == (1, 1):
        return 1.0
    if 1 in used.shape:
        return 0.0
    expected = float(expected_mutual_information(used, int(used.sum())))
    gain = _away_from_zero(_mutual_information(used) - expected)
    return gain / _away_from_zero(_mean_entropy_of_both(used) - expected)


def adjusted_rand_index(contingency: np.ndarray) -> float:
    """Pairs of clips on which labels and clusters agree, corrected for chance (Hubert, Arabie 1985).

    The pairs are counted in Python integers: products of pair counts leave int64 at N = 70,000.
    """
    cells, rows, columns = (
        _num_pairs(contingency),
        _num_pairs(contingency.sum(1)),
        _num_pairs(contingency.sum(0)),
    )
    num_clips = int(contingency.sum())
    pairs = num_clips * (num_clips - 1) // 2
    if rows == cells == columns:
        return 1.0
    # (cells - E) / ((rows + columns) / 2 - E) with E = rows * columns / pairs, times 2 * pairs
    return 2 * (cells * pairs - rows * columns) / ((rows + columns) * pairs - 2 * rows * columns)


def matched_accuracy(contingency: np.ndarray) -> float:
    """Share of clips that agree under the best one-to-one match of clusters and labels (Hungarian).

    Where there are more clusters than labels, or fewer, the clips of the unmatched ones count as wrong.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(contingency, maximize=True)
    return int(contingency[rows, columns].sum()) / int(contingency.sum())


def purity(contingency: np.ndarray) -> float:
    """Share of clips that carry the most common label of their cluster: the mean weighted by cluster size."""
    return int(contingency.max(0).sum()) / int(contingency.sum())


def mean_entropy(contingency: np.ndarray) -> float:
    """Mean over the non-empty clusters, equally weighted, of the entropy of the labels inside, in nats."""
    used = _used(contingency)
    shares = used / used.sum(0)
    return float((-_times_own_log(shares)).sum(0).mean())


def evaluate_clusters(labels: Any, clusters: Any, num_clusters: int) -> Metrics:
    """Score clusters against labels.

    Args:
        labels: (N,) integers or strings.
        clusters: (N,) integers in [0, K).
        num_clusters: K.

    Returns:
        nmi and ami (arithmetic average), ari, accuracy (after Hungarian matching), purity (weighted by size),
        mean_entropy (nats, unweighted), used_clusters, n.

    Raises:
        ValueError: as contingency_matrix.
    """
    contingency = contingency_matrix(labels, clusters, num_clusters)
    return {
        "nmi": normalised_mutual_information(contingency),
        "ami": adjusted_mutual_information(contingency),
        "ari": adjusted_rand_index(contingency),
        "accuracy": matched_accuracy(contingency),
        "purity": purity(contingency),
        "mean_entropy": mean_entropy(contingency),
        "used_clusters": int(np.count_nonzero(contingency.sum(0))),
        "n": int(contingency.sum()),
    }


def describe_clusters(clusters: Any, num_clusters: int) -> Metrics:
    """Describe clusters where there are no labels.

    Args:
        clusters: (N,) integers in [0, K).
        num_clusters: K.

    Returns:
        used_clusters, n, size_min, size_median and size_max (over all K clusters, the empty ones too), and
        size_entropy: entropy of the cluster sizes over log K, 1 where all are equal, 0 where one has all.

    Raises:
        ValueError: there is no clip or a cluster lies outside [0, K).
    """
    sizes = np.bincount(_as_clusters(clusters, num_clusters), minlength=num_clusters)
    entropy = _entropy(sizes) / math.log(num_clusters) if num_clusters > 1 else 1.0
    return {
        "used_clusters": int(np.count_nonzero(sizes)),
        "n": int(sizes.sum()),
        "size_min": int(sizes.min()),
        "size_median": float(np.median(sizes)),
        "size_max": int(sizes.max()),
        "size_entropy": entropy,
    }


def _as_clusters(clusters: Any, num_clusters: int | None) -> np.ndarray:
    array = np.asarray(clusters)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise ValueError(f"expected clusters (N,) of integers with N >= 1, got shape {array.shape} {array.dtype}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or (num_clusters is not None and high >= num_clusters):
        expected = "at least 0" if num_clusters is None else f"in [0, {num_clusters})"
        raise ValueError(f"expected cluster numbers {expected}, got {low} to {high}")
    return array.astype(np.int64, copy=False)


def _used(contingency: np.ndarray) -> np.ndarray:
    """Leave out the empty clusters and labels: they change no score but would divide by 0."""
    return contingency[contingency.any(1)][:, contingency.any(0)]


def _times_own_log(shares: np.ndarray) -> np.ndarray:
    """Return p log p, 0 where p = 0."""
    return shares * np.log(shares, out=np.zeros_like(shares), where=shares > 0)


def _entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution that the counts describe; 0 (not -0) where one count has all."""
    return max(0.0, -float(_times_own_log(counts / counts.sum()).sum()))


def _mutual_information(contingency: np.ndarray) -> float:
    rows, columns = np.nonzero(contingency)
    counts = contingency[rows, columns].astype(np.float64)
    num_clips = counts.sum()
    # N n_ij / (a_i b_j) as two quotients: the product a_i * b_j leaves int64 at N = 3e9
    lift = (counts / contingency.sum(1)[rows]) * (num_clips / contingency.sum(0)[columns])
    terms = counts / num_clips * np.log(lift)
    # log(1) may round to one epsilon: independent labels and clusters must give exactly 0.
    terms[np.abs(terms) < np.finfo(np.float64).eps] = 0.0
    return max(0.0, float(terms.sum()))


def _mean_entropy_of_both(contingency: np.ndarray) -> float:
    return (_entropy(contingency.sum(1)) + _entropy(contingency.sum(0))) / 2


def _num_pairs(counts: np.ndarray) -> int:
    """Sum of n (n - 1) / 2: in int64 each sum is exact to N = 4e9, and a Python integer afterwards."""
    counts = counts.astype(np.int64, copy=False)
    return int((counts * (counts - 1) // 2).sum())


def _away_from_zero(value: float) -> float:
    """Keep the sign and at least one epsilon: a perfect match is then 1 and not 0 / 0 (as scikit-learn)."""
    epsilon = float(np.finfo(np.float64).eps)
    return min(value, -epsilon) if value < 0 else max(value, epsilon)
