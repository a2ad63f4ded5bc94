import doctest
import math
import tracemalloc
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment
from sklearn import metrics as sklearn_metrics

from selavi.scores import metrics
from selavi.scores.contingency import Contingency, contingency_matrix
from selavi.scores.metrics import (
    INTERVAL_METRICS,
    adjusted_rand_index,
    bootstrap_intervals,
    completeness,
    describe_clusters,
    evaluate_clusters,
    expected_mutual_information,
    homogeneity,
    left_out_accuracy,
    matched_accuracy,
    mean_purity,
    normalised_mutual_information,
    score_contingency,
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


def by_definition(labels: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """Every score from scikit-learn or from loops over the clips."""
    table = sklearn_metrics.cluster.contingency_matrix(labels, clusters)
    rows, columns = linear_sum_assignment(-table)
    members = [labels[clusters == cluster] for cluster in np.unique(clusters)]
    sizes = np.bincount(clusters, minlength=NUM_CLUSTERS)
    right = 0
    for clip in range(labels.size):
        others = np.delete(labels, clip)[np.delete(clusters, clip) == clusters[clip]]
        votes = Counter(others.tolist()).most_common(2)
        right += bool(votes) and votes[0][0] == labels[clip] and (len(votes) == 1 or votes[0][1] > votes[1][1])
    return {
        "nmi": sklearn_metrics.normalized_mutual_info_score(labels, clusters),
        "ami": sklearn_metrics.adjusted_mutual_info_score(labels, clusters),
        "ari": sklearn_metrics.adjusted_rand_score(labels, clusters),
        "v_measure": sklearn_metrics.v_measure_score(labels, clusters),
        "homogeneity": sklearn_metrics.homogeneity_score(labels, clusters),
        "completeness": sklearn_metrics.completeness_score(labels, clusters),
        "accuracy": table[rows, columns].sum() / labels.size,
        "many_to_one_accuracy": table.max(0).sum() / labels.size,
        "left_out_accuracy": right / labels.size,
        "purity": table.max(0).sum() / labels.size,
        "mean_purity": float(np.mean([np.bincount(own).max() / own.size for own in members])),
        "mean_entropy": entropy_by_definition(labels, clusters),
        "num_labels": len(np.unique(labels)),
        "used_clusters": len(members),
        "n": labels.size,
        "size_min": sizes.min(),
        "size_p10": np.quantile(sizes, 0.1),
        "size_median": np.median(sizes),
        "size_p90": np.quantile(sizes, 0.9),
        "size_max": sizes.max(),
        "size_entropy": -sum(s * math.log(s) for s in sizes[sizes > 0] / labels.size) / math.log(NUM_CLUSTERS),
    }


@settings(deadline=None, max_examples=200)
@given(labels_and_clusters())
def test_scores_equal_scikit_learn_and_the_definitions(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    found = evaluate_clusters(*drawn, NUM_CLUSTERS)
    expected = by_definition(*drawn)
    if len(np.unique(drawn[0])) == drawn[0].size:
        expected["ami"] = found["ami"]  # 0 / 0 up to rounding in scikit-learn, see the closed forms
    assert list(found) == list(expected)
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


@settings(deadline=None, max_examples=100)
@given(
    hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 4)),
)
def test_the_match_is_the_best_one(table: np.ndarray) -> None:
    table[0, 0] += 1
    rows, columns = linear_sum_assignment(table, maximize=True)
    found = matched_accuracy(Contingency.from_dense(table))
    assert found == pytest.approx(table[rows, columns].sum() / table.sum(), abs=1e-12)


@pytest.mark.parametrize("agreeing", [0.0, 0.3])
def test_large_tables_equal_scikit_learn(agreeing: float) -> None:
    rng = np.random.default_rng(3)
    labels = rng.zipf(1.3, 60_000) % 300
    clusters = np.where(rng.random(labels.size) < agreeing, labels, rng.integers(0, 250, labels.size))
    found = evaluate_clusters(labels, clusters)
    table = sklearn_metrics.cluster.contingency_matrix(labels, clusters)
    rows, columns = linear_sum_assignment(table, maximize=True)
    assert found["accuracy"] == pytest.approx(table[rows, columns].sum() / labels.size, abs=1e-12)
    assert found["nmi"] == pytest.approx(sklearn_metrics.normalized_mutual_info_score(labels, clusters), abs=1e-9)
    assert found["ari"] == pytest.approx(sklearn_metrics.adjusted_rand_score(labels, clusters), abs=1e-9)
    assert found["ami"] == pytest.approx(sklearn_metrics.adjusted_mutual_info_score(labels, clusters), abs=1e-9)


def closed_form_table(num_clips: int) -> Contingency:
    """Two balanced labels, two clusters, 3 clips of 4 in the cluster of their label."""
    return Contingency.from_dense(np.array([[3, 1], [1, 3]], dtype=np.int64) * (num_clips // 8))


@pytest.mark.parametrize("num_clips", [80_000, 1_000_000, 4_000_000_000, 80_000_000_000])
def test_closed_forms_hold_where_products_of_pairs_leave_int64(num_clips: int) -> None:
    table = closed_form_table(num_clips)
    # I = log 2 - h(1/4) with both entropies log 2
    noise = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    expected = 1 - noise / math.log(2)
    for score in (normalised_mutual_information, homogeneity, completeness):
        assert score(table) == pytest.approx(expected, abs=1e-12)
    # The index tends to (2 * 0.75 - 1)^2 as N grows: n (n - 1) / 2 and not n^2 / 2 gives a term in 1 / N.
    half, cells = num_clips // 2, [3 * num_clips // 8, num_clips // 8]
    agreeing = 2 * sum(math.comb(count, 2) for count in cells)
    expected_pairs = Fraction((2 * math.comb(half, 2)) ** 2, math.comb(num_clips, 2))
    by_hand = (agreeing - expected_pairs) / (2 * math.comb(half, 2) - expected_pairs)
    assert adjusted_rand_index(table) == pytest.approx(float(by_hand), abs=1e-9)
    assert adjusted_rand_index(table) == pytest.approx(0.25, abs=10 / num_clips + 1e-12)
    assert matched_accuracy(table) == mean_purity(table) == left_out_accuracy(table) == 0.75
    if num_clips <= 1_000_000:
        # E[I] = 1 / (2 N) for two groups a side, to the next order (chi-squared with one degree of freedom)
        assert expected_mutual_information(table.label_sizes, table.cluster_sizes) == pytest.approx(
            1 / (2 * num_clips), rel=1e-3
        )


def test_a_million_clips_in_two_clusters() -> None:
    num_clips = 1_000_000
    labels = np.repeat(np.array(["cat", "dog"]), num_clips // 2)
    clusters = (np.arange(num_clips) % 4 == 0) ^ (labels == "dog")
    found = evaluate_clusters(labels, clusters.astype(np.int16), 2)
    assert found["ari"] == pytest.approx(sklearn_metrics.adjusted_rand_score(labels, clusters), abs=1e-9)
    assert found["ari"] == pytest.approx(0.25, abs=1e-4)
    assert found["ami"] == pytest.approx(sklearn_metrics.adjusted_mutual_info_score(labels, clusters), abs=1e-9)
    assert found["accuracy"] == found["purity"] == found["left_out_accuracy"] == 0.75
    assert found["mean_entropy"] == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), abs=1e-12)
    assert found["n"] == num_clips


def test_a_million_singletons_need_no_table_of_a_million_squared() -> None:
    num_clips = 1_000_000
    labels, alone = np.arange(num_clips) % 1000, np.arange(num_clips)[::-1] * 10**9
    tracemalloc.start()
    found = evaluate_clusters(labels, alone)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e9
    # I = H(labels) = log 1000, H(clusters) = log 1e6
    expected = {"nmi": 2 / 3, "ami": 0.0, "ari": 0.0, "homogeneity": 1.0, "completeness": 0.5, "purity": 1.0}
    expected |= {"accuracy": 1000 / num_clips, "left_out_accuracy": 0.0, "mean_purity": 1.0, "mean_entropy": 0.0}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    same = evaluate_clusters(alone, np.arange(num_clips))
    assert {same[name] for name in ("nmi", "ami", "ari", "homogeneity", "completeness", "accuracy")} == {1.0}


@pytest.mark.parametrize(
    "sizes",
    [([3, 2], [4, 1]), ([5, 1, 1], [3, 3, 1]), ([2, 2, 2, 2], [1, 3, 4]), ([1] * 7, [4, 3]), ([6, 1], [5, 2])],
)
def test_expected_mutual_information_is_the_mean_over_permutations(sizes: tuple[list[int], list[int]]) -> None:
    labels, clusters = (np.repeat(np.arange(len(side)), side) for side in sizes)
    mutual = [
        contingency_matrix(labels, np.array(order)).mutual_information for order in set(permutations(clusters.tolist()))
    ]
    found = expected_mutual_information(*map(np.array, sizes))
    assert found == pytest.approx(np.mean(mutual), abs=1e-12)


def test_expected_mutual_information_wants_sizes_of_one_sum() -> None:
    with pytest.raises(ValueError, match="got sums 3 and 4"):
        expected_mutual_information(np.array([1, 2]), np.array([2, 2]))


def test_every_clip_counts_once_in_the_left_out_accuracy() -> None:
    # a a b: the a's see one a and one b (a tie), b sees a a.  c c c d: each c sees c c d.  e alone sees nobody.
    labels, clusters = list("aabcccde"), [0, 0, 0, 1, 1, 1, 1, 2]
    assert left_out_accuracy(contingency_matrix(labels, clusters)) == 3 / 8


@pytest.mark.parametrize(
    "convert",
    [
        list,
        np.array,
        lambda values: np.array(values, dtype=object),
        pa.array,
        lambda values: pa.array(values).dictionary_encode(),
        lambda values: pa.chunked_array([values[:3], values[3:]]),
    ],
    ids=["list", "numpy", "object", "arrow", "dictionary", "chunks"],
)
@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([5, -2, 5, 7, -2], [-2, 5, 7]),
        ([5, 2**62, -(2**62), 2**62, 5], [-(2**62), 5, 2**62]),
        (["b", "", "ä", "b", "a"], ["", "a", "b", "ä"]),
        ([True, False, True, True, True], [0, 1]),
    ],
    ids=["integers", "wide", "strings", "booleans"],
)
def test_labels_and_clusters_of_every_kind(convert: Callable[[list], Any], values: list, names: list) -> None:
    table = contingency_matrix(convert(values), np.array([0, 1, 2, 3, 4]))
    assert table.label_names.tolist() == names
    rows = [names.index(value) for value in values]
    assert sorted(zip(table.rows.tolist(), table.columns.tolist(), strict=True)) == sorted(
        zip(rows, range(5), strict=True)
    )
    as_clusters = contingency_matrix(np.array([0, 1, 2, 3, 4]), convert(values))
    assert as_clusters.cluster_names.tolist() == names
    assert as_clusters.dense().tolist() == table.dense().T.tolist()


