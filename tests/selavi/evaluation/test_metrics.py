import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment
from sklearn import metrics as sklearn_metrics

from selavi.evaluation.metrics import (
    adjusted_rand_index,
    contingency_matrix,
    describe_clusters,
    evaluate_clusters,
    normalised_mutual_information,
)

NUM_CLUSTERS = 7


@st.composite
def labels_and_clusters(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    num_clips = draw(st.integers(1, 60))
    labels = draw(hnp.arrays(np.int64, num_clips, elements=st.integers(0, draw(st.integers(0, 9)))))
    clusters = draw(hnp.arrays(np.int64, num_clips, elements=st.integers(0, draw(st.integers(0, 6)))))
    return labels, clusters


def entropy_by_definition(labels: np.ndarray, clusters: np.ndarray) -> float:
    entropies = []
    for cluster in np.unique(clusters):
        _, counts = np.unique(labels[clusters == cluster], return_counts=True)
        entropies.append(-sum(count / counts.sum() * math.log(count / counts.sum()) for count in counts))
    return sum(entropies) / len(entropies)


@settings(deadline=None, max_examples=200)
@given(labels_and_clusters())
def test_scores_equal_scikit_learn(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    labels, clusters = drawn
    found = evaluate_clusters(labels, clusters, NUM_CLUSTERS)
    table = sklearn_metrics.cluster.contingency_matrix(labels, clusters)
    rows, columns = linear_sum_assignment(-table)
    expected = {
        "nmi": sklearn_metrics.normalized_mutual_info_score(labels, clusters),
        "ami": sklearn_metrics.adjusted_mutual_info_score(labels, clusters),
        "ari": sklearn_metrics.adjusted_rand_score(labels, clusters),
        "accuracy": table[rows, columns].sum() / labels.size,
        "purity": table.max(0).sum() / labels.size,
        "mean_entropy": entropy_by_definition(labels, clusters),
        "used_clusters": len(np.unique(clusters)),
        "n": labels.size,
    }
    assert list(found) == list(expected)
    # AMI divides by a difference that vanishes where almost every clip is alone: rounding grows there.
    assert found == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(labels_and_clusters(), st.permutations(range(NUM_CLUSTERS)))
def test_scores_do_not_depend_on_names_or_order(drawn: tuple[np.ndarray, np.ndarray], numbers: list[int]) -> None:
    labels, clusters = drawn
    expected = evaluate_clusters(labels, clusters, NUM_CLUSTERS)
    renamed = np.array(numbers)[clusters][::-1]
    as_words = np.array([f"label, {9 - label}" for label in labels])[::-1]
    assert evaluate_clusters(as_words, renamed, NUM_CLUSTERS) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "clusters"),
    [
        ([0, 0, 0], [4, 4, 4]),
        ([0, 1, 2], [3, 3, 3]),
        ([5, 5, 5], [0, 1, 2]),
        ([0, 1, 2], [2, 0, 1]),
        ([0], [0]),
        ([0, 0, 1, 1], [0, 1, 0, 1]),
    ],
)
def test_limits_equal_scikit_learn(labels: list[int], clusters: list[int]) -> None:
    found = evaluate_clusters(labels, clusters, NUM_CLUSTERS)
    assert found["nmi"] == pytest.approx(sklearn_metrics.normalized_mutual_info_score(labels, clusters), abs=1e-12)
    assert found["ami"] == pytest.approx(sklearn_metrics.adjusted_mutual_info_score(labels, clusters), abs=1e-12)
    assert found["ari"] == pytest.approx(sklearn_metrics.adjusted_rand_score(labels, clusters), abs=1e-12)


