"""How many clusters: at which K do clusterings that know nothing of each other say the same of the clips?

Axes: N clips, D features, K clusters, S splits.  No label takes part.  Agreement is adjusted mutual information: 0 by
chance, 1 where the clusters are the same, and comparable between different K.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from selavi.randomness import mix
from selavi.scores.baselines import scale_features
from selavi.scores.metrics import adjusted_mutual_information, contingency_matrix

MAX_CLIPS = 20_000
"""Clips that are clustered: of more, a sample."""
NUM_SPLITS = 6
"""Times that the clips are halved."""
CLIPS_PER_CLUSTER = 10
"""A K is tried where half of the clips hold as many a cluster."""
BY_CHANCE = 0.05
"""An agreement below this says nothing."""


@dataclass(frozen=True)
class Stability:
    """How far clusterings agree at one K.

    Attributes:
        num_clusters: K.
        halves: (S,) K-means on one half of the clips with K-means on the other half, over all clips.
        modalities: (S,) K-means on one modality with K-means on another, over the half of the clips that neither was
            fitted to, mean over the pairs of modalities; empty where there is one modality.
    """

    num_clusters: int
    halves: np.ndarray
    modalities: np.ndarray


@dataclass(frozen=True)
class Suggestion:
    """A number of clusters, and what speaks for it.

    Attributes:
        num_clusters: the suggested K.
        tried: every K, ascending.
        judged_by: `modalities`, or `halves` where there is one modality or the modalities agree by chance at every K.
        as_good: the K that the splits cannot tell from the suggested one, which is among them.
        at_end: no K beyond the suggested one was tried, at one side.
        num_clips: that were clustered.
        num_left_out: that lack a modality, or exceed MAX_CLIPS.
    """

    num_clusters: int
    tried: Sequence[Stability]
    judged_by: str
    as_good: Sequence[int]
    at_end: bool
    num_clips: int
    num_left_out: int

    @property
    def agreement(self) -> float:
        """Mean agreement at the suggested K."""
        return _by_k(self.tried, self.judged_by)[self.num_clusters].mean().item()


def suggest_k(features: Mapping[str, np.ndarray], around: int, *, seed: int = 0) -> Suggestion:
    """Suggest a number of clusters from 1/3 to 3 times `around`.

    Where there are several modalities, what they share is what clusters are for: the K at which their own clusterings,
    each made without the other modality, agree most.  A modality's private groups (of background, of loudness) may be
    as stable as one likes and do not count.  With one modality, the K at which two halves of the clips give the most
    similar clusters.  The K of a geometric series are tried first, then those beside the best.

    Memory: twice the features of MAX_CLIPS clips at most.  Time: linear in the clips up to MAX_CLIPS, NUM_SPLITS x 4
    clusterings a K.

    Args:
        features: (N, D) a modality; a row of zeros where a clip lacks it, and such clips are left out.
        around: K of the run.
        seed: of the sample, the halves and the starts.

    Raises:
        ValueError: fewer than 2 x 2 x CLIPS_PER_CLUSTER clips, or features that are not finite.
    """
    complete = np.all([values.any(1) for values in features.values()], axis=0).nonzero()[0]
    most = len(complete[:MAX_CLIPS]) // 2 // CLIPS_PER_CLUSTER
    if most < 2:
        raise ValueError(
            f"{len(complete)} clips have every modality; {4 * CLIPS_PER_CLUSTER} at least are needed to suggest a "
            "number of clusters"
        )
    rows = np.random.default_rng(mix(seed, "sample")).permutation(complete)[:MAX_CLIPS]
    scaled = {name: scale_features(values[rows], "standardise+l2") for name, values in features.items()}
    series = {round(around * 2 ** (step / 2)) for step in range(-3, 4)} | {round(around / 3), 3 * around}
    tried = {k: stability(scaled, k, seed=seed) for k in sorted(series | {most}) if 2 <= k <= min(most, 3 * around)}
    judged_by = "modalities" if len(scaled) > 1 else "halves"
    if judged_by == "modalities" and max(one.modalities.mean() for one in tried.values()) < BY_CHANCE:
        judged_by = "halves"
    for k in _beside_best(list(tried.values()), judged_by):
        tried[k] = stability(scaled, k, seed=seed)
    ordered = [tried[k] for k in sorted(tried)]
    by_k = _by_k(ordered, judged_by)
    best = _best(ordered, judged_by)
    return Suggestion(
        num_clusters=best,
        tried=ordered,
        judged_by=judged_by,
        as_good=[k for k, values in by_k.items() if not _is_worse(values, by_k[best])],
        at_end=best in (min(by_k), max(by_k)),
        num_clips=len(rows),
        num_left_out=len(next(iter(features.values()))) - len(rows),
    )


def stability(features: Mapping[str, np.ndarray], num_clusters: int, *, seed: int = 0) -> Stability:
    """Cluster halves of the clips, by all modalities together and by each alone.

    Args:
        features: (N, D) float32 a modality, scaled.
        num_clusters: K, at most half of N.
        seed: of the halves and of the starts.

    Raises:
        ValueError: K above half of N, or below 2.
    """
    tables = list(features.values())
    joined = np.concatenate(tables, 1)
    if not 2 <= num_clusters <= len(joined) // 2:
        raise ValueError(f"expected 2 to {len(joined) // 2} clusters for halves of {len(joined)} clips")
    halves, modalities = [], []
    for split in range(NUM_SPLITS):
        order = np.random.default_rng(mix(seed, "halves", split)).permutation(len(joined))
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        sides = [_fit(joined[rows], num_clusters, mix(seed, split, n)) for n, rows in enumerate((first, second))]
        halves.append(_agreement([side.predict(joined) for side in sides]))
        if len(tables) > 1:
            alone = [_fit(table[first], num_clusters, mix(seed, split, "alone", n)) for n, table in enumerate(tables)]
            modalities.append(_agreement([fit.predict(t[second]) for fit, t in zip(alone, tables, strict=True)]))
    return Stability(num_clusters, np.array(halves), np.array(modalities))


def _by_k(tried: Sequence[Stability], judged_by: str) -> dict[int, np.ndarray]:
    return {one.num_clusters: getattr(one, judged_by) for one in tried}


def _best(tried: Sequence[Stability], judged_by: str) -> int:
    """The K that agrees most; of equal ones the largest."""
    by_k = _by_k(tried, judged_by)
    return max(by_k, key=lambda k: (round(float(by_k[k].mean()), 6), k))


def _beside_best(tried: Sequence[Stability], judged_by: str) -> list[int]:
    """Up to six K between the best one of a series and its neighbours on either side."""
    best, numbers = _best(tried, judged_by), [one.num_clusters for one in tried]
    beside: set[int] = set()
    for low, high in pairwise(numbers):
        if best in (low, high):
            beside |= set(np.linspace(low, high, 5).round().astype(int).tolist())
    return sorted(beside - set(numbers))


def _is_worse(values: np.ndarray, best: np.ndarray) -> bool:
    """Whether a K agrees less than the best one, by more than two standard errors over the same splits."""
    gaps = best - values
    return bool(gaps.mean() > 2 * gaps.std(ddof=1) / np.sqrt(len(gaps)))


def _fit(features: np.ndarray, num_clusters: int, seed: int) -> Any:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    starts = max(1, min(5, 160 // num_clusters))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct clips than clusters: an answer, no fault
        return KMeans(num_clusters, n_init=starts, max_iter=50, random_state=seed % 2**32).fit(features)


def _agreement(clusterings: Sequence[np.ndarray]) -> float:
    tables = [contingency_matrix(one, other) for one, other in combinations(clusterings, 2)]
    return float(np.mean([adjusted_mutual_information(table) for table in tables]))