@pytest.mark.parametrize("values", [[2**63 + 1, 0, 2**63 + 1], [2**63 + 1, 2**63, 2**63 + 1]])
def test_numbers_beyond_int64(values: list[int]) -> None:
    table = contingency_matrix(np.array(values, dtype=np.uint64), [0, 1, 2])
    assert table.label_names.tolist() == sorted(set(values))
    assert table.dense().tolist() == [[0, 1, 0], [1, 0, 1]]


def test_sparse_and_dense_counting_give_the_same_cells() -> None:
    rng = np.random.default_rng(0)
    labels, clusters = rng.integers(0, 400, 1000), rng.integers(0, 500, 1000)
    table = contingency_matrix(labels, clusters)  # 400 x 500 is more than four cells a clip: counted sparsely
    expected = np.zeros((table.label_names.size, table.cluster_names.size), dtype=np.int64)
    for label, cluster in zip(labels, clusters, strict=True):
        expected[np.searchsorted(table.label_names, label), np.searchsorted(table.cluster_names, cluster)] += 1
    assert (table.dense() == expected).all()
    assert (np.diff(table.rows * 500 + table.columns) > 0).all()
    assert (Contingency.from_dense(expected).counts == table.counts).all()


@pytest.mark.parametrize("matrix", [[[0, 0]], [[1, -1]], [1, 2]])
def test_a_matrix_that_holds_no_counts_is_refused(matrix: list) -> None:
    with pytest.raises(ValueError, match=r"expected counts \(L, K\)"):
        Contingency.from_dense(np.array(matrix))


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
    assert table.label_names.tolist() == ["a", "b"]
    assert table.dense().dtype == np.int64
    assert table.dense().tolist() == [[1, 0, 0, 0], [0, 0, 2, 0]]
    assert contingency_matrix(["b", "a", "b"], [2, 0, 2]).dense().tolist() == [[1, 0], [0, 2]]