def closed_form_table(num_clips: int) -> np.ndarray:
    """Two balanced labels, two clusters, 3 clips of 4 in the cluster of their label."""
    return np.array([[3, 1], [1, 3]], dtype=np.int64) * (num_clips // 8)


@pytest.mark.parametrize("num_clips", [80_000, 1_000_000, 4_000_000_000])
def test_closed_forms_hold_where_products_of_pairs_leave_int64(num_clips: int) -> None:
    table = closed_form_table(num_clips)
    # I = log 2 - h(1/4) with both entropies log 2
    noise = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert normalised_mutual_information(table) == pytest.approx(1 - noise / math.log(2), abs=1e-12)
    # The index tends to (2 * 0.75 - 1)^2 as N grows: n (n - 1) / 2 and not n^2 / 2 gives a term in 1 / N.
    half, cells = num_clips // 2, [3 * num_clips // 8, num_clips // 8]
    agreeing = 2 * sum(math.comb(count, 2) for count in cells)
    expected_pairs = (2 * math.comb(half, 2)) ** 2 / math.comb(num_clips, 2)
    by_hand = (agreeing - expected_pairs) / (2 * math.comb(half, 2) - expected_pairs)
    assert adjusted_rand_index(table) == pytest.approx(by_hand, abs=1e-9)
    assert adjusted_rand_index(table) == pytest.approx(0.25, abs=10 / num_clips + 1e-12)


def test_large_sets_from_arrays() -> None:
    num_clips = 300_000
    labels = np.repeat(np.array(["cat", "dog"]), num_clips // 2)
    clusters = (np.arange(num_clips) % 4 == 0) ^ (labels == "dog")
    found = evaluate_clusters(labels, clusters.astype(np.int16), 2)
    assert found["ari"] == pytest.approx(sklearn_metrics.adjusted_rand_score(labels, clusters), abs=1e-9)
    assert found["ari"] == pytest.approx(0.25, abs=1e-4)
    assert found["ami"] == pytest.approx(sklearn_metrics.adjusted_mutual_info_score(labels, clusters), abs=1e-9)
    assert found["accuracy"] == found["purity"] == 0.75
    assert found["mean_entropy"] == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), abs=1e-12)
    assert found["n"] == num_clips


def test_accuracy_of_more_clusters_than_labels_counts_the_unmatched_as_wrong() -> None:
    labels, clusters = ["a", "a", "a", "b", "b"], [0, 0, 1, 2, 2]
    found = evaluate_clusters(labels, clusters, 4)
    assert (found["accuracy"], found["purity"], found["used_clusters"]) == (0.8, 1.0, 3)
    assert evaluate_clusters(["a", "b", "c"], [0, 0, 0], 1)["accuracy"] == pytest.approx(1 / 3)


def test_mean_entropy_weighs_clusters_equally_and_skips_empty_ones() -> None:
    found = evaluate_clusters([0, 1, 0, 0, 0, 0], [0, 0, 3, 3, 3, 3], 5)
    assert found["mean_entropy"] == pytest.approx(math.log(2) / 2)


def test_contingency_matrix_keeps_empty_clusters() -> None:
    table = contingency_matrix(np.array(["b", "a", "b"], dtype=object), np.array([2, 0, 2]), 4)
    assert table.dtype == np.int64
    assert table.tolist() == [[1, 0, 0, 0], [0, 0, 2, 0]]


@pytest.mark.parametrize(
    ("labels", "clusters", "message"),
    [
        ([0, 1], [0], r"one label a clip, got labels \(2,\) and clusters \(1,\)"),
        ([], [], "N >= 1"),
        ([0.5, 1.0], [0, 1], "integers or strings, got float64"),
        (["a", None], [0, 1], "1 of 2 clips have no label"),
        ([0, 1], [0, 3], r"in \[0, 3\), got 0 to 3"),
        ([0, 1], [-1, 0], r"in \[0, 3\), got -1 to 0"),
        ([0, 1], [0.0, 1.0], "integers"),
    ],
)
def test_wrong_input_is_refused(labels: Any, clusters: Any, message: str) -> None:
    label_array = np.array(labels, dtype=object) if None in labels else np.array(labels)
    cluster_array = np.array(clusters, dtype=None if clusters else np.int64)
    with pytest.raises(ValueError, match=message):
        evaluate_clusters(label_array, cluster_array, 3)


def test_describe_clusters() -> None:
    assert describe_clusters(np.array([0, 0, 1, 1]), 2) == {
        "used_clusters": 2,
        "n": 4,
        "size_min": 2,
        "size_median": 2.0,
        "size_max": 2,
        "size_entropy": pytest.approx(1.0),
    }
    skewed = describe_clusters(np.array([3, 3, 3]), 4)
    assert (skewed["used_clusters"], skewed["size_min"], skewed["size_max"]) == (1, 0, 3)
    assert skewed["size_entropy"] == 0
    assert describe_clusters(np.array([0]), 1)["size_entropy"] == 1.0
    with pytest.raises(ValueError, match=r"in \[0, 2\), got 0 to 5"):
        describe_clusters(np.array([0, 5]), 2)
