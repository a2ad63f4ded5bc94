"""Which clusters are alike, by their features and by what other heads make of them; and two heads, cluster by cluster.

Axes: N clips, C clusters of one head that have clips, D features, P pairs of clusters.  What is counted is linear in
clips for every pair of heads; of C x C figures, ROWS x C are held at once, and all of them only for the merge tree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array, hstack

from selavi.results.gallery.select import NUM_NEAREST, Head, HeadClusters
from selavi.scores.contingency import Contingency, contingency_matrix
from selavi.scores.metrics import normalised_mutual_information

ROWS = 1024
"""Clusters whose figures with all others are held at once."""
MOST_IN_TREE = 2000
"""Clusters of a head up to which it has a merge tree, whose cost grows with their square."""
DENSE_NUMBERS = 2**24
"""Numbers up to which a sparse matrix is used as a plain array, which is many times as fast."""
ALL_PAIRS = 100
"""Clusters of a head up to which every pair has its figures; of more, those that are nearest in one way or other."""
MOST_COUNTERPARTS = 3
"""Clusters of another head that are told for each cluster."""


@dataclass(frozen=True)
class Crossing:
    """Where the clips of one head's clusters lie under another head.

    Attributes:
        nmi: normalised mutual information between both heads, 0 to 1.
        largest: by the place of the first head's cluster, (cluster of the other head, clips that both hold), the most
            first, at most MOST_COUNTERPARTS.
        shares: (C, C') sparse float64; row c holds the shares of cluster c's clips that each cluster of the other head
            has, and sums to 1.
        kept: (N,) float32, for each clip which share of its cluster's clips the other head puts into the same cluster
            as this clip.
    """

    nmi: float
    largest: list[list[tuple[int, int]]]
    shares: csr_array
    kept: np.ndarray


@dataclass(frozen=True)
class OtherHeads:
    """What all other heads make of one head's clusters.

    Attributes:
        profiles: (C, sum of the other heads' C') sparse float64 whose rows' dot products are `together`: the chance
            that another head, drawn at random, puts one clip of each of two clusters into one cluster.
        kept: (N,) float32, mean of Crossing.kept over the other heads.
        crossings: by the number of the other head.
    """

    profiles: csr_array
    kept: np.ndarray
    crossings: Mapping[int, Crossing]


@dataclass(frozen=True)
class Pairs:
    """Pairs of clusters that may be the same.

    Attributes:
        places: (P, 2) int64, places in HeadClusters.clusters, the lower one first.
        alike: (P,) float32, cosine of the mean features about the mean of all clips; None without features.
        together: (P,) float32, see OtherHeads; None where there is one head.
        within: (C,) float32, `together` of a cluster with itself: the most that a pair with it could reach if the other
            heads did not tell them apart; None where there is one head.
        tree: (C - 1,) int64, places in `places`, in the order of the merge tree: of the two groups that merge, the two
            clusters that are most alike; None without features or with more than MOST_IN_TREE clusters.
        joined: (C - 1,) float32, mean cosine between the clusters of the two groups that merge; None like `tree`.
    """

    places: np.ndarray
    alike: np.ndarray | None
    together: np.ndarray | None
    within: np.ndarray | None
    tree: np.ndarray | None
    joined: np.ndarray | None


def cross(first: np.ndarray, second: np.ndarray) -> Crossing:
    """Compare the clusters of two heads.

    Args:
        first: (N,) integers, the clusters of one head.
        second: (N,) integers, those of the other.

    Raises:
        ValueError: the lengths differ or there is no clip.
    """
    table = contingency_matrix(first, second)
    shape = (table.label_names.size, table.cluster_names.size)
    shares = csr_array((table.counts / table.label_sizes[table.rows], (table.rows, table.columns)), shape=shape)
    own, others = np.searchsorted(table.label_names, first), np.searchsorted(table.cluster_names, second)
    kept = np.asarray(_plain(shares)[own, others]).ravel().astype(np.float32)
    return Crossing(normalised_mutual_information(table), _largest(table), shares, kept)


def _plain(matrix: csr_array) -> Any:
    """The matrix in 32 bits, as a plain array where that is small."""
    small = matrix.astype(np.float32)
    return small.toarray() if np.prod(matrix.shape) <= DENSE_NUMBERS else small


def _largest(table: Contingency) -> list[list[tuple[int, int]]]:
    """MOST_COUNTERPARTS columns of each row, by name, and their counts."""
    largest: list[list[tuple[int, int]]] = [[] for _ in table.label_names]
    order = np.lexsort((table.columns, -table.counts, table.rows))
    rows = table.rows[order]
    is_kept = np.arange(len(rows)) - np.searchsorted(rows, rows) < MOST_COUNTERPARTS
    rows, order = rows[is_kept], order[is_kept]
    names = table.cluster_names[table.columns[order]].tolist()
    for row, name, count in zip(rows.tolist(), names, table.counts[order].tolist(), strict=True):
        largest[row].append((name, count))
    return largest


def ask_other_heads(head: Head, heads: Sequence[Head]) -> OtherHeads | None:
    """Compare a head with each of the others; None where there are none.

    Args:
        head: one of them.
        heads: all of them, of the same N clips.
    """
    others = [other for other in heads if other.head != head.head]
    if not others:
        return None
    crossings = {other.head: cross(head.cluster, other.cluster) for other in others}
    profiles = hstack([crossing.shares for crossing in crossings.values()]) / np.sqrt(len(others))
    kept = np.mean([crossing.kept for crossing in crossings.values()], 0)
    return OtherHeads(csr_array(profiles), kept, crossings)


def find_pairs(clusters: HeadClusters, others: OtherHeads | None) -> Pairs | None:
    """Find pairs of a head's clusters that may be the same, the merge tree and the figures of each pair.

    The tree is that of average linkage by the cosine of mean features.  Pairs are those of the tree, of each cluster
    with the NUM_NEAREST that are nearest by features and by what the other heads make of them, and up to ALL_PAIRS
    clusters all there are.

    Args:
        clusters: of Selector.select.
        others: of ask_other_heads for the same head.

    Returns:
        None where nothing is known of any pair: fewer than two clusters, or neither features nor other heads.
    """
    num_clusters, directions = len(clusters.clusters), clusters.directions
    if num_clusters < 2 or (directions is None and others is None):
        return None
    directions = None if directions is None else directions.astype(np.float32)
    candidates = [_near_features(clusters)]
    profiles = within = None
    if others is not None:
        profiles = _plain(others.profiles)
        within = np.asarray(others.profiles.power(2).sum(1)).ravel().astype(np.float32)
        candidates.append(_near_heads(profiles, within))
    tree = joined = None
    if directions is not None and num_clusters <= MOST_IN_TREE:
        tree, joined = _merge_tree(directions)
        candidates.append(tree)
    if num_clusters <= ALL_PAIRS:
        candidates.append(np.stack(np.triu_indices(num_clusters, 1), 1))
    keys = np.concatenate([np.sort(pairs, 1) @ [num_clusters, 1] for pairs in candidates])
    keys = np.unique(keys)
    places = np.stack(np.divmod(keys, num_clusters), 1)
    return Pairs(
        places,
        None if directions is None else _cosines(directions, places),
        None if profiles is None else _together(profiles, places),
        within,
        None if tree is None else np.searchsorted(keys, np.sort(tree, 1) @ [num_clusters, 1]),
        joined,
    )


def _near_features(clusters: HeadClusters) -> np.ndarray:
    """(P, 2) places of each cluster and of those that it has as nearest."""
    place = {cluster.cluster: i for i, cluster in enumerate(clusters.clusters)}
    pairs = [(i, place[other]) for i, cluster in enumerate(clusters.clusters) for other, _ in cluster.nearest]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _near_heads(profiles: Any, within: np.ndarray) -> np.ndarray:
    """(P, 2) places of each cluster and of those that the other heads tell apart from it the least."""
    pairs = []
    count = min(NUM_NEAREST, len(within) - 1)
    for start in range(0, len(within), ROWS):
        product = profiles[start : start + ROWS] @ profiles.T
        block = (product if isinstance(product, np.ndarray) else product.toarray()) / np.sqrt(within)
        rows = np.arange(len(block))
        block[rows, start + rows] = -1
        best = np.argpartition(-block, count - 1, axis=1)[:, :count]
        is_shared = np.take_along_axis(block, best, 1) > 0
        pairs.append(np.stack([np.repeat(start + rows, count), best.ravel()], 1)[is_shared.ravel()])
    return np.concatenate(pairs)


def _merge_tree(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tree of clusters by average linkage; (C - 1, 2) places and (C - 1,) mean cosines.  Memory C x C."""
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    cosines = directions @ directions.T
    distances = (1 - cosines).clip(0).astype(np.float64)
    np.fill_diagonal(distances, 0)
    merges = linkage(squareform(distances, checks=False), method="average")
    groups = [np.array([place]) for place in range(len(directions))]
    pairs = []
    for one, other in merges[:, :2].astype(np.int64).tolist():
        between = cosines[np.ix_(groups[one], groups[other])]
        row, column = np.unravel_index(between.argmax(), between.shape)
        pairs.append((groups[one][row], groups[other][column]))
        groups.append(np.concatenate([groups[one], groups[other]]))
    return np.array(pairs, np.int64), (1 - merges[:, 2]).astype(np.float32)


def _cosines(directions: np.ndarray, places: np.ndarray) -> np.ndarray:
    parts = [
        np.einsum("pd,pd->p", *directions[places[start : start + ROWS].T]) for start in range(0, len(places), ROWS)
    ]
    return np.concatenate(parts)


def _together(profiles: Any, places: np.ndarray) -> np.ndarray:
    parts = []
    for start in range(0, len(places), ROWS):
        one, other = places[start : start + ROWS].T
        parts.append(np.asarray((profiles[one] * profiles[other]).sum(1)).ravel())
    return np.concatenate(parts).astype(np.float32)
