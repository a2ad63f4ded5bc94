"""Scores of clusters against labels, all from one pass over the clips: the non-empty cells of the contingency matrix.

Axes: N clips, L distinct labels, K clusters, C non-empty cells (C <= N).  After the pass nothing costs more than the
cells, so a million clusters of one clip are no problem.  Every score is a fraction but mean_entropy, which is in nats.
The limits (one cluster, one label, all singletons) are those of scikit-learn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from selavi.randomness import mix
from selavi.scores.contingency import Contingency, contingency_matrix, encode_groups, entropy

Metrics = dict[str, float | int]

INTERVAL_METRICS = (
    "nmi",
    "ari",
    "homogeneity",
    "completeness",
    "accuracy",
    "purity",
    "left_out_accuracy",
    "mean_purity",
    "mean_entropy",
)
"""What bootstrap_intervals gives unless told otherwise: everything but AMI, which costs more, and the counts."""

_BOUNDS = dict.fromkeys(INTERVAL_METRICS, (0.0, 1.0)) | {
    "ari": (-1.0, 1.0),
    "ami": (-1.0, 1.0),
    "mean_entropy": (0.0, math.inf),
}


def normalised_mutual_information(contingency: Contingency) -> float:
    """Mutual information over the arithmetic mean of both entropies: I / ((H(labels) + H(clusters)) / 2).

    1 where there is one label and one cluster.  This is the V-measure too, which is the harmonic mean of
    homogeneity and completeness (Rosenberg, Hirschberg 2007, with beta 1).

    Example:
        >>> table = contingency_matrix(["dog", "dog", "cat", "cat"], [0, 0, 1, 2])
        >>> round(normalised_mutual_information(table), 3)
        0.8
    """
    mean_of_both = (contingency.label_entropy + contingency.cluster_entropy) / 2
    return 1.0 if mean_of_both == 0 else contingency.mutual_information / mean_of_both


def homogeneity(contingency: Contingency) -> float:
    """I / H(labels): 1 where each cluster holds one label; also where there is one label."""
    entropy = contingency.label_entropy
    return 1.0 if entropy == 0 else contingency.mutual_information / entropy


def completeness(contingency: Contingency) -> float:
    """I / H(clusters): 1 where each label lies in one cluster; also where there is one cluster."""
    entropy = contingency.cluster_entropy
    return 1.0 if entropy == 0 else contingency.mutual_information / entropy


def adjusted_mutual_information(contingency: Contingency) -> float:
    """Mutual information less what chance gives, over the same of the arithmetic mean of both entropies.

    (I - E[I]) / (mean(H) - E[I]) with E[I] under the permutation model (Vinh, Epps, Bailey 2010, eq. 24a).  The
    limits are exact: 1 for equal partitions, else 0 where one side has one group or singletons alone.

    Example:
        >>> table = contingency_matrix(["dog", "dog", "cat", "cat"], [0, 0, 1, 2])
        >>> round(adjusted_mutual_information(table), 3)
        0.571
    """
    label_sizes, cluster_sizes = contingency.label_sizes, contingency.cluster_sizes
    label_sizes, cluster_sizes = label_sizes[label_sizes > 0], cluster_sizes[cluster_sizes > 0]
    num_clips, groups = contingency.num_clips, (label_sizes.size, cluster_sizes.size)
    if contingency.counts.size == label_sizes.size == cluster_sizes.size:
        return 1.0
    if 1 in groups or num_clips in groups:
        return 0.0
    expected = expected_mutual_information(label_sizes, cluster_sizes)
    mean_of_both = (contingency.label_entropy + contingency.cluster_entropy) / 2
    return (contingency.mutual_information - expected) / (mean_of_both - expected)


def adjusted_rand_index(contingency: Contingency) -> float:
    """Pairs of clips on which labels and clusters agree, corrected for chance (Hubert, Arabie 1985).

    The pairs are counted in Python integers: products of pair counts leave int64 at N = 70,000.

    Example:
        >>> table = contingency_matrix(["dog", "dog", "cat", "cat"], [0, 0, 1, 2])
        >>> round(adjusted_rand_index(table), 3)
        0.571
    """
    cells, rows, columns = (
        _num_pairs(counts) for counts in (contingency.counts, contingency.label_sizes, contingency.cluster_sizes)
    )
    pairs = math.comb(contingency.num_clips, 2)
    if rows == cells == columns:
        return 1.0
    # (cells - E) / ((rows + columns) / 2 - E) with E = rows * columns / pairs, times 2 * pairs
    return 2 * (cells * pairs - rows * columns) / ((rows + columns) * pairs - 2 * rows * columns)


def matched_accuracy(contingency: Contingency) -> float:
    """Share of clips that agree under the best one-to-one match of clusters and labels (Hungarian).

    Where there are more clusters than labels, or fewer, the clips of the unmatched ones count as wrong.

    Example:
        >>> table = contingency_matrix(["dog", "dog", "cat", "cat"], [0, 0, 1, 2])
        >>> round(matched_accuracy(table), 3)
        0.75
    """
    rows, columns, counts = contingency.rows, contingency.columns, contingency.counts
    matched = 0
    while counts.size:
        # A cell as large as the next largest of its row and of its column together belongs to a best match: it can
        # take the place of any two cells that keep it out.  That settles nearly all, where clusters are any good.
        (row_largest, row_second), (column_largest, column_second) = (
            _two_largest(rows, counts),
            _two_largest(columns, counts),
        )
        settled = np.flatnonzero(
            (counts == row_largest[rows])
            & (counts == column_largest[columns])
            & (counts >= row_second[rows] + column_second[columns])
        )
        settled = settled[np.unique(rows[settled], return_index=True)[1]]  # of equal ones in a row or column, the first
        settled = settled[np.unique(columns[settled], return_index=True)[1]]
        matched += int(counts[settled].sum())
        left = ~(np.isin(rows, rows[settled]) | np.isin(columns, columns[settled]))
        worthwhile = 2 * np.count_nonzero(left) <= counts.size
        rows, columns, counts = rows[left], columns[left], counts[left]
        if not worthwhile:
            break
    return (matched + _best_match(rows, columns, counts)) / contingency.num_clips


def purity(contingency: Contingency) -> float:
    """Share of clips that carry the most common label of their cluster: the mean weighted by cluster size.

    This is many-to-one accuracy: every cluster read as its most common label.

    Example:
        >>> table = contingency_matrix(["dog", "dog", "cat", "cat"], [0, 0, 0, 1])
        >>> round(purity(table), 3)
        0.75
    """
    return int(_two_largest(contingency.columns, contingency.counts)[0].sum()) / contingency.num_clips


def left_out_accuracy(contingency: Contingency) -> float:
    """Share of clips whose label is the most common one among the other clips of their cluster; ties are wrong.

    Many-to-one accuracy without the gift to small clusters: a cluster of one clip has purity 1, and 0 here.  A clip
    of the cluster's largest label, which has m clips, wins if m - 1 is more than the second largest; no other can.

    Example:
        >>> table = contingency_matrix(["dog", "dog", "dog", "cat"], [0, 0, 0, 1])
        >>> round(left_out_accuracy(table), 3)
        0.75
    """
    largest, second = _two_largest(contingency.columns, contingency.counts)
    return int(largest[largest - 1 > second].sum()) / contingency.num_clips


def mean_purity(contingency: Contingency) -> float:
    """Mean over the non-empty clusters, equally weighted, of the share of their most common label.

    The mean maximal purity of the SeLaVi paper.

    Example:
        >>> table = contingency_matrix(["dog", "dog", "cat", "cat"], [0, 0, 0, 1])
        >>> round(mean_purity(table), 3)
        0.833
    """
    largest, _ = _two_largest(contingency.columns, contingency.counts)
    sizes = contingency.cluster_sizes[: largest.size]
    return float((largest[sizes > 0] / sizes[sizes > 0]).mean())


def mean_entropy(contingency: Contingency) -> float:
    """Mean over the non-empty clusters, equally weighted, of the entropy of the labels inside, in nats.

    The mean entropy of the SeLaVi paper.

    Example:
        >>> table = contingency_matrix(["dog", "dog", "cat", "cat"], [0, 0, 0, 1])
        >>> round(mean_entropy(table), 3)
        0.318
    """
    sizes = contingency.cluster_sizes
    shares = contingency.counts / sizes[contingency.columns]
    total = -float((shares * np.log(shares)).sum())
    return max(0.0, total) / int(np.count_nonzero(sizes))


def evaluate_clusters(labels: Any, clusters: Any, num_clusters: int | None = None, *, ami: bool = True) -> Metrics:
    """Score clusters against labels, in one pass over the clips.

    Args:
        labels: (N,) integers or strings.
        clusters: (N,) integers in [0, K); without num_clusters integers or strings.
        num_clusters: K.
        ami: whether to compute AMI, which costs more than all the others together.

    Returns:
        As score_contingency.

    Raises:
        ValueError: as contingency_matrix.
    """
    return score_contingency(contingency_matrix(labels, clusters, num_clusters), ami=ami)


def score_contingency(contingency: Contingency, *, ami: bool = True) -> Metrics:
    """Every score of a contingency matrix.

    Returns:
        nmi and ami (arithmetic average), ari, homogeneity, completeness and their harmonic mean v_measure (equal to
        nmi), accuracy (after Hungarian matching), many_to_one_accuracy and purity (weighted by size: two names of
        one number), left_out_accuracy (many-to-one, each clip judged by the others), mean_purity and mean_entropy
        (nats; both unweighted), num_labels, and the figures of the sizes that describe_clusters gives.
    """
    nmi, pure = normalised_mutual_information(contingency), purity(contingency)
    adjusted = {"ami": adjusted_mutual_information(contingency)} if ami else {}
    return {
        "nmi": nmi,
        **adjusted,
        "ari": adjusted_rand_index(contingency),
        "v_measure": nmi,
        "homogeneity": homogeneity(contingency),
        "completeness": completeness(contingency),
        "accuracy": matched_accuracy(contingency),
        "many_to_one_accuracy": pure,
        "left_out_accuracy": left_out_accuracy(contingency),
        "purity": pure,
        "mean_purity": mean_purity(contingency),
        "mean_entropy": mean_entropy(contingency),
        "num_labels": int(np.count_nonzero(contingency.label_sizes)),
        **_describe_sizes(contingency.cluster_sizes),
    }


def describe_clusters(clusters: Any, num_clusters: int) -> Metrics:
    """Describe clusters where there are no labels.

    Args:
        clusters: (N,) integers in [0, K).
        num_clusters: K.

    Returns:
        used_clusters, n, size_min, size_p10 (a tenth of the clusters are no larger), size_median, size_p90 and
        size_max (over all K clusters, the empty ones too), and size_entropy: entropy of the cluster sizes over
        log K, 1 where all are equal, 0 where one has all.

    Raises:
        ValueError: there is no clip or a cluster lies outside [0, K).
    """
    return _describe_sizes(np.bincount(encode_groups("cluster", clusters, num_clusters)[0], minlength=num_clusters))


@dataclass(frozen=True)
class Interval:
    """What a score may have been on as many other clips of the same kind.

    Attributes:
        low: lower end.
        high: upper end.
        bias: how much higher the score is, on average, on resampled clips; already taken off low and high.
    """

    low: float
    high: float
    bias: float


def bootstrap_intervals(
    contingency: Contingency,
    names: Sequence[str] = INTERVAL_METRICS,
    *,
    num_resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals over resampled clips, less the bias of resampling.

    Clips are drawn with replacement, which is one multinomial draw over the cells: the cost is num_resamples times
    the cells, whatever N is.  A clip drawn twice is a pair that agrees, so NMI and the other scores of cells with
    few clips are higher on resampled clips than on as many fresh ones: the plain percentile interval may lie above
    the score itself.  The mean excess (`bias`) is therefore taken off both ends.  The interval is for the score that N
    fresh clips would give under the same model, not for N -> infinity, where NMI and purity are lower, nor for another
    training.  Clips count as independent; several clips of one recording are not, and need a wider interval.

    Args:
        contingency: as contingency_matrix gives it.
        names: some of INTERVAL_METRICS, or ami.
        num_resamples: draws.
        level: share of the draws between both ends.
        seed: of the draws.

    Raises:
        ValueError: another score, fewer than 2 draws or a level outside (0, 1).
    """
    if num_resamples < 2 or not 0 < level < 1:
        raise ValueError(f"expected num_resamples >= 2 and a level in (0, 1), got {num_resamples} and {level}")
    unknown = sorted(set(names) - set(_BOUNDS))
    if unknown:
        raise ValueError(f"no interval for {', '.join(unknown)}; expected some of {', '.join(_BOUNDS)}")
    measured = score_contingency(contingency, ami="ami" in names)
    generator = np.random.default_rng(mix(seed, "bootstrap"))
    num_clips = contingency.num_clips
    shares = contingency.counts / num_clips
    draws = np.empty((num_resamples, len(names)))
    for draw in draws:
        counts = generator.multinomial(num_clips, shares)
        kept = counts > 0
        resampled = replace(
            contingency, rows=contingency.rows[kept], columns=contingency.columns[kept], counts=counts[kept]
        )
        scores = score_contingency(resampled, ami="ami" in names)
        draw[:] = [scores[name] for name in names]
    bias = draws.mean(0) - [measured[name] for name in names]
    bounds = np.array([_BOUNDS[name] for name in names]).T
    low, high = (np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0) - bias).clip(*bounds)
    return {name: Interval(float(low[i]), float(high[i]), float(bias[i])) for i, name in enumerate(names)}


