"""A manifest may come from anybody: nothing outside of its root is named, and a file is known by its size and time."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selavi.errors import UsageError
from selavi.guarded.parquet import write_parquet
from selavi.media import MediaError
from selavi.runs.manifest import ANY_TIME, PREPARED, SCHEMA, TIME_ZERO, read_manifest, require_unchanged


def manifest(root: Path, **changes: Any) -> pa.Table:
    row = {
        "id": "a.mp4",
        "path": "a.mp4",
        "split": "train",
        "status": "ok",
        "duration_s": 2.0,
        "bytes": 3,
        "mtime_ns": 5,
    }
    rows = [row, row | {"id": "b.mp4", "path": "b.mp4"} | changes]
    return pa.Table.from_pylist(rows, schema=SCHEMA.with_metadata({"root": str(root)}))


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "..", "../x.mp4", "a/../../x.mp4", "a/..", "./../x", "//x", "", ".", "a\0b", "a/../b/../../c.mp4"],
)
def test_a_path_that_leads_out_is_refused(tmp_path: Path, path: str) -> None:
    write_parquet(manifest(tmp_path, path=path), tmp_path / "m.parquet")
    with pytest.raises(UsageError, match=r"m\.parquet names 1 of 2 files outside of its media folder .*, such as"):
        read_manifest(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    "path", ["..a.mp4", "a..b/c.mp4", "...", "a/...mp4", "-x", "\n.mp4", "ü/🎺.mp4", "a\\..\\b.mp4"]
)
def test_odd_names_are_no_ways_out(tmp_path: Path, path: str) -> None:
    write_parquet(manifest(tmp_path, path=path), tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet")["path"].to_pylist() == ["a.mp4", path]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": None}, "1 rows have no id"),
        ({"path": None}, "1 rows have no path"),
        ({"duration_s": float("nan")}, "1 rows have nan as duration_s"),
        ({"duration_s": float("inf")}, "1 rows have inf as duration_s"),
        ({"audio_s": -1.0}, r"1 rows have -1\.0 as audio_s"),
    ],
)
def test_rows_that_no_scan_writes_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_parquet(manifest(tmp_path, **changes), tmp_path / "m.parquet")
    with pytest.raises(UsageError, match=rf"m\.parquet is damaged: {message}.*: scan the media again"):
        read_manifest(tmp_path / "m.parquet")


def test_other_tables_are_no_manifests(tmp_path: Path) -> None:
    table = manifest(tmp_path)
    pq.write_table(table.drop_columns(["split", "bytes"]), tmp_path / "m.parquet")
    with pytest.raises(UsageError, match="lacks the columns split, bytes: expected a manifest of a scan or of a run"):
        read_manifest(tmp_path / "m.parquet")
    pq.write_table(table.replace_schema_metadata(), tmp_path / "m.parquet")
    with pytest.raises(UsageError, match="does not say where its media are"):
        read_manifest(tmp_path / "m.parquet")
    pq.write_table(table.replace_schema_metadata({"root": b"\xff"}), tmp_path / "m.parquet")
    with pytest.raises(UsageError, match="is no manifest, or it is damaged"):
        read_manifest(tmp_path / "m.parquet")
    words = pa.array(["wide", "wider"])
    pq.write_table(table.set_column(8, "width", words), tmp_path / "m.parquet")
    with pytest.raises(UsageError, match="is no manifest, or it is damaged"):
        read_manifest(tmp_path / "m.parquet")
    pq.write_table(table.append_column("width", words), tmp_path / "m.parquet")
    with pytest.raises(UsageError, match="has the column width more than once"):
        read_manifest(tmp_path / "m.parquet")
    narrow = table.set_column(14, "bytes", pa.array([1, 2], pa.int32()))
    pq.write_table(narrow, tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet")["bytes"].type == pa.int64()


def test_a_time_that_is_not_known_counts_where_selavi_made_the_folder(tmp_path: Path) -> None:
    write_parquet(manifest(tmp_path, mtime_ns=ANY_TIME), tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet")["mtime_ns"].to_pylist() == [5, TIME_ZERO]
    (tmp_path / PREPARED).touch()
    assert read_manifest(tmp_path / "m.parquet")["mtime_ns"].to_pylist() == [5, ANY_TIME]


def test_a_file_is_known_by_its_size_and_its_time(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"abc")
    os.utime(path, ns=(7, 1_234_567_891))
    require_unchanged(path, 3, 1_234_567_891)
    require_unchanged(path, 3, ANY_TIME)
    for num_bytes, mtime_ns in ((4, ANY_TIME), (4, 1_234_567_891), (3, 1_234_567_890), (3, TIME_ZERO)):
        with pytest.raises(MediaError, match="changed"):
            require_unchanged(path, num_bytes, mtime_ns)
    os.utime(path, ns=(0, 0))
    require_unchanged(path, 3, TIME_ZERO)
    with pytest.raises(MediaError, match="vanished"):
        require_unchanged(tmp_path / "none.mp4", 3, ANY_TIME)
