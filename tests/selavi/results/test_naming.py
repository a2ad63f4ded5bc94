import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selavi.errors import UsageError
from selavi.results.cluster_table import CLUSTER_SCHEMA
from selavi.results.naming import COLUMNS, Names, apply_names, read_names, write_names

HEADER = "head,cluster,id,name,into,rejected\n"


def names_of(tmp_path: Path, text: str) -> Names:
    path = tmp_path / "names.csv"
    path.write_text(HEADER + text, encoding="utf-8", newline="")
    return read_names(path)


def cluster_table(rows: list[tuple[str, int, int, float]]) -> pa.Table:
    """Rows of (id, head, cluster, confidence)."""
    confidence = [row[3] for row in rows]
    columns: dict[str, Any] = {
        "id": [row[0] for row in rows],
        "path": [f"media/{row[0]}" for row in rows],
        "start_s": [0.0] * len(rows),
        "head": [row[1] for row in rows],
        "cluster": [row[2] for row in rows],
        "name": [None] * len(rows),
        "confidence": confidence,
        "margin": confidence,
        "entropy": confidence,
        "rank_in_cluster": [0] * len(rows),
        "modality_agreement": [None] * len(rows),
        "label": [f"label of {row[0]}" for row in rows],
        "end_s": [2.0] * len(rows),
    }
    return pa.table(columns, schema=CLUSTER_SCHEMA)


def found(table: pa.Table) -> list[tuple[Any, ...]]:
    assert table.schema.equals(CLUSTER_SCHEMA)
    columns = ("id", "head", "cluster", "name", "rank_in_cluster")
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


CLIPS = cluster_table(
    [
        ("a", 0, 0, 0.9),
        ("b", 0, 0, 0.5),
        ("c", 0, 1, 0.7),
        ("d", 0, 2, 0.8),
        ("a", 1, 2, 0.3),
        ("b", 1, 0, 0.4),
        ("c", 1, 0, 0.4),
        ("d", 1, 1, 0.1),
    ]
)


def test_names_belong_to_one_head(tmp_path: Path) -> None:
    table = apply_names(CLIPS, names_of(tmp_path, "0,0,,dog,,\n1,2,,bell,,\n0,99,,nobody,,\n5,0,,no such head,,\n"))
    assert found(table) == [
        ("a", 0, 0, "dog", 0),
        ("b", 0, 0, "dog", 1),
        ("c", 0, 1, None, 0),
        ("d", 0, 2, None, 0),
        ("b", 1, 0, None, 0),
        ("c", 1, 0, None, 1),
        ("d", 1, 1, None, 0),
        ("a", 1, 2, "bell", 0),
    ]


def test_merges_are_followed_to_their_end_and_ranks_are_renewed(tmp_path: Path) -> None:
    table = apply_names(CLIPS, names_of(tmp_path, "0,0,,dog,1,\n0,1,,,2,\n0,2,,animal,,\n"))
    assert found(table)[:4] == [
        ("a", 0, 2, "animal", 0),
        ("d", 0, 2, "animal", 1),
        ("c", 0, 2, "animal", 2),
        ("b", 0, 2, "animal", 3),
    ]
    assert found(table)[4:] == [
        ("b", 1, 0, None, 0),
        ("c", 1, 0, None, 1),
        ("d", 1, 1, None, 0),
        ("a", 1, 2, None, 0),
    ]


def test_a_clip_moves_to_another_or_to_a_new_cluster_and_merges_follow_it(tmp_path: Path) -> None:
    edits = "0,0,a,,1,\n0,1,,,2,\n0,0,b,,300,\n0,300,,puppy,,\n1,0,b,,1,\n"
    assert found(apply_names(CLIPS, names_of(tmp_path, edits))) == [
        ("a", 0, 2, None, 0),
        ("d", 0, 2, None, 1),
        ("c", 0, 2, None, 2),
        ("b", 0, 300, "puppy", 0),
        ("c", 1, 0, None, 0),
        ("b", 1, 1, None, 0),
        ("d", 1, 1, None, 1),
        ("a", 1, 2, None, 0),
    ]


def test_rejected_clips_and_clusters_have_no_cluster_and_no_name(tmp_path: Path) -> None:
    edits = "0,0,a,,,1\n0,1,,noise,,1\n0,2,,,1,\n0,0,,dog,,\n"
    assert found(apply_names(CLIPS, names_of(tmp_path, edits)))[:4] == [
        ("a", 0, -1, None, 0),
        ("d", 0, -1, None, 1),
        ("c", 0, -1, None, 2),
        ("b", 0, 0, "dog", 0),
    ]


def test_a_clip_that_was_moved_out_outlives_its_rejected_cluster(tmp_path: Path) -> None:
    table = apply_names(CLIPS, names_of(tmp_path, "0,0,,,,1\n0,0,b,,2,\n0,1,c,,0,\n"))
    assert [(row[0], row[2]) for row in found(table)[:4]] == [("a", -1), ("c", -1), ("d", 2), ("b", 2)]


