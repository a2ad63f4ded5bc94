import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import csr_array
from sklearn import metrics as sklearn_metrics

from selavi.scores import consensus as module
from selavi.scores.consensus import (
    agreement_over_k,
    co_occurrence_profiles,
    consensus,
    mean_probabilities,
    merge_tree,
    stability,
)
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import matched_accuracy

K = 8


def accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    return matched_accuracy(contingency_matrix(labels, clusters))


def noisy_heads(num_clips: int, noise: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(N,) hidden groups and (N, H) heads that see them with errors, each under its own names."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, K, num_clips)
    heads = [np.where(rng.random(num_clips) < share, rng.integers(0, K, num_clips), truth) for share in noise]
    return truth, np.stack([rng.permutation(K)[head] for head in heads], axis=1)


# ---- consensus ----


@pytest.mark.parametrize("noise", [[0.3] * 5, [0.6] * 9, [0.2, 0.3, 0.4, 1.0, 1.0, 1.0]])
def test_the_consensus_is_better_than_the_best_head(noise: list[float]) -> None:
    truth, heads = noisy_heads(3000, noise)
    found = consensus(heads, K)
    assert found.converged
    assert accuracy(truth, found.clusters) > max(accuracy(truth, head) for head in heads.T) + 0.05


def test_a_head_of_noise_has_hardly_a_say() -> None:
    truth, heads = noisy_heads(3000, [0.3, 0.3, 0.3, 0.3, 1.0])
    without = accuracy(truth, consensus(heads[:, :4], K).clusters)
    assert accuracy(truth, consensus(heads, K).clusters) > without - 0.02 > 0.85


def test_the_consensus_knows_neither_names_nor_order() -> None:
    _, heads = noisy_heads(1000, [0.3, 0.4, 0.5, 0.6])
    found = consensus(heads, K)
    rng = np.random.default_rng(1)
    renamed = np.stack([rng.permutation(K)[head] for head in heads.T], axis=1)
    order = rng.permutation(1000)
    again = consensus(renamed[order][:, [2, 0, 3, 1]], K)
    assert sklearn_metrics.adjusted_rand_score(found.clusters[order], again.clusters) == 1
    assert (consensus(heads, K).clusters == found.clusters).all()


@pytest.mark.parametrize("constant", ["CHUNK_NUMBERS", "DENSE_NUMBERS"])
def test_blocks_and_sparse_weights_change_nothing(monkeypatch: pytest.MonkeyPatch, constant: str) -> None:
    _, heads = noisy_heads(500, [0.4] * 4)
    expected = consensus(heads, K)
    monkeypatch.setattr(module, constant, 7)
    found = consensus(heads, K)
    assert (found.clusters == expected.clusters).all()
    assert found.rounds == expected.rounds > 1


def test_heads_that_agree_are_their_own_consensus() -> None:
    column = np.arange(60) % 3
    found = consensus(np.stack([column, (column + 1) % 3, column], axis=1), 3)
    assert (found.clusters == column).all()
    assert (found.start, found.rounds, found.converged) == (0, 1, True)
    single = consensus(column[:, None], 3)
    assert (single.clusters == column).all()
    assert (single.rounds, single.converged) == (0, True)


def test_in_the_end_every_clip_is_in_its_likeliest_cluster() -> None:
    _, heads = noisy_heads(400, [0.3, 0.4, 0.4])
    found = consensus(heads, K)
    assert found.converged
    scores = np.zeros((400, K))
    for z in range(K):
        members = heads[found.clusters == z]
        for head in range(3):
            counts = np.bincount(members[:, head], minlength=K) + 0.5
            scores[:, z] += np.log(counts / counts.sum())[heads[:, head]]
    assert scores[np.arange(400), found.clusters] == pytest.approx(scores.max(1), abs=1e-6)
    stopped = consensus(heads, K, max_rounds=1)
    assert (stopped.rounds, stopped.converged) == (1, False)


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, K - 1)))
def test_any_heads_have_a_consensus(heads: np.ndarray) -> None:
    found = consensus(heads, K)
    assert found.clusters.shape == heads.shape[:1]
    assert set(found.clusters) <= set(heads[:, found.start])
    assert found.rounds < 100


# ---- merge trees ----


