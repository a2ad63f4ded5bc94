import numpy as np
import pyarrow as pa
import pytest

from selavi.export import CLUSTER_SCHEMA
from selavi.gallery.select import select_clusters


def table_of(clusters: dict[int, list[str | None]], head: int = 0) -> pa.Table:
    """Clusters as lists of labels, the most confident clip first."""
    rows = [
        {
            "id": f"{cluster}-{rank}",
            "path": f"{cluster}-{rank}.mp4",
            "start_s": 0.0,
            "head": head,
            "cluster": cluster,
            "confidence": 1 - rank / 100,
            "margin": 0.0,
            "entropy": 0.0,
            "rank_in_cluster": rank,
            "label": label,
        }
        for cluster, labels in clusters.items()
        for rank, label in enumerate(labels)
    ]
    rng = np.random.default_rng(0)
    return pa.Table.from_pylist([rows[i] for i in rng.permutation(len(rows))], schema=CLUSTER_SCHEMA)


def test_large_clusters_give_a_quarter_of_the_places_to_the_least_confident_clips() -> None:
    (cluster,) = select_clusters(table_of({5: ["a"] * 30}), 0, 12)
    assert [clip.id for clip in cluster.typical] == [f"5-{rank}" for rank in range(9)]
    assert [clip.id for clip in cluster.uncertain] == ["5-27", "5-28", "5-29"]
    assert (cluster.size, cluster.mean_confidence) == (30, pytest.approx(1 - 14.5 / 100))


def test_small_clusters_are_shown_whole_and_once() -> None:
    (cluster,) = select_clusters(table_of({5: ["a"] * 12}), 0, 12)
    assert (len(cluster.typical), cluster.uncertain) == (12, ())
    (cluster,) = select_clusters(table_of({5: ["a"] * 13}), 0, 12)
    assert (len(cluster.typical), len(cluster.uncertain)) == (9, 3)
    (cluster,) = select_clusters(table_of({5: ["a"] * 13}), 0, 1)
    assert ([clip.id for clip in cluster.typical], cluster.uncertain) == (["5-0"], ())


def test_clusters_come_by_size_and_carry_their_label() -> None:
    found = select_clusters(table_of({4: ["b", "a"], 1: ["x", None, "y", "x"], 9: [None, None]}), 0, 12)
    assert [cluster.cluster for cluster in found] == [1, 4, 9]
    assert [cluster.top_label for cluster in found] == ["x", "a", None]
    assert [cluster.purity for cluster in found] == [pytest.approx(2 / 3), 0.5, None]
    assert [cluster.num_labelled for cluster in found] == [3, 2, 0]


def test_only_the_rows_of_the_head_count() -> None:
    table = pa.concat_tables([table_of({0: ["a"]}, head=0), table_of({0: ["a", "b"], 1: ["c"]}, head=2)])
    assert [cluster.size for cluster in select_clusters(table, 2, 12)] == [2, 1]
    with pytest.raises(ValueError, match=r"heads \[0, 2\], got 1"):
        select_clusters(table, 1, 12)
    with pytest.raises(ValueError, match="at least 1 clip a cluster, got 0"):
        select_clusters(table, 0, 0)
