import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selavi.errors import UsageError
from selavi.results import cluster_table as export
from selavi.results.cluster_table import (
    CLUSTER_SCHEMA,
    ClusterTables,
    rank_clips,
    write_cluster_tables,
    write_table,
)
from selavi.results.labels import SplitLabels

HOSTILE_IDS = ["-dash", "=1+1", "+plus", "@at", 'quo"te', "comma, and\nnewline", "🎺", "", "NULL"]


def labels_of(rows: list[tuple[str, int, int, float]], agreement: list[float] | None = None) -> SplitLabels:
    """The labels that rows of (id, head, cluster, confidence) give, one for each head of each clip."""
    ids = list(dict.fromkeys(row[0] for row in rows))
    place = {clip_id: number for number, clip_id in enumerate(ids)}
    clusters = np.zeros((len(ids), max(row[1] for row in rows) + 1), np.int32)
    confidence = np.zeros(clusters.shape, np.float32)
    for clip_id, head, cluster, sure in rows:
        clusters[place[clip_id], head], confidence[place[clip_id], head] = cluster, sure
    agrees = np.full(clusters.shape, np.nan) if agreement is None else np.array(agreement)[:, None]
    statistics = {"confidence": confidence, "margin": confidence / 2, "entropy": 1 - confidence}
    statistics["modality_agreement"] = agrees.astype(np.float32)
    return SplitLabels(pa.array(ids, pa.large_string()), clusters, statistics, None)


def table_of(rows: list[tuple[str, int, int, float]], manifest: pa.Table, head: int = 0) -> pa.Table:
    return ClusterTables(labels_of(rows), manifest).of_head(head)


def all_heads(rows: list[tuple[str, int, int, float]], manifest: pa.Table) -> pa.Table:
    labels = labels_of(rows)
    tables = ClusterTables(labels, manifest)
    return pa.concat_tables([tables.of_head(head) for head in range(labels.clusters.shape[1])])


def manifest_table(ids: list[str], labels: list[str | None] | None = None) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "path": pa.array([f"media/{clip_id}" for clip_id in ids], pa.string()),
            "split": ["test"] * len(ids),
            "label": pa.array(labels or [None] * len(ids), pa.string()),
            "start_s": [20.0 * (clip_id == "b") for clip_id in ids],
            "end_s": pa.array([30.0 if clip_id == "b" else None for clip_id in ids], pa.float64()),
            "duration_s": [10.0] * len(ids),
        }
    )


def test_rows_are_joined_by_id_whatever_their_order() -> None:
    labels = labels_of([("c", 0, 1, 0.5), ("a", 0, 0, 0.9), ("b", 0, 1, 0.7)], agreement=[0.1, 0.2, 0.3])
    manifest = manifest_table(["b", "unlabelled", "a", "c"], ["bee", "none", None, "sea"])
    table = ClusterTables(labels, manifest).of_head(0)
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
        "end_s",
    ]
    assert table["id"].to_pylist() == ["a", "b", "c"]
    assert table["path"].to_pylist() == ["media/a", "media/b", "media/c"]
    assert table["label"].to_pylist() == [None, "bee", "sea"]
    assert table["modality_agreement"].to_pylist() == pytest.approx([0.2, 0.3, 0.1])
    assert table["margin"].to_pylist() == pytest.approx([0.45, 0.35, 0.25])
    assert table["start_s"].to_pylist() == [0.0, 20.0, 0.0]
    assert table["end_s"].to_pylist() == [10.0, 30.0, 10.0]
    assert table["name"].null_count == 3


def test_rank_counts_down_the_confidence_within_head_and_cluster_and_breaks_ties_by_id() -> None:
    rows = [
        ("d", 0, 0, 0.5),
        ("b", 0, 0, 0.5),
        ("a", 0, 0, 0.2),
        ("c", 0, 3, 0.1),
        ("a", 1, 0, 0.9),
        ("b", 1, 2, 0.3),
        ("c", 1, 2, 0.4),
        ("d", 1, 2, 0.3),
    ]
    table = all_heads(rows, manifest_table(["a", "b", "c", "d"]))
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


