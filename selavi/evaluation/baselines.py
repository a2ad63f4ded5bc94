"""K-means on given features: the yardstick that a clustering has to beat.

With mean frame colour, loudness, file size or duration as features it shows whether a data set has a back
door, that is whether its classes can be told apart without looking or listening.
"""

import warnings
from typing import Any

import numpy as np

from selavi.evaluation.metrics import contingency_matrix, normalised_mutual_information


def kmeans_nmi(features: np.ndarray, labels: Any, num_clusters: int, seed: int) -> float:
    """NMI (arithmetic) of the labels with K-means on standardised features, the best of ten restarts.

    Args:
        features: (N, D) numbers, or (N,) for one feature.  Each column is scaled to mean 0 and deviation 1;
            a constant column becomes 0.
        labels: (N,) integers or strings.
        num_clusters: K, at most N.
        seed: of the restarts.

    Raises:
        ValueError: shapes that do not fit, K > N, or values that are not finite.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    columns = np.asarray(features, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if columns.ndim != 2 or columns.shape[0] != len(labels):
        raise ValueError(f"expected features (N, D) and N labels, got {np.shape(features)} and {len(labels)} labels")
    if not 1 <= num_clusters <= len(columns):
        raise ValueError(f"expected 1 to {len(columns)} clusters for {len(columns)} clips, got {num_clusters}")
    faulty = int((~np.isfinite(columns).all(1)).sum())
    if faulty:
        raise ValueError(f"the features of {faulty} of {len(columns)} clips are not finite: leave these clips out")
    spread = columns.std(0)
    # Of equal values the mean, and so the deviation, can be off in the last bit: infinity turns them into 0.
    spread[(np.ptp(columns, axis=0) == 0) | (spread == 0)] = np.inf
    standardised = (columns - columns.mean(0)) / spread
    with warnings.catch_warnings():
        # Fewer distinct points than clusters (all clips of one duration) is an answer here, not a fault.
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters = KMeans(num_clusters, n_init=10, random_state=seed).fit_predict(standardised)
    return normalised_mutual_information(contingency_matrix(labels, clusters))