@pytest.mark.parametrize(
    ("labels", "clusters", "message"),
    [
        ([0, 1], [0], r"one label a clip, got labels \(2,\) and clusters \(1,\)"),
        ([], [], "N >= 1"),
        ([0.5, 1.0], [0, 1], "integers or strings, got float64"),
        (["a", None], [0, 1], "1 of 2 clips have no label"),
        ([float("nan"), "a"], [0, 1], "1 of 2 clips have no label"),
        (["a", 1], [0, 1], "all integers or all strings"),
        ([[0, 1]], [0, 1], r"labels \(N,\)"),
        ([0, 1], [0, 3], r"in \[0, 3\), got 0 to 3"),
        ([0, 1], [-1, 0], r"in \[0, 3\), got -1 to 0"),
        ([0, 1], [0.0, 1.0], "integers"),
    ],
)
def test_wrong_input_is_refused(labels: Any, clusters: Any, message: str) -> None:
    mixed = len(set(map(type, labels))) > 1
    label_array = np.array(labels, dtype=object) if mixed else np.array(labels)
    cluster_array = np.array(clusters, dtype=None if clusters else np.int64)
    with pytest.raises(ValueError, match=message):
        evaluate_clusters(label_array, cluster_array, 3)


def test_describe_clusters() -> None:
    assert describe_clusters(np.array([0, 0, 1, 1]), 2) == {
        "used_clusters": 2,
        "n": 4,
        "size_min": 2,
        "size_p10": 2.0,
        "size_median": 2.0,
        "size_p90": 2.0,
        "size_max": 2,
        "size_entropy": pytest.approx(1.0),
    }
    skewed = describe_clusters(np.array([3, 3, 3]), 4)
    assert (skewed["used_clusters"], skewed["size_min"], skewed["size_max"]) == (1, 0, 3)
    assert skewed["size_entropy"] == 0
    assert describe_clusters(np.array([0]), 1)["size_entropy"] == 1.0
    with pytest.raises(ValueError, match=r"in \[0, 2\), got 0 to 5"):
        describe_clusters(np.array([0, 5]), 2)