def test_no_rows_change_nothing(tmp_path: Path) -> None:
    table = apply_names(CLIPS, names_of(tmp_path, "0,1,,,,\n0,1,c,,,\n1,2,z,,7,\n"))
    assert found(table)[:4] == [("a", 0, 0, None, 0), ("b", 0, 0, None, 1), ("c", 0, 1, None, 0), ("d", 0, 2, None, 0)]
    assert table.select(["label", "confidence"]).slice(0, 4).equals(CLIPS.select(["label", "confidence"]).slice(0, 4))
    assert apply_names(CLIPS.slice(0, 0), Names([])).num_rows == 0


def test_rows_about_a_clip_in_another_cluster_are_refused(tmp_path: Path) -> None:
    names = names_of(tmp_path, "0,0,a,,1,\n0,1,d,,,1\n")
    with pytest.raises(UsageError, match=r"speak of 1 clips .* 'd' in cluster 1 of head 0, which is in 2: they belong"):
        apply_names(CLIPS, names)


def test_columns_beyond_the_schema_stay(tmp_path: Path) -> None:
    extra = pa.array([[{"cluster": i}] for i in range(8)])
    table = apply_names(CLIPS.append_column("nearest", extra), names_of(tmp_path, "0,0,,,2,\n"))
    assert [row["nearest"][0]["cluster"] for row in table.to_pylist()] == [2, 0, 3, 1, 5, 6, 7, 4]


def test_names_of_a_head_and_final_clusters(tmp_path: Path) -> None:
    names = names_of(tmp_path, "0,0,,,5,\n0,5,,,2,\n0,2,,dog,,\n0,1,,x,3,\n0,3,,,,1\n0,7,a,,1,\n1,0,,cat,,\n")
    clusters = np.array([[0, 1, 2], [3, 4, -1]], np.int32)
    final = names.final_cluster(0, clusters)
    assert final.tolist() == [[2, -1, 2], [-1, 4, -1]] and final.dtype == np.int32
    assert names.final_cluster(1, clusters).tolist() == clusters.tolist()
    assert [names.name(0, 2), names.name(0, 0), names.name(1, 0), names.name(9, 0)] == ["dog", None, "cat", None]
    head = names.of(0)
    assert (head.name, head.into, head.rejected) == ({2: "dog", 1: "x"}, {0: 5, 5: 2, 1: 3}, {3})
    assert head.clips == {"a": (7, 1)} and names.of(9).name == {}
    assert [head.final(cluster) for cluster in (0, 1, 2, 4)] == [2, -1, 2, 4]


def test_rows_are_as_the_page_wants_them(tmp_path: Path) -> None:
    assert names_of(tmp_path, '0,12,,"a ""dog""",,\r\n\r\n0,7,x,,300,\r\n1,3,y,,,1').rows == [
        {"head": 0, "cluster": 12, "id": None, "name": 'a "dog"', "into": None, "rejected": False},
        {"head": 0, "cluster": 7, "id": "x", "name": "", "into": 300, "rejected": False},
        {"head": 1, "cluster": 3, "id": "y", "name": "", "into": None, "rejected": True},
    ]


def test_columns_in_any_order_some_left_out_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_bytes(b"\xef\xbb\xbfname,cluster,head\r\nH\xc3\xbcnd,3,0\r\n")
    assert read_names(path).of(0).name == {3: "Hünd"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,x,,dog,,\n", r"line 2, column cluster: expected a whole number from 0 to 2147483647, got 'x'"),
        ("0,1,,dog,,\n-1,2,,,,\n", r"line 3, column head: expected a whole number .* got '-1'"),
        ("0,1.0,,dog,,\n", r"line 2, column cluster: .* got '1\.0'"),
        ("0,٣,,dog,,\n", r"line 2, column cluster: .* got '٣'"),
        ("0,2147483648,,dog,,\n", r"line 2, column cluster: .* got '2147483648'"),
        ("0,1,,dog,0x2,\n", r"line 2, column into: .* got '0x2'"),
        ("0,1,,dog,,yes\n", r"line 2, column rejected: expected 1 or nothing, got 'yes'"),
        ("0,1,,dog,\n", r"line 2: expected 6 cells, found 5"),
        ("0,1,,dog,,,x\n", r"line 2: expected 6 cells, found 7"),
        ('0,1,,"dog\n\nor cat",,\n\n0,1,,cat,,\n', r"line 6, column cluster: a second row about cluster 1 .* line 2"),
        ("0,1,a,,2,\n0,3,a,,,1\n", r"line 3, column id: a second row about clip 'a' of head 0; the first is line 2"),
        ("0,1,a,dog,2,\n", r"line 2, column name: expected nothing in a row about one clip, got 'dog'"),
        ("0,1,,,2,1\n", r"line 2, column rejected: cluster 1 cannot both be rejected and go into cluster 2"),
        ("0,1,a,,2,1\n", r"line 2, column rejected: clip 'a' cannot both"),
        ("0,1,,,1,\n", r"line 2, column into: merges of head 0 lead back to where they begin: 1 -> 1"),
        ("1,3,,,1,\n0,3,,,1,\n1,1,,,2,\n1,2,,,3,\n1,9,,,2,\n", r"line 5, column into: .* head 1 .*: 3 -> 1 -> 2 -> 3"),
        ('0,1,,"dog,,\n', r"line 2: not a row of CSV"),
        ('0,1,,"dog"s,,\n', r"line 2: not a row of CSV"),
    ],
)  # fmt: skip
def test_a_wrong_cell_is_named_by_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        names_of(tmp_path, text)


