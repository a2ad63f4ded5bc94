"""How many clusters: up to which K do clusterings that know nothing of each other say the same of the clips?

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
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import adjusted_mutual_information

MAX_CLIPS = 20_000
"""Clips that are clustered: of more, a sample."""
NUM_SPLITS = 6
"""Times that the clips are halved."""
CLIPS_PER_CLUSTER = 10
"""A K is tried where half of the clips hold as many a cluster."""
FEWEST = 3
"""Least K that is tried: two halves often agree on two clusters, whatever the clips hold."""
ROUNDING = 1e-9


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
        as_good: the K at which halves agree as well as at the highest peak, as far as the splits can tell; the
            suggested one is the largest of them.
        at_end: no larger K was tried, or no smaller one.
        num_clips: that were clustered.
        num_left_out: that lack a modality, or exceed MAX_CLIPS.
    """

    num_clusters: int
    tried: Sequence[Stability]
    as_good: Sequence[int]
    at_end: bool
    num_clips: int
    num_left_out: int

    @property
    def agreement(self) -> float:
        """Mean agreement of the halves at the suggested K."""
        return next(float(one.halves.mean()) for one in self.tried if one.num_clusters == self.num_clusters)

    @property
    def shared_at(self) -> tuple[int, float] | None:
        """The K at which the modalities alone agree most, and how far; None where there is one modality."""
        if not self.tried[0].modalities.size:
            return None
        most = max(self.tried, key=lambda one: float(one.modalities.mean()))
        return most.num_clusters, float(most.modalities.mean())


def suggest_k(features: Mapping[str, np.ndarray], around: int, *, seed: int = 0) -> Suggestion:
    """Suggest a number of clusters from 1/3 to 3 times `around`, at least FEWEST.

    It is the largest K at which two halves of the clips give clusters as similar as at the highest peak: a K below the
    number of groups may be as stable, where groups lie together, but one above it splits groups at random.  The K of a
    geometric series are tried first, then those beside the one that they suggest.

    What the modalities alone agree on is measured as well, and decides nothing: groups that only both together can tell
    (one picture with two sounds) are clusters, too.

    Memory: twice the features of MAX_CLIPS clips at most.  Time: linear in the clips up to MAX_CLIPS, NUM_SPLITS x 4
    clusterings a K.

    Args:
        features: (N, D) a modality; a row of zeros where a clip lacks it, and such clips are left out.
        around: K of the run.
        seed: of the sample, the halves and the starts.

    Raises:
        ValueError: fewer than 2 x FEWEST x CLIPS_PER_CLUSTER clips, or features that are not finite.
    """
    complete = np.all([values.any(1) for values in features.values()], axis=0).nonzero()[0]
    most = min(3 * max(around, FEWEST), len(complete[:MAX_CLIPS]) // 2 // CLIPS_PER_CLUSTER)
    if most < FEWEST:
        raise ValueError(
            f"{len(complete)} clips have every modality; {2 * FEWEST * CLIPS_PER_CLUSTER} at least are needed to "
            "suggest a number of clusters"
        )
    rows = np.random.default_rng(mix(seed, "sample")).permutation(complete)[:MAX_CLIPS]
    scaled = {name: scale_features(values[rows], "standardise+l2") for name, values in features.items()}
    least = min(most, max(FEWEST, round(around / 3)))
    series = {least, most, *(round(around * 2 ** (step / 2)) for step in range(-3, 4))}
    tried = {k: stability(scaled, k, seed=seed) for k in sorted(series) if least <= k <= most}
    for k in _beside(max(_as_good(tried)), sorted(tried)):
        tried[k] = stability(scaled, k, seed=seed)
    as_good = _as_good(tried)
    return Suggestion(
        num_clusters=max(as_good),
        tried=[tried[k] for k in sorted(tried)],
        as_good=as_good,
        at_end=max(as_good) in (least, most),
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


def _as_good(tried: Mapping[int, Stability]) -> list[int]:
    """The K at the highest peak, and those not worse by more than two standard errors over the same splits."""
    peak = tried[_peak({k: float(one.halves.mean()) for k, one in tried.items()})].halves
    gaps = {k: peak - one.halves for k, one in tried.items()}
    return sorted(k for k, gap in gaps.items() if gap.mean() <= 2 * gap.std(ddof=1) / np.sqrt(len(gap)) + ROUNDING)


def _peak(agreement: Mapping[int, float]) -> int:
    """The K with the highest agreement among those with lower ones on either side; without any, the best of all.

    The least K has no smaller neighbour, and few clusters are often stable whatever the clips hold.
    """
    numbers = sorted(agreement)
    peaks = [
        number
        for low, number, high in zip(numbers, numbers[1:], numbers[2:], strict=False)
        if agreement[number] >= max(agreement[low], agreement[high])
    ]
    return max(peaks or numbers, key=lambda number: agreement[number])


def _beside(number: int, tried: Sequence[int]) -> list[int]:
    """Up to six K between one of those tried and its neighbours on either side."""
    beside: set[int] = set()
    for low, high in pairwise(tried):
        if number in (low, high):
            beside |= set(np.linspace(low, high, 5).round().astype(int).tolist())
    return sorted(beside - set(tried))


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
