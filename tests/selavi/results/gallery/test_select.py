import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from selavi.results.gallery import select
from selavi.results.gallery.select import Head, Places, Selector, arrange, even_sample
from selavi.results.labels import LABEL_SCHEMA, SplitLabels


def clips_of(paths: list[str], labels: list[str | None] | None = None) -> pa.Table:
    return pa.table(
        {"path": pa.array(paths, pa.string()), "label": pa.array(labels or [None] * len(paths), pa.string())}
    )


def head_of(clusters: list[int], confidence: list[float] | None = None, **others: list[float]) -> Head:
    given = {"margin": np.linspace(1, 0, len(clusters)), "agreement": np.full(len(clusters), np.nan), **others}
    columns = {name: np.array(values, np.float32) for name, values in given.items()}
    sure = np.array(confidence or np.linspace(1, 0, len(clusters)), np.float32)
    return Head(0, np.array(clusters, np.int32), sure, columns["margin"], 1 - sure, columns["agreement"])


def numbered(count: int) -> list[str]:
    return [f"{i:04d}.mp4" for i in range(count)]


def test_rows_are_typical_then_borderline_then_odd_and_disjoint() -> None:
    rng = np.random.default_rng(0)
    confidence, margin, agreement = rng.random((3, 50)).astype(np.float32)
    head = head_of([7] * 50, confidence.tolist(), margin=margin.tolist(), agreement=agreement.tolist())
    found = Selector(clips_of(numbered(50)), Places(5, 4, 3)).select(head)
    (cluster,) = found.clusters
    by_rank = found.clips(cluster)
    assert by_rank.tolist() == np.argsort(-confidence).tolist()
    assert cluster.typical == [0, 1, 2, 3, 4]
    others = by_rank[5:]
    expected = others[np.argsort(margin[others])][:4]
    assert by_rank[cluster.borderline].tolist() == expected.tolist()
    rest = np.setdiff1d(others, expected)
    assert by_rank[cluster.odd].tolist() == rest[np.argsort(agreement[rest])][:3].tolist()
    assert cluster.shown == [*cluster.typical, *cluster.borderline, *cluster.odd]
    assert (cluster.cluster, cluster.size, cluster.start) == (7, 50, 0)
    assert cluster.confidence == pytest.approx(confidence.mean())
    assert cluster.agreement == pytest.approx(agreement.mean())


def test_with_features_the_odd_clips_are_the_farthest_from_the_mean() -> None:
    features = np.zeros((20, 3), np.float16)
    features[[13, 4, 17], 1] = [3, 2, 1]
    (cluster,) = Selector(clips_of(numbered(20)), Places(2, 2, 2), features).select(head_of([0] * 20)).clusters
    assert cluster.odd == [13, 4]  # confidence falls with the number, so rank and number are the same


def test_small_clusters_are_shown_whole_and_once() -> None:
    selector = Selector(clips_of(numbered(3)), Places(2, 2, 2))
    (cluster,) = selector.select(head_of([1, 1, 1], agreement=[0.5, 0.5, 0.5])).clusters
    assert sorted(cluster.shown) == [0, 1, 2] and cluster.odd == []


def test_unknown_agreement_gives_no_odd_clips() -> None:
    (cluster,) = Selector(clips_of(numbered(9)), Places(1, 1, 3)).select(head_of([0] * 9)).clusters
    assert cluster.odd == [] and cluster.agreement is None


def test_clips_of_equal_confidence_are_ranked_by_id() -> None:
    found = Selector(clips_of(numbered(6)), Places()).select(head_of([2, 1, 2, 1, 2, 1], [0.5] * 6))
    assert [found.clips(cluster).tolist() for cluster in found.clusters] == [[1, 3, 5], [0, 2, 4]]


def test_figures_of_labels() -> None:
    labels = ["b", "a", "a", None, "x", "y", "y", "x", None]
    head = head_of([4, 4, 4, 4, 6, 6, 6, 6, 8])
    first, second, third = Selector(clips_of(numbered(9), labels), Places()).select(head).clusters
    assert first.labels == [("a", 2), ("b", 1)] and first.num_labelled == 3 and first.purity == pytest.approx(2 / 3)
    assert first.entropy == pytest.approx(-(2 / 3) * np.log(2 / 3) - np.log(1 / 3) / 3)
    assert first.suggestion == "a"
    assert second.labels == [("x", 2), ("y", 2)] and second.suggestion is None  # none has the majority
    assert (third.labels, third.purity, third.entropy, third.num_labelled) == ([], None, None, 0)
    names, cells = Selector(clips_of(numbered(9), labels), Places()).label_table(head)
    assert names == ["a", "x", "y", "b"]
    assert cells == [(0, 4, 2), (1, 6, 2), (2, 6, 2), (3, 4, 1)]


