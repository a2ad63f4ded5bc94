"""What a gallery says and shows of each cluster: figures, labels, a name to suggest, neighbours, and which clips.

Axes: N clips, H heads, C clusters that have clips, D features.  All of it is linear in clips.  Memory: the
columns of a head, one index a clip for each head, and of the features at most BLOCK rows beside the (N, D) that are
given.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from selavi.results.labels import SplitLabels

BLOCK = 65_536
"""Rows of features that are taken at once."""
NUM_NEAREST = 6
NUM_LABELS = 5
_FACTS = ("path", "label", "start_s", "duration_s", "width", "height", "audio_state", "bytes", "mtime_ns")
_MAJORITY = 0.5
"""Share of a cluster's clips that must carry a label, or a word, before it is suggested as a name."""
_LIFT = 2.0
"""How many times as common a suggested word must be in the cluster as in all clips."""
_MAX_WORDS = 2


@dataclass(frozen=True)
class Head:
    """The clusters of N clips under one head, and how sure they are; NaN where it is not known."""

    head: int
    cluster: np.ndarray
    """(N,) int32."""
    confidence: np.ndarray
    margin: np.ndarray
    entropy: np.ndarray
    agreement: np.ndarray
    """(N,) float32 each, of the two modalities the last."""


@dataclass(frozen=True)
class Places:
    """How many clips of a cluster are shown, at most."""

    typical: int = 12
    borderline: int = 6
    odd: int = 6

    @staticmethod
    def of(total: int) -> "Places":
        """Half of the places for typical clips, a quarter each for borderline and odd ones."""
        quarter = total // 4
        return Places(total - 2 * quarter, quarter, quarter)


@dataclass(frozen=True)
class Cluster:
    """One cluster of one head.  Clips are given by rank: 0 is the most confident one."""

    cluster: int
    start: int
    """Its first clip in HeadClusters.order."""
    size: int
    confidence: float
    """Mean."""
    agreement: float | None
    """Mean of the modalities' agreement, None where no clip has one."""
    num_labelled: int
    labels: list[tuple[str, int]]
    """The NUM_LABELS most common, and how many clips have them."""
    purity: float | None
    """Share of the labelled clips that carry the most common label."""
    entropy: float | None
    """Entropy of the labels, in nats."""
    suggestion: str | None
    """A name, from the labels or else from the file names."""
    nearest: list[tuple[int, float]]
    """Number and cosine similarity of the clusters whose mean features are nearest; empty without features."""
    typical: list[int]
    """The most confident clips."""
    borderline: list[int]
    """Those with the smallest margin, of the others."""
    odd: list[int]
    """Those of the rest that are farthest from the cluster's mean feature; without features, those that agree least."""

    @property
    def shown(self) -> list[int]:
        """Ranks of the three rows."""
        return [*self.typical, *self.borderline, *self.odd]


@dataclass(frozen=True)
class HeadClusters:
    """All clusters of one head."""

    head: int
    order: np.ndarray
    """(N,) int32: clips by cluster, and within it by rank."""
    clusters: list[Cluster]
    """By number."""
    oddness: np.ndarray | None = None
    """(N,) float32, in the order of `order`: each clip's distance to the mean features of its cluster, divided by the
    mean distance of the cluster's clips, NaN where that is 0; None without features."""
    directions: np.ndarray | None = None
    """(C, D) float16, the clusters' mean features about the mean of all clips, scaled to length 1."""

    def clips(self, cluster: Cluster) -> np.ndarray:
        """(size,) the clips of a cluster, by rank."""
        return self.order[cluster.start : cluster.start + cluster.size]


def arrange(labels: SplitLabels, manifest: pa.Table) -> tuple[pa.Table, list[Head]]:
    """Bring labels and manifest into columns of N clips, sorted by id.

    Args:
        labels: of a split.
        manifest: of the run.

    Returns:
        The clips (id, path, label, start_s, duration_s, width, height, audio_state, bytes, mtime_ns, and fps where the
        manifest has it), and the heads by number.

    Raises:
        ValueError: a clip is not in the manifest.
    """
    order = pc.array_sort_indices(labels.ids)
    ids, by_id = labels.ids.take(order).cast(pa.string()), order.to_numpy()
    rows = pc.index_in(ids, value_set=manifest["id"].combine_chunks())
    if rows.null_count:
        raise ValueError(f"expected all clips in the manifest; {rows.null_count} of {len(ids)} are not there")
    columns_there = [*_FACTS, *({"fps"} & set(manifest.column_names))]
    facts = {name: manifest[name].take(rows).combine_chunks() for name in columns_there}

    def head(number: int) -> Head:
        return Head(number, *(values[by_id] for values in labels.of_head(number).values()))

    return pa.table({"id": ids, **facts}), [head(number) for number in range(labels.clusters.shape[1])]