def test_arrow_columns_that_are_no_names_are_refused() -> None:
    clusters = np.array([0, 1])
    with pytest.raises(ValueError, match="integers or strings, got double"):
        contingency_matrix(pa.array([0.5, 1.0]), clusters)
    with pytest.raises(ValueError, match="1 of 2 clips have no cluster"):
        contingency_matrix(clusters, pa.array([None, "a"]))
    with pytest.raises(ValueError, match="integers, got string"):
        contingency_matrix(clusters, pa.array(["b", "a"]), 2)
    with pytest.raises(ValueError, match="N >= 1, got none"):
        contingency_matrix(pa.array([], pa.string()), clusters)


# ---- intervals ----


def population() -> np.ndarray:
    """(L, K) shares: 12 labels, 15 clusters, half of each label in its own cluster."""
    rng = np.random.default_rng(5)
    shares = rng.random((12, 15)) * 0.1
    shares[np.arange(12), np.arange(12)] += 0.5
    return shares / shares.sum()


def draw_table(num_clips: int, seed: int) -> Contingency:
    rng = np.random.default_rng(seed)
    shares = population()
    return Contingency.from_dense(rng.multinomial(num_clips, shares.ravel()).reshape(shares.shape))


@pytest.mark.slow
def test_intervals_hold_what_fresh_clips_give_as_often_as_they_say() -> None:
    num_clips, tables, names = 300, 80, ("nmi", "accuracy", "mean_entropy")
    fresh = [score_contingency(draw_table(num_clips, 10_000 + seed), ami=False) for seed in range(300)]
    expected = {name: np.mean([scores[name] for scores in fresh]) for name in names}
    held, plain = Counter(), Counter()
    for seed in range(tables):
        table = draw_table(num_clips, seed)
        for name, interval in bootstrap_intervals(table, names, num_resamples=80, level=0.9, seed=seed).items():
            held[name] += interval.low <= expected[name] <= interval.high
            plain[name] += interval.low + interval.bias <= expected[name] <= interval.high + interval.bias
    for name in names:
        assert 0.8 <= held[name] / tables <= 0.98, (name, held[name])
    assert plain["nmi"] / tables < 0.5  # what the correction is for: NMI rises when clips are drawn twice
    assert bootstrap_intervals(draw_table(num_clips, 0), ["nmi"])["nmi"].bias > 0.01


def test_intervals_are_seeded_and_cover_every_score() -> None:
    table = draw_table(2000, 1)
    first = bootstrap_intervals(table, seed=3)
    assert bootstrap_intervals(table, seed=3) == first
    assert bootstrap_intervals(table, seed=4) != first
    assert tuple(first) == INTERVAL_METRICS
    scores = score_contingency(table, ami=False)
    for name, interval in first.items():
        assert interval.low < scores[name] < interval.high
    wide, narrow = (bootstrap_intervals(table, ["ari"], level=level)["ari"] for level in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert bootstrap_intervals(table, ["ami"], num_resamples=5)["ami"].high < 1


def test_intervals_of_a_perfect_match_have_no_width() -> None:
    table = contingency_matrix(np.arange(300) % 3, np.arange(300) % 3)
    interval = bootstrap_intervals(table, ["nmi"])["nmi"]
    assert (interval.low, interval.high, interval.bias) == pytest.approx((1.0, 1.0, 0.0), abs=1e-12)
    assert interval.high <= 1


def test_intervals_cost_cells_and_not_clips() -> None:
    table = closed_form_table(80_000_000_000)
    interval = bootstrap_intervals(table, ["accuracy"])["accuracy"]
    assert interval.high - interval.low < 1e-4


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"names": ["nmi", "acc"]}, "no interval for acc; expected some of nmi, ari, "),
        ({"num_resamples": 1}, "num_resamples >= 2"),
        ({"level": 1.0}, r"level in \(0, 1\)"),
    ],
)
def test_wrong_wishes_for_intervals_are_refused(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(draw_table(100, 0), **settings_)


def test_the_examples_of_the_docstrings_are_right() -> None:
    result = doctest.testmod(metrics)
    assert result.failed == 0
    assert result.attempted >= 2 * 8