def test_names_are_suggested_from_words_that_tell() -> None:
    dogs = [f"films/Dog-Bark_{i}.mp4" for i in range(6)]
    cats = [f"films/cat {i} take.mp4" for i in range(6)]
    noise = [f"films/{word}.mp4" for word in ("abcd", "efgh", "ijkl")]
    clips = clips_of([*dogs, *cats, *noise])
    found = Selector(clips, Places()).select(head_of([0] * 6 + [1] * 6 + [2] * 3)).clusters
    assert [set((cluster.suggestion or "").split()) for cluster in found] == [{"bark", "dog"}, {"cat", "take"}, set()]


@pytest.mark.parametrize("block", [7, 65_536])
def test_nearest_clusters_are_those_with_the_nearest_means(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "BLOCK", block)
    rng = np.random.default_rng(1)
    features = rng.normal(size=(200, 8)).astype(np.float32)
    clusters = rng.integers(10, size=200) * 3
    found = Selector(clips_of(numbered(200)), Places(), features).select(head_of(clusters.tolist())).clusters
    means = np.stack([features[clusters == number].mean(0) for number in range(0, 30, 3)]) - features.mean(0)
    expected = cosine_similarity(means)
    np.fill_diagonal(expected, -2)
    for row, cluster in enumerate(found):
        order = np.argsort(-expected[row])[:6]
        assert [number for number, _ in cluster.nearest] == (3 * order).tolist()
        assert [cosine for _, cosine in cluster.nearest] == pytest.approx(expected[row, order], abs=1e-3)


def labels_of(clusters: dict[str, list[int]]) -> SplitLabels:
    """Labels with the clusters of each clip under all heads."""
    numbers = np.array(list(clusters.values()), np.int32)
    floats = {name: (0.25 * numbers).astype(np.float32) for name in LABEL_SCHEMA.names[3:]}
    return SplitLabels(pa.array(clusters, pa.large_string()), numbers, floats, None)


def manifest_of(ids: list[str]) -> pa.Table:
    count = len(ids)
    facts = {
        "start_s": [0.0],
        "duration_s": [2.0],
        "width": [4],
        "height": [3],
        "audio_state": ["ok"],
        "bytes": [9],
        "mtime_ns": [1],
    }
    return pa.table(
        {
            "id": ids,
            "path": [f"p/{each}" for each in ids],
            "label": [each.upper() for each in ids],
            **{name: values * count for name, values in facts.items()},
        }
    )


def test_labels_and_manifest_become_columns_sorted_by_id() -> None:
    labels = labels_of({"é": [1, 2], "b": [3, 4], "Z": [5, 6]})
    clips, heads = arrange(labels, manifest_of(["b", "unlabelled", "é", "Z"]))
    assert clips["id"].to_pylist() == ["Z", "b", "é"] and clips["path"].to_pylist() == ["p/Z", "p/b", "p/é"]
    assert clips["start_s"].to_pylist() == [0, 0, 0]
    assert [head.head for head in heads] == [0, 1]
    assert [head.cluster.tolist() for head in heads] == [[5, 3, 1], [6, 4, 2]]
    assert heads[1].agreement.tolist() == [1.5, 1.0, 0.5]


def test_clips_need_a_row_of_the_manifest() -> None:
    with pytest.raises(ValueError, match="expected all clips in the manifest; 1 of 2 are not there"):
        arrange(labels_of({"a": [1], "gone": [1]}), manifest_of(["a", "b"]))


def test_places_are_shared_out() -> None:
    assert Places.of(24) == Places(12, 6, 6)
    assert Places.of(1) == Places(1, 0, 0)


def test_an_even_sample_takes_its_share_of_every_cluster() -> None:
    sample = even_sample([1000, 100, 3], 110)
    assert [len(sample[place]) for place in range(3)] == [99, 9, 1]
    assert sample[1].tolist() == [5, 16, 27, 38, 50, 61, 72, 83, 94]
    whole = even_sample([4, 2], 6)
    assert [ranks.tolist() for ranks in whole.values()] == [[0, 1, 2, 3], [0, 1]]