class Selector:
    """Says and chooses what is shown of the clusters of any head of N clips.

    Args:
        clips: of arrange.
        places: how many clips a cluster.
        features: (N, D), rows as those of the clips; None where there are none.
    """

    def __init__(self, clips: pa.Table, places: Places, features: np.ndarray | None = None) -> None:
        self.places, self.features = places, features
        self.label_names, self.label_codes = _codes(clips["label"])
        self.words, self.word_names = _words_of(clips["path"])
        self.mean = mean_of(features) if features is not None else None

    def select(self, head: Head) -> HeadClusters:
        """Describe every cluster of a head that has clips."""
        # Clips are sorted by id, and so are those of one cluster and confidence: as export.cluster_table ranks them.
        order = np.lexsort((-head.confidence, head.cluster)).astype(np.int32)
        numbers, starts, sizes = np.unique(head.cluster[order], return_index=True, return_counts=True)
        row_of = np.repeat(np.arange(len(numbers)), sizes)  # of each clip in order
        confidence = np.add.reduceat(head.confidence[order].astype(np.float64), starts) / sizes
        agreement = _means_of_known(head.agreement[order], starts)
        counts = self._label_counts(row_of, order, len(numbers))
        words = self._suggested_words(row_of, order, sizes)
        distances, directions = self._by_features(order, numbers, sizes)
        nearest = [[] for _ in numbers] if directions is None else _nearest(directions, numbers)
        oddness = distances if distances is not None else 1 - head.agreement[order]
        margins = head.margin[order]
        clusters = []
        for row, (number, start, size) in enumerate(
            zip(numbers.tolist(), starts.tolist(), sizes.tolist(), strict=True)
        ):
            labels = counts.get(row, [])
            num_labelled = sum(count for _, count in labels)
            shares = np.array([count for _, count in labels], float) / max(num_labelled, 1)
            purity = float(shares[0]) if labels else None
            majority = labels[0][0] if labels and labels[0][1] > _MAJORITY * num_labelled else None
            members = slice(start, start + size)
            clusters.append(
                Cluster(
                    number,
                    start,
                    size,
                    float(confidence[row]),
                    None if np.isnan(agreement[row]) else float(agreement[row]),
                    num_labelled,
                    labels[:NUM_LABELS],
                    purity,
                    float(-(shares * np.log(shares)).sum()) + 0.0 if labels else None,
                    majority or words[row],
                    nearest[row],
                    *_rows_to_show(margins[members], oddness[members], self.places),
                )
            )
        means = None if directions is None else directions.astype(np.float16)
        return HeadClusters(head.head, order, clusters, _relative(distances, starts, sizes), means)

    def differs(self, clusters: HeadClusters) -> np.ndarray:
        """(N,) bool, in the order of `clusters.order`: has the clip another label than most of its cluster?

        Most are more than half of the clips with a label; where no label has so many, nothing differs.
        """
        code_of = {name: code for code, name in enumerate(self.label_names)}
        majority = np.full(len(clusters.order), -1, np.int64)
        for cluster in clusters.clusters:
            if cluster.labels and cluster.labels[0][1] > _MAJORITY * cluster.num_labelled:
                majority[cluster.start : cluster.start + cluster.size] = code_of[cluster.labels[0][0]]
        codes = self.label_codes[clusters.order]
        differs: np.ndarray = (codes >= 0) & (majority >= 0) & (codes != majority)
        return differs

    def label_table(self, head: Head) -> tuple[list[str], list[tuple[int, int, int]]]:
        """Clips by label and cluster.

        Returns:
            The labels, the most frequent first, and (label by its place there, cluster, clips) where there are any.
        """
        is_labelled = self.label_codes >= 0
        frequency = np.bincount(self.label_codes[is_labelled], minlength=len(self.label_names))
        by_frequency = np.argsort(-frequency, kind="stable")  # names are sorted: equally frequent ones stay so
        place = np.argsort(by_frequency)
        keys = place[self.label_codes[is_labelled]] * (1 + np.int64(head.cluster.max())) + head.cluster[is_labelled]
        keys, counts = np.unique(keys, return_counts=True)
        rows, columns = np.divmod(keys, 1 + np.int64(head.cluster.max()))
        cells = zip(rows.tolist(), columns.tolist(), counts.tolist(), strict=True)
        return [self.label_names[i] for i in by_frequency], list(cells)

    def _label_counts(
        self, row_of: np.ndarray, order: np.ndarray, num_clusters: int
    ) -> dict[int, list[tuple[str, int]]]:
        """Labels of each cluster (by its row) and their clips, the most common first, then by name."""
        codes = self.label_codes[order]
        is_labelled = codes >= 0
        num_labels = max(len(self.label_names), 1)
        keys, counts = np.unique(row_of[is_labelled] * num_labels + codes[is_labelled], return_counts=True)
        rows, label_codes = np.divmod(keys, num_labels)
        best = np.lexsort((label_codes, -counts, rows))
        table: dict[int, list[tuple[str, int]]] = {}
        for row, code, count in zip(*(column[best].tolist() for column in (rows, label_codes, counts)), strict=True):
            table.setdefault(row, []).append((self.label_names[code], count))
        return table

    def _suggested_words(self, row_of: np.ndarray, order: np.ndarray, sizes: np.ndarray) -> list[str | None]:
        """Words that most file names of a cluster have and few others do; None where there are none."""
        if not self.word_names:
            return [None] * len(sizes)
        members = csr_matrix((np.ones(len(order), np.int32), (row_of, order)), shape=(len(sizes), len(order)))
        counts = (members @ self.words).tocsr()
        overall = np.asarray(self.words.sum(0)).ravel() / len(order)
        suggestions: list[str | None] = []
        for row, size in enumerate(sizes.tolist()):
            cells = slice(counts.indptr[row], counts.indptr[row + 1])
            words, shares = counts.indices[cells], counts.data[cells] / size
            lifts = shares / overall[words]
            telling = (shares > _MAJORITY) & (lifts >= _LIFT)
            words, scores = words[telling], (shares * np.log(lifts))[telling]
            best = np.lexsort((words, -scores))[:_MAX_WORDS]
            suggestions.append(" ".join(self.word_names[word] for word in words[best].tolist()) or None)
        return suggestions

    def _by_features(
        self, order: np.ndarray, numbers: np.ndarray, sizes: np.ndarray
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Squared distance of each clip, in order, to its cluster's mean; and the directions of the means."""
        if self.features is None or self.mean is None:
            return None, None
        means = np.zeros((len(numbers), self.features.shape[1]), np.float32)
        row_of = np.repeat(np.arange(len(numbers)), sizes)
        for block in _blocks(len(order)):
            rows = row_of[block]
            first = np.flatnonzero(np.diff(rows, prepend=-1))
            means[rows[first]] += np.add.reduceat(self.features[order[block]].astype(np.float32), first)
        means /= sizes[:, None]
        distances = np.empty(len(order), np.float32)
        for block in _blocks(len(order)):
            away = self.features[order[block]].astype(np.float32) - means[row_of[block]]
            distances[block] = np.einsum("nd,nd->n", away, away)
        means -= self.mean
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        return distances, means / np.where(lengths > 0, lengths, 1)


def _rows_to_show(margins: np.ndarray, oddness: np.ndarray, places: Places) -> tuple[list[int], list[int], list[int]]:
    """Ranks of typical, borderline and odd clips of one cluster; no clip twice."""
    typical = min(places.typical, len(margins))
    borderline = typical + _smallest(margins[typical:], places.borderline)
    rest = np.setdiff1d(np.arange(typical, len(margins)), borderline, assume_unique=True)
    rest = rest[~np.isnan(oddness[rest])]
    odd = rest[_smallest(-oddness[rest], places.odd)]
    return list(range(typical)), borderline.tolist(), odd.tolist()


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the smallest values, ascending; of equal ones the first.  Linear in values."""
    if count < len(values):
        bound = np.partition(values, count - 1)[count - 1] if count else -np.inf
        places = np.flatnonzero(values <= bound)
    else:
        places = np.arange(len(values))
    return places[np.argsort(values[places], kind="stable")][:count]


def _nearest(directions: np.ndarray, numbers: np.ndarray) -> list[list[tuple[int, float]]]:
    """NUM_NEAREST clusters of each, by the cosine of their means about the mean of all clips."""
    nearest: list[list[tuple[int, float]]] = []
    count = min(NUM_NEAREST, len(directions) - 1)
    for start in range(0, len(directions), 1024):
        similarities = directions[start : start + 1024] @ directions.T
        similarities[np.arange(len(similarities)), start + np.arange(len(similarities))] = -np.inf
        best = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
        values = np.take_along_axis(similarities, best, 1)
        for neighbours, cosines in zip(numbers[best].tolist(), values.tolist(), strict=True):
            nearest.append([(number, round(cosine, 3)) for number, cosine in zip(neighbours, cosines, strict=True)])
    return nearest


def _means_of_known(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    sums = np.add.reduceat(np.where(known, values, 0).astype(np.float64), starts)
    counts = np.add.reduceat(known.astype(np.int64), starts)
    return np.divide(sums, counts, out=np.full(len(starts), np.nan), where=counts > 0)


def _relative(squared: np.ndarray | None, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray | None:
    """Distances by the mean distance of their cluster."""
    if squared is None:
        return None
    distances = np.sqrt(squared)
    means = np.repeat(np.add.reduceat(distances, starts) / sizes, sizes)
    relative: np.ndarray = np.divide(distances, means, out=np.full(len(distances), np.nan, np.float32), where=means > 0)
    return relative


def mean_of(features: np.ndarray) -> np.ndarray:
    """(D,) the mean of (N, D) features."""
    total = np.zeros(features.shape[1])
    for block in _blocks(len(features)):
        total += features[block].astype(np.float32).sum(0, dtype=np.float64)
    return (total / len(features)).astype(np.float32)


def _blocks(length: int) -> Iterator[slice]:
    for start in range(0, length, BLOCK):
        yield slice(start, min(start + BLOCK, length))


def _codes(names: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """The distinct names, sorted, and for each row its place among them, -1 for null."""
    distinct = pc.unique(names.drop_null())
    distinct = distinct.take(pc.sort_indices(distinct))
    places = pc.fill_null(pc.index_in(names, value_set=distinct), -1)
    return distinct.to_pylist(), places.to_numpy().astype(np.int64)


def _words_of(paths: pa.ChunkedArray) -> tuple[csr_matrix, list[str]]:
    """Which words each path has: (N, W) of 0 and 1, and the W words.

    Words are runs of at least three letters, in small letters, that at least three paths have; the suffix is left out.
    """
    texts = pc.utf8_lower(pc.replace_substring_regex(paths.combine_chunks(), r"\.[A-Za-z0-9]{1,5}$", ""))
    parts = pc.split_pattern_regex(texts, r"[^\pL]+")
    words, rows = pc.list_flatten(parts), pc.list_parent_indices(parts).to_numpy()
    kept = pc.greater_equal(pc.utf8_length(words), 3)
    coded = words.filter(kept).dictionary_encode()
    rows, codes = rows[kept.to_numpy(zero_copy_only=False)], coded.indices.to_numpy()
    shape = (len(paths), max(len(coded.dictionary), 1))
    table = csr_matrix((np.ones(len(codes), np.int32), (rows, codes)), shape=shape)
    table.sum_duplicates()
    table.data[:] = 1
    common = np.flatnonzero(np.asarray(table.sum(0)).ravel() >= 3)
    return table[:, common], coded.dictionary.take(pa.array(common)).to_pylist()


def even_sample(sizes: Sequence[int], total: int) -> Mapping[int, np.ndarray]:
    """Choose at most `total` members of clusters, evenly: of each cluster its share, at even distances by rank.

    Args:
        sizes: of the clusters.
        total: members wanted; all of them where there are not more.

    Returns:
        Ranks, ascending, by the place of the cluster in `sizes`.  Every cluster has one at least, so more than `total`
        are given where there are more clusters.
    """
    share = min(1.0, total / max(sum(sizes), 1))
    counts = np.maximum(np.floor(np.asarray(sizes) * share).astype(np.int64), 1)
    return {
        place: np.floor((np.arange(count) + 0.5) * size / count).astype(np.int64) if count < size else np.arange(size)
        for place, (size, count) in enumerate(zip(sizes, counts.tolist(), strict=True))
    }
