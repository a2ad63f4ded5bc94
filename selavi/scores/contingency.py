"""How many clips each label has in each cluster: the non-empty cells of the contingency matrix, from one pass.

Axes: N clips, L distinct labels, K clusters, C non-empty cells (C <= N).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Contingency:
    """How many clips each label has in each cluster: the non-empty cells alone.

    Attributes:
        rows: (C,) int64, the label's number in label_names, of each cell.
        columns: (C,) int64, the cluster's number in cluster_names.  Cells come row by row, columns ascending.
        counts: (C,) int64, at least 1.
        label_names: (L,) the labels that occur, sorted.
        cluster_names: (K,) the clusters; all numbers below K where K was given, else those that occur, sorted.
    """

    rows: np.ndarray
    columns: np.ndarray
    counts: np.ndarray
    label_names: np.ndarray
    cluster_names: np.ndarray

    @classmethod
    def from_dense(cls, matrix: np.ndarray) -> "Contingency":
        """Take the cells of an (L, K) matrix of counts; rows and columns that hold nothing stay, as empty.

        Raises:
            ValueError: not a matrix of integers, a negative count, or no clip at all.
        """
        if matrix.ndim != 2 or matrix.dtype.kind not in "iu" or not matrix.any() or (matrix < 0).any():
            raise ValueError(f"expected counts (L, K), not negative and not all 0, got {matrix.shape} {matrix.dtype}")
        rows, columns = np.nonzero(matrix)
        counts = matrix[rows, columns].astype(np.int64)
        return cls(rows, columns, counts, np.arange(matrix.shape[0]), np.arange(matrix.shape[1]))

    @cached_property
    def num_clips(self) -> int:
        """N."""
        return int(self.counts.sum())

    @cached_property
    def label_sizes(self) -> np.ndarray:
        """(L,) int64: clips of each label."""
        return _sums(self.rows, self.counts, self.label_names.size)

    @cached_property
    def cluster_sizes(self) -> np.ndarray:
        """(K,) int64: clips of each cluster."""
        return _sums(self.columns, self.counts, self.cluster_names.size)

    @cached_property
    def label_entropy(self) -> float:
        """H(labels) in nats."""
        return entropy(self.label_sizes)

    @cached_property
    def cluster_entropy(self) -> float:
        """H(clusters) in nats."""
        return entropy(self.cluster_sizes)

    @cached_property
    def mutual_information(self) -> float:
        """I(labels; clusters) in nats."""
        # N n_ij / (a_i b_j) as two quotients: the product a_i * b_j leaves int64 at N = 3e9
        lift = self.counts / self.label_sizes[self.rows]
        lift *= self.num_clips / self.cluster_sizes[self.columns]
        terms = self.counts / self.num_clips * np.log(lift)
        # log(1) may round to one epsilon: independent labels and clusters must give exactly 0.
        terms[np.abs(terms) < np.finfo(np.float64).eps] = 0.0
        return max(0.0, float(terms.sum()))

    def dense(self) -> np.ndarray:
        """(L, K) int64.  Costs L x K, so think before you call it for many labels and many clusters."""
        matrix = np.zeros((self.label_names.size, self.cluster_names.size), dtype=np.int64)
        matrix[self.rows, self.columns] = self.counts
        return matrix


def contingency_matrix(labels: Any, clusters: Any, num_clusters: int | None = None) -> Contingency:
    """Count the clips of each label in each cluster.

    Time is linear in N; memory too, however many labels and clusters there are.

    Args:
        labels: (N,) integers, booleans or strings: a list, a numpy array or a pyarrow array.
        clusters: (N,) of the same kinds; integers in [0, K) where num_clusters is given.
        num_clusters: K.  Without it only the clusters that occur are known, under any name.

    Raises:
        ValueError: the lengths differ, there is no clip, a label or cluster is missing or of another kind, or a
            cluster lies outside [0, K).
    """
    cluster_codes, cluster_names = encode_groups("cluster", clusters, num_clusters)
    label_codes, label_names = encode_groups("label", labels)
    if label_codes.shape != cluster_codes.shape:
        raise ValueError(
            f"expected one label a clip, got labels {label_codes.shape} and clusters {cluster_codes.shape}"
        )
    rows, columns, counts = _count_cells(label_codes, cluster_codes, label_names.size, cluster_names.size)
    rows, label_names = _leave_out_unused(rows, label_names)
    if num_clusters is None:
        columns, cluster_names = _leave_out_unused(columns, cluster_names)
    return Contingency(rows, columns, counts, label_names, cluster_names)


def number_labels(labels: Any) -> np.ndarray:
    """(N,) int32, a number in [0, L) for each of L distinct labels in their order: what costs most, done once.

    Every score of the numbers is that of the labels.

    Args:
        labels: (N,) as contingency_matrix takes them.

    Raises:
        ValueError: there is none, or one is missing or of another kind.
    """
    return encode_groups("label", labels)[0].astype(np.int32)


def encode_groups(what: str, values: Any, num_groups: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(N,) numbers in [0, G) and the (G,) sorted names that they stand for; some of the names may not occur."""
    import pyarrow as pa

    if not isinstance(values, pa.Array | pa.ChunkedArray):
        array = np.asarray(values)
        if array.ndim != 1 or array.size == 0:
            raise ValueError(f"expected {what}s (N,) with N >= 1, got shape {array.shape}")
        if array.dtype.kind == "b":
            array = array.view(np.uint8)
        if array.dtype.kind in "iu":
            return _encode_integers(what, array, num_groups)
        if array.dtype.kind not in "OUS":
            raise ValueError(f"expected {what}s that are integers or strings, got {array.dtype}")
        try:
            values = pa.array(array, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"expected {what}s that are all integers or all strings: {error}") from error
    return _encode_arrow(what, values, num_groups)


