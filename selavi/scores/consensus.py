"""One clustering out of many: a consensus over heads, merge trees that coarsen an over-clustering, help with K.

Axes: N clips, H heads, K clusters.  Every function is deterministic, and what is read clip by clip costs time linear in
N.  No human label takes part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from selavi.randomness import mix
from selavi.scores.contingency import Contingency, contingency_matrix
from selavi.scores.head_choice import choose_head
from selavi.scores.metrics import (
    adjusted_mutual_information,
    adjusted_rand_index,
    describe_clusters,
    normalised_mutual_information,
)

CHUNK_NUMBERS = 2**23
"""Numbers of the (clips, K) block that the consensus holds at once."""

DENSE_NUMBERS = 2**27
"""Up to this size the (H K, K) weights of the consensus are a plain array, which multiplies many times as fast."""


@dataclass(frozen=True)
class Consensus:
    """A clustering that the heads agree on.

    Attributes:
        clusters: (N,) int64 in [0, K), named like the clusters of head `start`.
        start: the head that the search began with.
        rounds: passes over the clips.
        converged: whether the last pass moved no clip.
    """

    clusters: np.ndarray
    start: int
    rounds: int
    converged: bool


def consensus(assignments: np.ndarray, num_clusters: int, *, max_rounds: int = 100) -> Consensus:
    """Combine the heads' clusters into one clustering of at most K clusters.

    The heads are taken as independent witnesses of one hidden clustering (a mixture of multinomials: Topchy, Jain,
    Punch 2004): a clip of hidden cluster z has cluster c under head h with probability p_h(c | z).  From the head that
    agrees most with the others, hard assignments and the counts behind p are improved in turn; each clip goes to the z
    that makes its H clusters likeliest, sum_h log p_h(c_h | z), with half a clip added to every count.  In the first
    round the other heads say how far that head can be trusted.  Among equal z a clip stays where it is, else the lowest
    takes it.  The names of clusters do not matter, so heads need no alignment.

    Heads as good as each other gain most.  One far better than all others, or one of two, may be better than the
    consensus, and nothing without labels can tell.

    Time: rounds x N x (the hidden clusters that share a cluster with a clip), at most rounds x N x H x K.

    Args:
        assignments: (N, H) integers in [0, K).
        num_clusters: K.
        max_rounds: end after as many passes though clips still move.

    Raises:
        ValueError: another shape, or a cluster outside [0, K).
    """
    _check(assignments, num_clusters)
    start = choose_head(assignments).head
    hidden = assignments[:, start].astype(np.int64)
    converged, rounds = assignments.shape[1] == 1, 0
    while rounds < max_rounds and not converged:
        tables = [_co_occurrence(head, hidden, num_clusters) for head in assignments.T]
        if rounds == 0:
            tables[start] = _doubted(tables, start)
        improved = _likeliest(assignments, hidden, tables)
        converged, rounds = bool((improved == hidden).all()), rounds + 1
        hidden = improved
    return Consensus(hidden, start, rounds, converged)


def _doubted(tables: Sequence[Any], start: int) -> Any:
    """(K, K) counts of the first head with itself as the other heads see them: from its clusters to theirs and back.

    Its own counts would say that it is never wrong.
    """
    from scipy.sparse import diags_array

    others = [table for head, table in enumerate(tables) if head != start]
    return sum(table.T @ diags_array(1 / np.maximum(table.sum(1), 1)) @ table for table in others) / len(others)


def _likeliest(assignments: np.ndarray, hidden: np.ndarray, tables: Sequence[Any]) -> np.ndarray:
    """(N,) the hidden cluster that makes each clip's clusters likeliest, given clips of (cluster, hidden) by head."""
    from scipy.sparse import csr_array, vstack

    (num_clips, num_heads), num_clusters = assignments.shape, tables[0].shape[0]
    sizes = np.bincount(hidden, minlength=num_clusters)
    # log p = log((count + 1/2) / (size + K/2)): what every cluster has without a clip, plus what the filled cells add
    blank = num_heads * (np.log(0.5) - np.log(sizes + num_clusters / 2))
    blank = np.where(sizes == 0, -np.inf, _exact(blank))
    weights = vstack(tables, format="csr")
    weights.data = _exact(np.log(weights.data + 0.5) - np.log(0.5))
    if weights.shape[0] * weights.shape[1] <= DENSE_NUMBERS:
        weights = weights.toarray()
    columns = assignments + np.arange(num_heads) * num_clusters
    improved = np.empty_like(hidden)
    step = max(1, CHUNK_NUMBERS // num_clusters)
    for begin in range(0, num_clips, step):
        own = columns[begin : begin + step]
        ends = np.arange(0, own.size + 1, num_heads)
        picked = csr_array((np.ones(own.size), own.ravel(), ends), shape=(len(own), num_heads * num_clusters))
        scores = picked @ weights
        scores = (scores if isinstance(scores, np.ndarray) else scores.toarray()) + blank
        best, rows = scores.argmax(1), np.arange(len(own))
        stays = scores[rows, hidden[begin : begin + step]] == scores[rows, best]
        improved[begin : begin + step] = np.where(stays, hidden[begin : begin + step], best)
    return improved


def _exact(values: np.ndarray) -> np.ndarray:
    """Round to multiples of 2**-32: sums below 2**20 are then exact in any order, and equal ones compare as equal."""
    return np.rint(values * 2**32) / 2**32


@dataclass(frozen=True)
class MergeTree:
    """How K clusters merge, two at a time, into one.

    Attributes:
        merges: (K - 1, 4) float64, SciPy's linkage: the two groups that merge (numbers below K are clusters, K + i is
            what merge i made), their distance, and the clusters in the new group.
    """

    merges: np.ndarray

    @property
    def num_clusters(self) -> int:
        """K."""
        return len(self.merges) + 1

    def cut(self, num_groups: int) -> np.ndarray:
        """(K,) int64: the group of each cluster once `num_groups` are left, numbered by their lowest clusters.

        Coarser cuts are unions of finer ones.  `tree.cut(k)[clusters]` are the coarse clusters of clips.

        Raises:
            ValueError: num_groups outside [1, K].
        """
        if not 1 <= num_groups <= self.num_clusters:
            raise ValueError(
                f"expected 1 to {self.num_clusters} groups of {self.num_clusters} clusters, got {num_groups}"
            )
        group_of = np.arange(2 * self.num_clusters - 1)
        merged = self.merges[: self.num_clusters - num_groups, :2].astype(np.int64)
        for number, pair in reversed(list(enumerate(merged))):
            group_of[pair] = group_of[self.num_clusters + number]
        _, first, numbers = np.unique(group_of[: self.num_clusters], return_index=True, return_inverse=True)
        return first.argsort().argsort()[numbers]


def merge_tree(profiles: Any) -> MergeTree:
    """Merge the clusters whose profiles are alike, by Ward's rule on square roots (Hellinger distance).

    Memory K x K, time K x K times the filled entries of a profile; N plays no part.

    Args:
        profiles: (K, D) array or sparse array, not negative: row k says what cluster k is like, as
            co_occurrence_profiles or mean_probabilities give it.  Rows are scaled to sum 1; a row of zeros (an empty
            cluster) counts as flat.

    Raises:
        ValueError: another shape, fewer than two clusters, or values that are negative or not finite.
    """
    from scipy.cluster.hierarchy import linkage
    from scipy.sparse import csr_array, diags_array
    from scipy.spatial.distance import squareform

    if profiles.ndim != 2 or profiles.shape[0] < 2:
        raise ValueError(f"expected profiles (K, D) of two clusters or more, got {profiles.shape}")
    rows = csr_array(profiles, dtype=np.float64)
    faulty = int((~((rows.data >= 0) & np.isfinite(rows.data))).sum())
    if faulty:
        raise ValueError(f"expected profiles that are finite and not negative, got {faulty} entries that are not")
    sums = rows.sum(1)
    empty = np.flatnonzero(sums == 0)
    roots = (diags_array(1 / np.where(sums > 0, sums, 1)) @ rows).sqrt()
    overlap = (roots @ roots.T).toarray()
    # What a flat profile shares with another: the sum of the other's roots over the root of D.
    flat = roots.sum(1) / np.sqrt(rows.shape[1])
    flat[empty] = 1
    overlap[empty], overlap[:, empty] = flat, flat[:, None]
    distances = np.sqrt((2 - 2 * overlap).clip(0))
    np.fill_diagonal(distances, 0)
    return MergeTree(linkage(squareform(distances, checks=False), method="ward"))


def co_occurrence_profiles(assignments: np.ndarray, head: int, num_clusters: int) -> Any:
    """Where the clips of each cluster of one head lie under the other heads.

    Two clusters that the other heads do not tell apart have equal profiles.

    Args:
        assignments: (N, H) integers in [0, K), two heads or more.
        head: whose clusters are described.
        num_clusters: K.

    Returns:
        (K, (H - 1) K) sparse array of float64: row k counts, for each other head, the clips of cluster k in its
        clusters; empty for an empty cluster.

    Raises:
        ValueError: another shape, fewer than two heads, a cluster outside [0, K), or no such head.
    """
    from scipy.sparse import hstack

    _check(assignments, num_clusters)
    num_heads = assignments.shape[1]
    if num_heads < 2 or not 0 <= head < num_heads:
        raise ValueError(f"expected two heads or more and one of them, got {num_heads} heads and head {head}")
    others = [other for other in range(num_heads) if other != head]
    return hstack([_co_occurrence(assignments[:, head], assignments[:, other], num_clusters) for other in others])


def mean_probabilities(clusters: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(K, K) mean probabilities of the clips of each cluster: which clusters the model mistakes for each other.

    Args:
        clusters: (N,) integers in [0, K).
        probabilities: (N, K) of the same head.

    Returns:
        float64; the row of an empty cluster is 0.

    Raises:
        ValueError: shapes that do not fit or a cluster outside [0, K).
    """
    from scipy.sparse import csr_array

    if probabilities.ndim != 2 or clusters.shape != probabilities.shape[:1]:
        raise ValueError(
            f"expected clusters (N,) and probabilities (N, K), got {clusters.shape}, {probabilities.shape}"
        )
    _check(clusters[:, None], probabilities.shape[1])
    num_clips, num_clusters = probabilities.shape
    members = csr_array((np.ones(num_clips), (clusters, np.arange(num_clips))), shape=(num_clusters, num_clips))
    return members @ probabilities / np.maximum(np.bincount(clusters, minlength=num_clusters), 1)[:, None]


@dataclass(frozen=True)
class Agreement:
    """How well several clusterings of the same clips agree, mean over their pairs.

    Attributes:
        nmi: rises with K even between random clusterings.
        ami: NMI adjusted for chance: to compare different K.
        ari: adjusted Rand index, adjusted for chance as well.
    """

    nmi: float
    ami: float
    ari: float


def stability(assignments: np.ndarray, num_clusters: int) -> Agreement:
    """Agreement between heads, or between models of other halves of the data, seeds or settings, on the same clips.

    Args:
        assignments: (N, H) integers in [0, K), two columns or more.
        num_clusters: K.

    Raises:
        ValueError: another shape, fewer than two columns, or a cluster outside [0, K).
    """
    _check(assignments, num_clusters)
    _need_pairs(assignments)
    columns = assignments.T
    return _mean_agreement([contingency_matrix(a, b, num_clusters) for a, b in combinations(columns, 2)])


@dataclass(frozen=True)
class CoarseK:
    """What an over-clustering looks like when merged to `num_groups` clusters.

    Attributes:
        num_groups: k.
        agreement: between the heads, each merged to k by its own tree.
        size_entropy: entropy of the cluster sizes over log k, mean over heads; 1 where all are equal.
    """

    num_groups: int
    agreement: Agreement
    size_entropy: float


def agreement_over_k(
    assignments: np.ndarray, num_clusters: int, num_groups: Sequence[int], *, seed: int = 0
) -> list[CoarseK]:
    """Merge every head to each k, and say how well the heads still agree: a help to choose K.

    Heads that split true groups at random disagree on the splits and agree once these are merged, so the agreement
    adjusted for chance tends to be highest near the number of groups in the data; far below it may be as high.
    The trees come from one half of the clips (drawn with the seed) and the agreement from the other, for a tree that
    has seen a clip's other clusters would agree with them too easily.

    Time: N x H^2 once, then for each k the pairs of clusters that share a clip, and the trees' K x K memory.

    Args:
        assignments: (N, H) integers in [0, K), two heads or more.
        num_clusters: K.
        num_groups: the k to look at, each in [1, K].
        seed: of the halves.

    Raises:
        ValueError: another shape, fewer than two heads or clips, a cluster outside [0, K), or a k outside [1, K].
    """
    _check(assignments, num_clusters)
    _need_pairs(assignments)
    if len(assignments) < 2:
        raise ValueError("expected two clips or more, one for each half, got 1")
    order = np.random.default_rng(mix(seed, "halves")).permutation(len(assignments))
    seen, unseen = assignments[order[::2]], assignments[order[1::2]]
    heads = range(assignments.shape[1])
    trees = [merge_tree(co_occurrence_profiles(seen, head, num_clusters)) for head in heads]
    pairs = {(a, b): _co_occurrence(unseen[:, a], unseen[:, b], num_clusters) for a, b in combinations(heads, 2)}
    coarse = []
    for k in num_groups:
        cuts = [tree.cut(k) for tree in trees]
        tables = [_merged(counts, cuts[a], cuts[b], k) for (a, b), counts in pairs.items()]
        entropies = [float(describe_clusters(cut[unseen[:, head]], k)["size_entropy"]) for head, cut in enumerate(cuts)]
        coarse.append(CoarseK(k, _mean_agreement(tables), float(np.mean(entropies))))
    return coarse


def _mean_agreement(tables: Sequence[Contingency]) -> Agreement:
    scores = (normalised_mutual_information, adjusted_mutual_information, adjusted_rand_index)
    return Agreement(*(float(np.mean([score(table) for table in tables])) for score in scores))


def _co_occurrence(first: np.ndarray, second: np.ndarray, num_clusters: int) -> Any:
    """(K, K) sparse float64: clips with each pair of clusters."""
    from scipy.sparse import coo_array

    table = coo_array((np.ones(len(first)), (first, second)), shape=(num_clusters, num_clusters)).tocsr()
    table.sum_duplicates()
    return table


def _merged(counts: Any, row_groups: np.ndarray, column_groups: np.ndarray, num_groups: int) -> Contingency:
    """The counts of merged rows and columns."""
    from scipy.sparse import coo_array

    cells = counts.tocoo()
    ends = row_groups[cells.row], column_groups[cells.col]
    merged = coo_array((cells.data, ends), shape=(num_groups, num_groups)).tocsr()
    merged.sum_duplicates()
    rows = np.repeat(np.arange(num_groups), np.diff(merged.indptr))
    names = np.arange(num_groups)
    return Contingency(rows, merged.indices.astype(np.int64), merged.data.astype(np.int64), names, names)


def _check(assignments: np.ndarray, num_clusters: int) -> None:
    if assignments.ndim != 2 or 0 in assignments.shape or assignments.dtype.kind not in "iu":
        raise ValueError(f"expected assignments (N, H) of integers, got {assignments.shape} {assignments.dtype}")
    low, high = int(assignments.min()), int(assignments.max())
    if low < 0 or high >= num_clusters:
        raise ValueError(f"expected cluster numbers in [0, {num_clusters}), got {low} to {high}")


def _need_pairs(assignments: np.ndarray) -> None:
    if assignments.shape[1] < 2:
        raise ValueError("expected two heads or more: one agrees with nobody")