def split_heads(num_groups: int, parts: int, num_heads: int, noise: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Hidden groups, and heads that each cut every group into `parts` along a direction of their own."""
    rng = np.random.default_rng(0)
    num_clips, num_clusters = 6000, num_groups * parts
    truth, features = rng.integers(0, num_groups, num_clips), rng.normal(size=(num_clips, 3))
    heads = []
    for _ in range(num_heads):
        part = (features @ rng.normal(size=3)).argsort().argsort() * parts // num_clips
        clusters = rng.permutation(num_clusters)[truth * parts + part]
        heads.append(np.where(rng.random(num_clips) < noise, rng.integers(0, num_clusters, num_clips), clusters))
    return truth, np.stack(heads, axis=1), num_clusters


def test_merging_finds_the_groups_that_every_head_splits() -> None:
    truth, heads, num_clusters = split_heads(6, 4, 4, noise=0.1)
    cut = merge_tree(co_occurrence_profiles(heads, 1, num_clusters)).cut(6)
    assert len(set(cut)) == 6
    assert accuracy(truth, cut[heads[:, 1]]) > accuracy(truth, heads[:, 1]) + 0.5
    assert accuracy(truth, cut[heads[:, 1]]) > 0.88


def test_merging_by_mean_probabilities() -> None:
    rng = np.random.default_rng(2)
    clusters = rng.integers(0, 9, 3000)
    probabilities = np.full((3000, 9), 0.01) + rng.random((3000, 9)) * 0.02
    probabilities[np.arange(3000), clusters] += 0.5
    probabilities[np.arange(3000), clusters // 3 * 3 + (clusters + rng.integers(0, 3, 3000)) % 3] += 0.3
    means = mean_probabilities(clusters, probabilities)
    assert means[4] == pytest.approx(probabilities[clusters == 4].mean(0))
    cut = merge_tree(means).cut(3)
    assert cut.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    empty = mean_probabilities(np.array([0, 2]), np.full((2, 3), 1 / 3))
    assert empty.sum(1) == pytest.approx([1, 0, 1])


def test_cuts_are_nested_and_have_the_size_asked_for() -> None:
    rng = np.random.default_rng(0)
    tree = merge_tree(rng.random((11, 5)))
    finer = tree.cut(11)
    assert finer.tolist() == list(range(11))
    for num_groups in range(10, 0, -1):
        cut = tree.cut(num_groups)
        assert sorted(set(cut)) == list(range(num_groups))
        assert list(dict.fromkeys(cut.tolist())) == list(range(num_groups))  # numbered as they first appear
        assert len({(a, b) for a, b in zip(finer, cut, strict=True)}) == num_groups + 1  # one pair has merged
        finer = cut
    for wrong in (0, 12):
        with pytest.raises(ValueError, match="expected 1 to 11 groups"):
            tree.cut(wrong)


def test_an_empty_cluster_counts_as_flat() -> None:
    profiles = np.array([[1.0, 0, 0, 0], [0, 0, 0, 0], [9, 0, 0, 0], [5, 5, 5, 4], [0, 0, 3, 3]])
    assert merge_tree(profiles).cut(3).tolist() == [0, 1, 0, 1, 2]
    assert (merge_tree(csr_array(profiles)).merges == merge_tree(profiles).merges).all()
    filled = profiles.copy()
    filled[1] = 1
    assert merge_tree(filled).merges == pytest.approx(merge_tree(profiles).merges, abs=1e-6)


def test_profiles_count_the_clips_of_a_cluster_under_the_other_heads() -> None:
    heads = np.array([[0, 1, 2], [0, 1, 0], [1, 1, 0]])
    found = co_occurrence_profiles(heads, 0, 3).toarray()
    assert found.tolist() == [[0, 2, 0, 1, 0, 1], [0, 1, 0, 1, 0, 0], [0] * 6]


# ---- how many clusters ----


def test_stability_is_the_mean_over_pairs() -> None:
    _, heads = noisy_heads(500, [0.2, 0.4, 0.6])
    found = stability(heads, K)
    for name, score in (
        ("nmi", sklearn_metrics.normalized_mutual_info_score),
        ("ami", sklearn_metrics.adjusted_mutual_info_score),
        ("ari", sklearn_metrics.adjusted_rand_score),
    ):
        pairs = [score(heads[:, a], heads[:, b]) for a, b in ((0, 1), (0, 2), (1, 2))]
        assert getattr(found, name) == pytest.approx(np.mean(pairs), abs=1e-9)


@pytest.mark.parametrize("num_groups", [5, 8])
def test_heads_agree_most_at_the_number_of_groups_in_the_data(num_groups: int) -> None:
    _, heads, num_clusters = split_heads(num_groups, 5, 4, noise=0.15)
    ks = [2, 3, 4, 5, 6, 8, 10, 15, num_clusters]
    curve = agreement_over_k(heads, num_clusters, ks)
    assert [point.num_groups for point in curve] == ks
    for name in ("ami", "ari"):
        best = max(curve, key=lambda point: getattr(point.agreement, name))
        assert best.num_groups == num_groups
    assert curve[ks.index(num_groups)].size_entropy > 0.98
    assert curve == agreement_over_k(heads, num_clusters, ks)
    assert curve != agreement_over_k(heads, num_clusters, ks, seed=1)
    # Unmerged, the figures are those of the clips that the trees have not seen: nearly those of all clips.
    assert curve[-1].agreement.ari == pytest.approx(stability(heads, num_clusters).ari, abs=0.02)


# ---- wrong input ----


def test_wrong_input_is_refused() -> None:
    good = np.zeros((4, 2), dtype=np.int64)
    for call in (
        lambda heads: consensus(heads, 3),
        lambda heads: stability(heads, 3),
        lambda heads: agreement_over_k(heads, 3, [1]),
        lambda heads: co_occurrence_profiles(heads, 0, 3),
    ):
        call(good)
        for wrong, message in (
            (good[:, 0], r"assignments \(N, H\)"),
            (good.astype(float), "of integers"),
            (good[:0], r"assignments \(N, H\)"),
            (good + 3, r"in \[0, 3\), got 3 to 3"),
            (good - 1, r"in \[0, 3\), got -1 to -1"),
        ):
            with pytest.raises(ValueError, match=message):
                call(wrong)
    for call in (lambda: stability(good[:, :1], 3), lambda: agreement_over_k(good[:, :1], 3, [1])):
        with pytest.raises(ValueError, match="two heads or more"):
            call()
    with pytest.raises(ValueError, match="2 heads and head 2"):
        co_occurrence_profiles(good, 2, 3)
    with pytest.raises(ValueError, match="two clips or more"):
        agreement_over_k(good[:1], 3, [1])
    with pytest.raises(ValueError, match="two clusters or more"):
        merge_tree(np.ones((1, 3)))
    for value in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="got 1 entries that are not"):
            merge_tree(np.array([[1, 2], [3, value]]))
    with pytest.raises(ValueError, match=r"probabilities \(N, K\)"):
        mean_probabilities(good[:, 0], np.ones((3, 2)))