def test_as_a_spreadsheet_saves_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "names.csv"
    text = "head;cluster;id;name;into;rejected;\r\n0;1;;dog;;FALSE;\r\n0;2;a.mp4;;;TRUE;\r\n;;;;;;\r\n;;;;;;\r\n"
    path.write_bytes(text.encode("utf-8-sig"))
    expected = [
        {"head": 0, "cluster": 1, "id": None, "name": "dog", "into": None, "rejected": False},
        {"head": 0, "cluster": 2, "id": "a.mp4", "name": "", "into": None, "rejected": True},
    ]
    assert read_names(path).rows == expected
    assert "read as cells between semicolons" in caplog.text
    assert "2 empty rows left out, from line 4 on" in caplog.text
    path.write_bytes(text.replace(";", "\t").encode("utf-16"))
    assert read_names(path).rows == expected


def test_an_id_in_another_unicode_form_is_the_same_clip(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = cluster_table([("caf\u00e9.mp4", 0, 1, 0.9), ("b.mp4", 0, 2, 0.8)])
    names = names_of(tmp_path, "0,1,cafe\u0301.mp4,,2,\n0,2,B.mp4,,,1\n")
    assert apply_names(table, names)["cluster"].to_pylist() == [2, 2]
    assert "'B.mp4' is there as 'b.mp4' (they differ in case)" in caplog.text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"line 1: expected the columns head,cluster,id,name,into,rejected; missing: 'head', 'cluster'"),
        (b"head|cluster|id\n0|1|a\n", r"unknown: 'head\|cluster\|id'; missing: 'head', 'cluster'"),
        (b"head,cluster,colour,name,name\n", r"unknown: 'colour'; twice: 'name'"),
        (b"head,cluster,name\n0,1,dog\n0,2,h\xfcnd\n", r"line 3: expected UTF-8, found the byte 0xfc"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "names.csv"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=message):
        read_names(path)
    with pytest.raises(UsageError, match=r"nowhere cannot be read: No such file"):
        read_names(tmp_path / "nowhere")


def test_names_made_in_code_are_checked_too() -> None:
    row = {"head": 0, "cluster": 1, "id": None, "name": "", "into": 1, "rejected": False}
    with pytest.raises(UsageError, match="row 1 of the names, column into: merges of head 0 lead back"):
        Names([row])


texts = st.text(st.characters(codec="utf-8"), max_size=12)
numbers = st.integers(0, 40)
rows = st.builds(
    lambda head, cluster, clip_id, name, into, rejected: {
        "head": head,
        "cluster": cluster,
        "id": clip_id or None,
        "name": "" if clip_id else name,
        "into": None if rejected else into,
        "rejected": rejected,
    },
    st.integers(0, 2),
    numbers,
    texts,
    texts,
    st.one_of(st.none(), st.integers(100, 120)),  # never itself merged: no ring
    st.booleans(),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(rows, max_size=20, unique_by=lambda row: (row["head"], row["id"] or row["cluster"])))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, some: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("names") / "names.csv"
    write_names(Names(some), path)
    assert read_names(path) == Names(some)
    with path.open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == list(COLUMNS)


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, numbers), max_size=30, unique_by=lambda pair: pair[0]))
def test_merges_end_or_are_refused(pairs: list[tuple[int, int]]) -> None:
    """Against the definition: a map ends everywhere exactly where 41 steps lead to a fixed point."""
    step = dict(pairs)
    ends = {}
    for cluster in range(41):
        at = cluster
        for _ in range(42):
            at = step.get(at, at)
        ends[cluster] = at
    some = [{"head": 3, "cluster": a, "id": None, "name": "", "into": b, "rejected": False} for a, b in pairs]
    if any(end in step for end in ends.values()):
        with pytest.raises(UsageError, match="lead back"):
            Names(some)
    else:
        clusters = np.arange(41)
        assert Names(some).final_cluster(3, clusters).tolist() == [ends[cluster] for cluster in range(41)]