def test_the_table_does_not_depend_on_the_order_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    ids = [f"clip{i}" for i in range(50)]
    rows = [(i, head, int(rng.integers(4)), round(rng.random(), 1)) for head in range(3) for i in ids]
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    first = all_heads(rows, manifest_table(ids))
    second = all_heads(shuffled, manifest_table(ids[::-1]))
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
        ([("a", 0, 0, 1.0)], ["a", "b", "b"], 0, "1 of 3 manifest rows repeat an id"),
        ([("a", 0, 0, 1.0)], ["a"], 4, "heads 0 to 0, got 4"),
    ],
)
def test_ids_that_do_not_match_are_refused(
    rows: list[tuple[str, int, int, float]], ids: list[str], head: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        table_of(rows, manifest_table(ids), head)


def test_a_missing_column_is_named() -> None:
    labels = labels_of([("a", 0, 0, 1.0)])
    without = replace(labels, statistics={name: labels.statistics[name] for name in ("confidence", "entropy")})
    with pytest.raises(UsageError, match="labels lack the columns margin, modality_agreement: make the labels again"):
        ClusterTables(without, manifest_table(["a"])).of_head(0)
    with pytest.raises(ValueError, match=r"manifest table lacks the columns \['path'\]"):
        ClusterTables(labels, manifest_table(["a"]).drop_columns(["path"]))


def test_parquet_and_csv_hold_the_same_raw_cells(tmp_path: Path) -> None:
    rows = [(clip_id, 0, i % 2, 0.1 * i) for i, clip_id in enumerate(HOSTILE_IDS)]
    manifest = manifest_table(HOSTILE_IDS, [None, *HOSTILE_IDS[1:]])
    table = table_of(rows, manifest)
    parquet_path, csv_path = write_cluster_tables([table], tmp_path / "run")
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
    table = table_of([("a", 0, 0, 1.0)], manifest_table(["a"]))
    write_cluster_tables([table], tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_cluster_tables([table], tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


texts = st.one_of(st.none(), st.text(max_size=6), st.text("\"',;\r\n\t\0\x1b\u2028-=", max_size=6))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(texts, texts, st.one_of(st.none(), st.integers(-1, 9))), max_size=6))
def test_any_text_comes_back_from_csv(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str | None, str | None, int | None]]
) -> None:
    schema = pa.schema([("id", pa.string()), ("name", pa.string()), ("cluster", pa.int32())])
    table = pa.table([pa.array(column) for column in zip(*rows, strict=True)] or [[], [], []], schema=schema)
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    write_table(table, path)
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            schema.names,
            *[["" if cell is None else str(cell) for cell in row] for row in rows],
        ]
    options = pa_csv.ConvertOptions(column_types=schema, strings_can_be_null=True, quoted_strings_can_be_null=False)
    parse = pa_csv.ParseOptions(newlines_in_values=True)
    assert pa_csv.read_csv(path, parse_options=parse, convert_options=options).equals(table)


