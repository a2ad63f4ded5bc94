"""Clusters without learning any: K-means and others on given features, the yardsticks that a clustering has to beat.

With the features of an encoder it is the protocol "pre-train, then K-means" that the SeLaVi paper compares with.
With mean frame colour, loudness, file size or duration as features it shows whether a data set has a back door, that
is whether its classes can be told apart without looking or listening.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import normalised_mutual_information

SCALINGS = ("standardise+l2", "standardise", "l2", "none")
"""How features are scaled first: standardise brings each column to mean 0 and standard deviation 1, l2 each clip to
length 1."""
METHODS = ("kmeans", "spectral", "agglomerative")
MAX_SMALL = 20_000
"""Most clips for the methods whose memory grows with the square of the clips."""
_ROWS_AT_ONCE = 4096


def scale_features(features: np.ndarray, how: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Scale (N, D) features as one of SCALINGS says; a constant column becomes 0, and so stays a row of 0.

    Beside the result, one float32 copy of the rows, it needs the memory of a few thousand of them only, so that the
    features may be a memory-mapped file of any size.

    Args:
        features: (N, D) numbers.
        how: one of SCALINGS.
        rows: (N,) bool, the rows to keep; None: all.

    Raises:
        ValueError: another word, another shape, or values that are not finite.
    """
    if how not in SCALINGS:
        raise ValueError(f"features are scaled by one of {SCALINGS}, got {how!r}")
    if features.ndim != 2 or not len(features):
        raise ValueError(f"expected features (N, D) with N at least 1, got {features.shape}")
    places = np.arange(len(features)) if rows is None else np.flatnonzero(rows)
    scaled = np.empty((len(places), features.shape[1]), np.float32)
    with np.errstate(over="ignore"):  # what float32 cannot hold is counted below
        for block in _blocks(scaled):
            scaled[block] = features[places[block]]
    require_finite(scaled)
    if "standardise" in how:
        mean, spread = _mean_and_spread(scaled)
        for block in _blocks(scaled):
            scaled[block] = (scaled[block] - mean) / spread
    if "l2" in how:
        for block in _blocks(scaled):
            lengths = np.linalg.norm(scaled[block], axis=1, keepdims=True)
            scaled[block] /= np.where(lengths > 0, lengths, 1)
    return scaled


def cluster_features(
    features: np.ndarray,
    num_clusters: int,
    *,
    method: str = "kmeans",
    seed: int = 0,
    num_starts: int = 10,
    overwrite: bool = False,
) -> np.ndarray:
    """Cluster features as they are.

    Args:
        features: (N, D).
        num_clusters: K, at most N.
        method: kmeans (the best of `num_starts` starts, k-means++); spectral (on the graph of the 10 nearest
            neighbours); agglomerative (Ward).  The latter two are for MAX_SMALL clips at most.
        seed: of the starts; agglomerative needs none.
        num_starts: of K-means.
        overwrite: K-means may work in `features`, which saves a copy of them; the result is the same.

    Returns:
        (N,) int64.

    Raises:
        ValueError: another method, K > N, or too many clips for it.
    """
    from sklearn.cluster import AgglomerativeClustering, KMeans, SpectralClustering
    from sklearn.exceptions import ConvergenceWarning

    require_clusters(len(features), num_clusters, method)
    with warnings.catch_warnings():
        # Fewer distinct points than clusters (all clips of one duration) is an answer here, not a fault.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # A graph of neighbours in several parts is what clusters that are apart look like.
        warnings.filterwarnings("ignore", message="Graph is not fully connected")
        if method == "agglomerative":
            clusters = AgglomerativeClustering(num_clusters).fit_predict(features)
        elif method == "spectral":
            neighbours = min(10, len(features) - 1)
            clusters = SpectralClustering(
                num_clusters, affinity="nearest_neighbors", n_neighbors=neighbours, random_state=seed
            ).fit_predict(features)
        else:
            kmeans = KMeans(num_clusters, n_init=num_starts, random_state=seed, copy_x=not overwrite)
            clusters = kmeans.fit_predict(features)
    return np.asarray(clusters, dtype=np.int64)


def require_clusters(num_clips: int, num_clusters: int, method: str) -> None:
    """Check that N clips can be clustered so.

    Raises:
        ValueError: another method, K > N, or too many clips for it.
    """
    if method not in METHODS:
        raise ValueError(f"the methods are {METHODS}, got {method!r}")
    if not 1 <= num_clusters <= num_clips:
        raise ValueError(f"expected 1 to {num_clips} clusters for {num_clips} clips, got {num_clusters}")
    if method != "kmeans" and num_clips > MAX_SMALL:
        raise ValueError(
            f"{method} clustering takes memory by the square of the clips: {MAX_SMALL} at most, got {num_clips}; "
            "use kmeans"
        )


def kmeans_nmi(features: np.ndarray, labels: Any, num_clusters: int, seed: int) -> float:
    """NMI (arithmetic) of the labels with K-means on standardised features, the best of ten restarts.

    Args:
        features: (N, D) numbers, or (N,) for one feature.  Each column is scaled to mean 0 and standard deviation 1;
            a constant column becomes 0.
        labels: (N,) integers or strings.
        num_clusters: K, at most N.
        seed: of the restarts.

    Raises:
        ValueError: shapes that do not fit, K > N, or values that are not finite.
    """
    columns = np.asarray(features, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if columns.ndim != 2 or columns.shape[0] != len(labels):
        raise ValueError(f"expected features (N, D) and N labels, got {np.shape(features)} and {len(labels)} labels")
    require_finite(columns)
    clusters = cluster_features(_standardise(columns), num_clusters, seed=seed)
    return normalised_mutual_information(contingency_matrix(labels, clusters))


def _standardise(columns: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1 of each column; a constant one becomes 0."""
    mean, spread = _mean_and_spread(columns)
    standardised: np.ndarray = (columns - mean) / spread
    return standardised


def _mean_and_spread(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D,) float64 each; the spread of a constant column is infinite, which makes 0 of it."""
    mean = columns.mean(0, dtype=np.float64)
    variance = sum(np.square(columns[block] - mean).sum(0) for block in _blocks(columns)) / len(columns)
    spread: np.ndarray = np.sqrt(variance)
    # The mean of equal values, and so the standard deviation, can be off in the last bit.
    spread[(columns.max(0) == columns.min(0)) | (spread == 0)] = np.inf
    return mean, spread


def require_finite(features: np.ndarray, rows: np.ndarray | None = None) -> None:
    """Raise ValueError, with a count, where rows of (N, D) features are not finite as float32; some thousand at a time.

    rows: (N,) bool, those that count; None: all.
    """
    kept = np.ones(len(features), dtype=bool) if rows is None else rows
    faulty = 0
    with np.errstate(over="ignore"):
        for block in _blocks(features):
            values = features[block][kept[block]].astype(np.float32)
            faulty += int((~np.isfinite(values).all(1)).sum())
    if faulty:
        raise ValueError(f"the features of {faulty} of {kept.sum()} clips are not finite: leave these clips out")


def _blocks(rows: np.ndarray) -> Iterator[slice]:
    return (slice(start, start + _ROWS_AT_ONCE) for start in range(0, len(rows), _ROWS_AT_ONCE))
