import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selavi.export import CLUSTER_SCHEMA, cluster_table, write_cluster_table

HOSTILE_IDS = ["-dash", "=1+1", "+plus", "@at", 'quo"te', "comma, and\nnewline", "🎺", "", "NULL"]


def labels_table(rows: list[tuple[str, int, int, float]], **columns: Any) -> pa.Table:
    """Rows of (id, head, cluster, confidence)."""
    confidence = np.array([row[3] for row in rows], dtype=np.float32)
    return pa.table(
        {
            "id": pa.array([row[0] for row in rows], pa.string()),
            "head": pa.array([row[1] for row in rows], pa.int32()),
            "cluster": pa.array([row[2] for row in rows], pa.int32()),
            "confidence": confidence,
            "margin": confidence / 2,
            "entropy": 1 - confidence,
            "modality_agreement": pa.array(columns.get("agreement", [None] * len(rows)), pa.float32()),
        }
    )


def manifest_table(ids: list[str], labels: list[str | None] | None = None) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "path": pa.array([f"media/{clip_id}" for clip_id in ids], pa.string()),
            "split": ["test"] * len(ids),
            "label": pa.array(labels or [None] * len(ids), pa.string()),
        }
    )


def test_rows_are_joined_by_id_whatever_their_order() -> None:
    labels = labels_table([("c", 0, 1, 0.5), ("a", 0, 0, 0.9), ("b", 0, 1, 0.7)], agreement=[0.1, 0.2, 0.3])
    manifest = manifest_table(["b", "unlabelled", "a", "c"], ["bee", "none", None, "sea"])
    table = cluster_table(labels, manifest, 0)
    assert table.schema.equals(CLUSTER_SCHEMA)
    assert table.column_names == [
        "id",
        "path",
        "start_s",
        "head",
        "cluster",
        "name",
        "confidence",
        "margin",
        "entropy",
        "rank_in_cluster",
        "modality_agreement",
        "label",
    ]
    assert table["id"].to_pylist() == ["a", "b", "c"]
    assert table["path"].to_pylist() == ["media/a", "media/b", "media/c"]
    assert table["label"].to_pylist() == [None, "bee", "sea"]
    assert table["modality_agreement"].to_pylist() == pytest.approx([0.2, 0.3, 0.1])
    assert table["margin"].to_pylist() == pytest.approx([0.45, 0.35, 0.25])
    assert table["start_s"].to_pylist() == [0.0] * 3
    assert table["name"].null_count == 3


def test_rank_counts_down_the_confidence_within_head_and_cluster_and_breaks_ties_by_id() -> None:
    labels = labels_table(
        [
            ("d", 0, 0, 0.5),
            ("b", 0, 0, 0.5),
            ("a", 0, 0, 0.2),
            ("c", 0, 3, 0.1),
            ("a", 1, 0, 0.9),
            ("b", 1, 2, 0.3),
            ("c", 1, 2, 0.4),
            ("d", 1, 2, 0.3),
        ]
    )
    table = cluster_table(labels, manifest_table(["a", "b", "c", "d"]), None)
    found = [(row["head"], row["cluster"], row["rank_in_cluster"], row["id"]) for row in table.to_pylist()]
    assert found == [
        (0, 0, 0, "b"),
        (0, 0, 1, "d"),
        (0, 0, 2, "a"),
        (0, 3, 0, "c"),
        (1, 0, 0, "a"),
        (1, 2, 0, "c"),
        (1, 2, 1, "b"),
        (1, 2, 2, "d"),
    ]
    one_head = cluster_table(labels, manifest_table(["a", "b", "c", "d"]), 1)
    assert one_head.equals(table.slice(4))


def test_the_table_does_not_depend_on_the_order_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    ids = [f"clip{i}" for i in range(50)]
    rows = [(i, head, int(rng.integers(4)), round(rng.random(), 1)) for head in range(3) for i in ids]
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    first = cluster_table(labels_table(rows), manifest_table(ids), None)
    second = cluster_table(labels_table(shuffled), manifest_table(ids[::-1]), None)
    assert first.equals(second)


@pytest.mark.parametrize(
    ("rows", "ids", "head", "message"),
    [
        (
            [("a", 0, 0, 1.0), ("x", 0, 0, 1.0)],
            ["a", "b"],
            0,
            "1 of 2 labelled clips are not in the manifest of 2",
        ),
        (
            [("a", 0, 0, 1.0), ("a", 0, 1, 1.0)],
            ["a"],
            0,
            "head 0 labels 1 clips more than once: 2 rows for 1 ids",
        ),
        ([("a", 0, 0, 1.0)], ["a", "b", "b"], 0, "1 of 3 manifest rows repeat an id"),
        ([("a", 0, 0, 1.0), ("b", 0, 0, 1.0), ("a", 1, 0, 1.0)], ["a", "b"], 0, "head 1 labels 1 of 2 clips"),
        ([("a", 0, 0, 1.0)], ["a"], 4, r"heads \[0\], got 4"),
    ],
)
def test_ids_that_do_not_match_are_refused(
    rows: list[tuple[str, int, int, float]], ids: list[str], head: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cluster_table(labels_table(rows), manifest_table(ids), head)


def test_a_missing_column_is_named() -> None:
    labels = labels_table([("a", 0, 0, 1.0)])
    with pytest.raises(ValueError, match=r"labels table lacks the columns \['margin'\]"):
        cluster_table(labels.drop_columns(["margin"]), manifest_table(["a"]), 0)
    with pytest.raises(ValueError, match=r"manifest table lacks the columns \['path'\]"):
        cluster_table(labels, manifest_table(["a"]).drop_columns(["path"]), 0)


def test_parquet_and_csv_hold_the_same_raw_cells(tmp_path: Path) -> None:
    rows = [(clip_id, 0, i % 2, 0.1 * i) for i, clip_id in enumerate(HOSTILE_IDS)]
    manifest = manifest_table(HOSTILE_IDS, [None, *HOSTILE_IDS[1:]])
    table = cluster_table(labels_table(rows), manifest, 0)
    parquet_path, csv_path = write_cluster_table(table, tmp_path / "run")
    assert (parquet_path.name, csv_path.name) == ("clusters.parquet", "clusters.csv")
    assert pq.read_table(parquet_path).equals(table)
    with csv_path.open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    assert list(cells[0]) == CLUSTER_SCHEMA.names
    for cell, row in zip(cells, table.to_pylist(), strict=True):
        assert (cell["id"], cell["path"], cell["label"]) == (row["id"], row["path"], row["label"] or "")
        assert np.float32(cell["confidence"]) == np.float32(row["confidence"])
        assert (int(cell["cluster"]), cell["name"]) == (row["cluster"], "")


def test_a_failed_write_leaves_the_older_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = cluster_table(labels_table([("a", 0, 0, 1.0)]), manifest_table(["a"]), 0)
    write_cluster_table(table, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(_: pa.Table, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_cluster_table(table, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