def test_cells_that_a_spreadsheet_would_run_are_marked_on_request(tmp_path: Path) -> None:
    ids = ["-dash", "=1+1", "+plus", "@at", "\ttab", "\rreturn", "\nline\n=1", "plain", "'quoted", "", "1-2"]
    table = pa.table({"id": ids, "name": [None, *ids[1:]], "cluster": pa.array([-1] * 11, pa.int32())})
    write_table(table, tmp_path / "safe.csv", spreadsheet_safe=True)
    with (tmp_path / "safe.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"'{clip_id}" for clip_id in ids[:6]] + ids[6:]
    assert [row["name"] for row in rows] == ["", *[f"'{clip_id}" for clip_id in ids[1:6]], *ids[6:]]
    assert {row["cluster"] for row in rows} == {"-1"}


def test_heads_are_written_one_after_the_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    ids = [f"clip{i}" for i in range(20)]
    rows = [(i, head, int(rng.integers(4)), round(rng.random(), 1)) for head in range(3) for i in ids]
    whole, tables = all_heads(rows, manifest_table(ids)), ClusterTables(labels_of(rows), manifest_table(ids))
    parquet_path, csv_path = write_cluster_tables(map(tables.of_head, range(3)), tmp_path)
    write_table(whole, tmp_path / "whole.csv")
    assert pq.read_table(parquet_path).equals(whole)
    assert csv_path.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_the_twins_differ_only_where_the_spreadsheet_asks_for_it(tmp_path: Path) -> None:
    table = table_of([("-a", 0, 0, 1.0)], manifest_table(["-a"]))
    parquet_path, csv_path = write_cluster_tables([table], tmp_path, spreadsheet_safe=True)
    assert pq.read_table(parquet_path).equals(table)
    assert csv_path.read_text().splitlines()[1].startswith('"\'-a","media/-a",0,0,0,,1,')


def test_nearest_clusters_are_columns_in_csv_and_a_list_in_parquet(tmp_path: Path) -> None:
    struct = pa.struct([("cluster", pa.int32()), ("probability", pa.float32())])
    nearest = [[{"cluster": 7, "probability": 0.25}, {"cluster": 2, "probability": 0.125}], [{"cluster": 1}, {}]]
    table = pa.table({"id": ["a", "b"], "nearest": pa.array(nearest, pa.list_(struct))})
    write_table(table, tmp_path / "table.parquet")
    assert pq.read_table(tmp_path / "table.parquet").equals(table)
    write_table(table, tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text().splitlines() == [
        '"id","nearest_1","probability_1","nearest_2","probability_2"',
        '"a",7,0.25,2,0.125',
        '"b",1,,,',
    ]
    write_table(table.slice(0, 0), tmp_path / "empty.csv")
    assert (tmp_path / "empty.csv").read_text() == '"id"\n'


def test_other_files_than_parquet_and_csv_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends with \.parquet or \.csv, got .*table\.xlsx"):
        write_table(pa.table({"id": ["a"]}), tmp_path / "table.xlsx")
    with pytest.raises(ValueError, match="spreadsheet_safe is for CSV"):
        write_table(pa.table({"id": ["a"]}), tmp_path / "table.parquet", spreadsheet_safe=True)
    assert not list(tmp_path.iterdir())


def test_rows_are_moved_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    ids = [f"clip{i}" for i in range(20)]
    rows = [(i, head, int(rng.integers(4)), round(rng.random(), 1)) for head in range(2) for i in ids]
    whole = all_heads(rows, manifest_table(ids))
    monkeypatch.setattr(export, "_ROWS_AT_ONCE", 7)
    assert all_heads(rows, manifest_table(ids)).equals(whole)
    assert rank_clips(whole.take(rng.permutation(40))).equals(whole)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=30, deadline=None)
def test_rows_come_by_head_cluster_confidence_and_id(seed: int, has_many_clusters: bool) -> None:
    rng = np.random.default_rng(seed)
    ids = [f"clip {number}" for number in rng.permutation(12)]  # "clip 10" is before "clip 2"
    most = 70_000 if has_many_clusters else 3
    rows = [(i, head, int(rng.integers(3)) * (most // 3), float(rng.integers(-1, 3))) for head in range(3) for i in ids]
    rows = [rows[place] for place in rng.permutation(len(rows))]
    table = all_heads(rows, manifest_table(ids))
    expected = sorted(rows, key=lambda row: (row[1], row[2], -row[3], row[0]))
    assert [
        *zip(*(table[name].to_pylist() for name in ("id", "head", "cluster", "confidence")), strict=True)
    ] == expected
    assert table["path"].to_pylist() == [f"media/{row[0]}" for row in expected]