def _encode_arrow(what: str, values: Any, num_groups: int | None) -> tuple[np.ndarray, np.ndarray]:
    import pyarrow as pa

    if len(values) == 0:
        raise ValueError(f"expected {what}s (N,) with N >= 1, got none")
    if values.null_count:
        raise ValueError(
            f"{values.null_count} of {len(values)} clips have no {what}: score the clips that have one alone"
        )
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    if pa.types.is_integer(values.type):
        return _encode_integers(what, values.to_numpy(), num_groups)
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if num_groups is not None or not any(is_kind(values.type) for is_kind in kinds):
        expected = "integers or strings" if num_groups is None else "integers"
        raise ValueError(f"expected {what}s that are {expected}, got {values.type}")
    return _number_by_hash(values)


def _encode_integers(what: str, array: np.ndarray, num_groups: int | None) -> tuple[np.ndarray, np.ndarray]:
    low, high = int(array.min()), int(array.max())
    if num_groups is not None:
        if low < 0 or high >= num_groups:
            raise ValueError(f"expected {what} numbers in [0, {num_groups}), got {low} to {high}")
        return array.astype(np.int64, copy=False), np.arange(num_groups)
    if high - low > max(4 * array.size, 2**16) or high >= 2**63:
        import pyarrow as pa

        return _number_by_hash(pa.array(array))
    shifted = array.astype(np.int64, copy=False)
    return shifted - low if low else shifted, np.arange(low, high + 1)


def _number_by_hash(values: Any) -> tuple[np.ndarray, np.ndarray]:
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = pc.dictionary_encode(values)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    order = pc.array_sort_indices(encoded.dictionary).to_numpy()
    number = np.empty(order.size, dtype=np.int64)
    number[order] = np.arange(order.size)
    return number[encoded.indices.to_numpy()], encoded.dictionary.to_numpy(zero_copy_only=False)[order]


def _count_cells(rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> tuple[np.ndarray, ...]:
    """The non-empty cells, (C,) row, column and count each, row by row."""
    if height * width <= max(4 * rows.size, 2**16):
        cells = np.bincount(rows * width + columns, minlength=height * width)
        filled = np.flatnonzero(cells)
        return filled // width, filled % width, cells[filled]
    from scipy.sparse import coo_array

    # Sums equal cells by counting, without a sort of the clips and without height x width numbers.
    matrix = coo_array((np.ones(rows.size, dtype=np.int64), (rows, columns)), shape=(height, width)).tocsr()
    matrix.sum_duplicates()
    filled_rows = np.repeat(np.arange(height), np.diff(matrix.indptr))
    return filled_rows, matrix.indices.astype(np.int64), matrix.data


def _leave_out_unused(numbers: np.ndarray, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    used = np.zeros(names.size, dtype=bool)
    used[numbers] = True
    return (numbers, names) if used.all() else ((np.cumsum(used) - 1)[numbers], names[used])


def _sums(groups: np.ndarray, counts: np.ndarray, num_groups: int) -> np.ndarray:
    """Exact sums of integers in each group: np.bincount would weigh in floating point, exact to 2**53 alone."""
    sums = np.zeros(num_groups, dtype=np.int64)
    np.add.at(sums, groups, counts)
    return sums


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the distribution that the counts describe; 0 (not -0) where one count has all."""
    shares = counts[counts > 0] / counts.sum()
    return max(0.0, -float((shares * np.log(shares)).sum()))