def expected_mutual_information(label_sizes: np.ndarray, cluster_sizes: np.ndarray) -> float:
    """Mean mutual information, in nats, of all ways to put labels on the clips that keep both lists of sizes.

    A cell of sizes a and b holds n clips with hypergeometric probability (Vinh, Epps, Bailey 2010).  Cells of equal
    sizes are counted once, and n runs from the likeliest value to where nothing is left, so the cost is the pairs of
    distinct sizes times the spread of a cell, and not L x K times the sizes.

    Args:
        label_sizes: (L,) integers, at least 1.
        cluster_sizes: (K,) integers, at least 1, of the same sum.

    Raises:
        ValueError: the sums differ or a size is below 1.
    """
    num_clips = int(label_sizes.sum())
    if num_clips != int(cluster_sizes.sum()) or label_sizes.min() < 1 or cluster_sizes.min() < 1:
        raise ValueError(
            "expected two lists of sizes, each at least 1, of one sum, "
            f"got sums {num_clips} and {int(cluster_sizes.sum())}"
        )
    a_sizes, a_times = np.unique(label_sizes, return_counts=True)
    b_sizes, b_times = np.unique(cluster_sizes, return_counts=True)
    total, rows = 0.0, max(1, 2**16 // b_sizes.size)
    for begin in range(0, a_sizes.size, rows):
        a = np.repeat(a_sizes[begin : begin + rows], b_sizes.size).astype(np.float64)
        b = np.tile(b_sizes, a.size // b_sizes.size).astype(np.float64)
        times = np.outer(a_times[begin : begin + rows], b_times).ravel()
        total += float((times * _expected_cell(a, b, float(num_clips))).sum())
    return total


def _expected_cell(a: np.ndarray, b: np.ndarray, num_clips: float) -> np.ndarray:
    """E[n / N log(N n / (a b))] over hypergeometric n, for each pair of sizes."""
    rest = num_clips - a - b  # n + rest clips are in neither group
    mode = np.clip(np.floor((a + 1) * (b + 1) / (num_clips + 2)), np.maximum(0, -rest), np.minimum(a, b))
    mean = a * b / num_clips
    # Probabilities relative to the mode's; dividing by their sum in the end spares the factorials and their rounding.
    mass = np.ones_like(a)
    total = mode * np.log(np.maximum(mode, 1) / mean)
    for step in (1, -1):
        n, p, which = mode.copy(), np.ones_like(a), np.arange(a.size)
        while which.size:
            a_, b_, rest_ = a[which], b[which], rest[which]
            if step == 1:
                p *= (a_ - n) * (b_ - n) / ((n + 1) * (n + 1 + rest_))
            else:
                p *= n * (n + rest_) / ((a_ - n + 1) * (b_ - n + 1))
            n += step
            going = p > 1e-18  # exactly 0 behind the last possible n
            n, p, which = n[going], p[going], which[going]
            mass[which] += p
            total[which] += p * n * np.log(np.maximum(n, 1) / mean[which])
    return total / mass / num_clips


def _two_largest(groups: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest and the second largest count (the same where two are equal; 0 where there is none) of each group."""
    largest, second = np.zeros((2, int(groups.max(initial=-1)) + 1), dtype=np.int64)
    np.maximum.at(largest, groups, counts)
    is_largest = counts == largest[groups]
    np.maximum.at(second, groups[~is_largest], counts[~is_largest])
    shared = np.bincount(groups[is_largest], minlength=largest.size) > 1
    return largest, np.where(shared, largest, second)


def _best_match(rows: np.ndarray, columns: np.ndarray, counts: np.ndarray) -> int:
    """The largest sum of counts of which no two share a row or a column."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    if counts.size == 0:
        return 0
    (row_names, rows), (column_names, columns) = (np.unique(ends, return_inverse=True) for ends in (rows, columns))
    height, width = row_names.size, column_names.size
    if width < height:
        rows, columns, height, width = columns, rows, width, height
    # SciPy matches every row, so each gets a column of its own that means "unmatched".  As stored zeros count as
    # missing, all weights are one more than the clips.
    own = np.arange(height)
    weights = np.concatenate([counts + 1.0, np.ones(height)])
    ends = np.concatenate([rows, own]).astype(np.int32), np.concatenate([columns, width + own]).astype(np.int32)
    graph = csr_array((weights, ends), shape=(height, width + height))
    return round(graph[min_weight_full_bipartite_matching(graph, maximize=True)].sum()) - height


def _describe_sizes(sizes: np.ndarray) -> Metrics:
    low, tenth, median, ninetieth, high = np.quantile(sizes, [0, 0.1, 0.5, 0.9, 1]).tolist()
    return {
        "used_clusters": int(np.count_nonzero(sizes)),
        "n": int(sizes.sum()),
        "size_min": int(low),
        "size_p10": tenth,
        "size_median": median,
        "size_p90": ninetieth,
        "size_max": int(high),
        "size_entropy": entropy(sizes) / math.log(sizes.size) if sizes.size > 1 else 1.0,
    }


def _num_pairs(counts: np.ndarray) -> int:
    """Sum of n (n - 1) / 2, exact: in int64 to 3e9 clips, beyond in Python integers."""
    if int(counts.sum()) > 3_000_000_000:
        return sum(math.comb(count, 2) for count in counts.tolist())
    return int((counts * (counts - 1) // 2).sum())
